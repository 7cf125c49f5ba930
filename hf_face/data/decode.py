"""Decodes images to uint8 arrays, at the speed of the JPEG decoder.

simplejpeg (libjpeg-turbo) decodes JPEG images directly into the batch. It returns the same pixels as Pillow at more
than twice the speed, and is faster than torchvision.io, which has deprecated its decoders since 0.29. Anything else
(other formats, images to be turned, damaged files) is left to Pillow, which has the final say.
"""

import math
import os
from contextlib import suppress
from pathlib import Path

import fsspec
import numpy as np
import simplejpeg
import torch
from PIL import Image
from torch import Tensor
from torch.nn.functional import interpolate
from torch.utils.data import get_worker_info

from ..models.pixels import DAMAGE, decode_image, rgb_pixels, warn_of_photograph

SCRATCH_BYTES = 3 * 2048 * 2048
# Storage is aligned to at least 64 bytes. libjpeg-turbo bypasses the cache for rows that start at a multiple of 32,
# which makes decoding a crop a quarter slower.
MISALIGNMENT = 8
ARCHIVES = {"bz2", "gzip", "lz4", "tar", "xz", "zip", "zstd"}  # fsspec's and datasets' names
APP1, START_OF_SCAN = 0xE1, 0xDA  # JPEG's markers of an Exif or XMP segment, and of the pixels


class UndecodableImageError(ValueError):
    """Raised for an image that is missing or that no decoder can read; the message says which one."""


def empty_batch(batch_size: int, image_size: int) -> Tensor:
    """An uninitialized uint8 tensor (batch_size, image_size, image_size, 3).

    In a `DataLoader` worker it is in shared memory, so that the main process receives it without a copy.
    """
    shape = (batch_size, image_size, image_size, 3)
    num_bytes = MISALIGNMENT + math.prod(shape)
    in_worker = get_worker_info() is not None
    storage = torch.UntypedStorage._new_shared(num_bytes) if in_worker else torch.UntypedStorage(num_bytes)
    return torch.tensor([], dtype=torch.uint8).set_(storage, MISALIGNMENT, shape)  # type: ignore[call-overload]  # contiguous: no strides needed


class ImageDecoder:
    """Decodes images directly into a batch, resizing (antialiased bilinear) only those of another size.

    Args:
        image_size: Height and width of the output, in pixels.
    """

    def __init__(self, image_size: int):
        self.image_size = image_size
        self._scratch = np.empty(SCRATCH_BYTES, dtype=np.uint8)

    def decode_into(self, place: np.ndarray, image: bytes | memoryview | dict | Image.Image | None):
        """Decode `image` into `place` (image_size, image_size, 3), uint8, as RGB.

        Args:
            place: The array to write to.
            image: Encoded bytes or a view of them, an undecoded `datasets.Image` value (`{"bytes": ..., "path": ...}`),
                or a Pillow image.

        Raises:
            UndecodableImageError: if the image is missing or cannot be decoded.
        """
        if isinstance(image, Image.Image):
            pixels = decode_with_pillow(image)
        else:
            pixels = self._decode(read_bytes(image) if image is None or isinstance(image, dict) else image, place)
        if pixels.shape != place.shape:
            height, width, _ = pixels.shape
            warn_of_photograph(height, width, self.image_size)
            pixels = self._resize(pixels)
        np.copyto(place, pixels)  # copies nothing if `pixels` is `place`

    def _decode(self, data: bytes | memoryview, place: np.ndarray) -> np.ndarray:
        """RGB (H, W, 3), in `place` if it has that size."""
        if is_upright_jpeg(data):
            for buffer in (place, self._scratch):
                with suppress(ValueError):  # larger than the buffer, or incomplete
                    return simplejpeg.decode_jpeg(data, "RGB", buffer=buffer)
        return decode_with_pillow(data)

    def _resize(self, pixels: np.ndarray) -> np.ndarray:
        image = torch.from_numpy(pixels).permute(2, 0, 1)[None]
        size = (self.image_size, self.image_size)
        return interpolate(image, size, mode="bilinear", antialias=True)[0].permute(1, 2, 0).numpy()


def is_upright_jpeg(data: bytes | memoryview) -> bool:
    """Whether the segments of a JPEG, up to its first scan, state no orientation, which only Pillow applies."""
    at = 2
    while at + 4 <= len(data) and data[at] == 0xFF:
        marker = data[at + 1]
        if marker == START_OF_SCAN:
            return True
        if marker == 0xFF:  # fill byte
            at += 1
            continue
        end = at + 2 + (data[at + 2] << 8 | data[at + 3])
        if marker == APP1:
            segment = bytes(data[at + 4 : end])
            if b"Exif" in segment or b"tiff:Orientation" in segment:
                return False
        at = end
    return False


def decode_with_pillow(image: bytes | memoryview | Image.Image) -> np.ndarray:
    """Decode any format that Pillow reads, or convert a Pillow image, to upright RGB (H, W, 3) uint8."""
    try:
        return rgb_pixels(image) if isinstance(image, Image.Image) else decode_image(image)
    except DAMAGE as error:
        what = f"{image.mode} image" if isinstance(image, Image.Image) else f"image of {len(image)} bytes"
        raise UndecodableImageError(f"cannot decode {what}: {error}") from error


def read_bytes(image: dict | None) -> bytes:
    """The encoded bytes of an undecoded `datasets.Image` value, read from its file if it holds only a path."""
    if image is None or (image["bytes"] is None and image["path"] is None):
        raise UndecodableImageError("image is missing (null)")
    if image["bytes"] is not None:
        return image["bytes"]
    path = image["path"]
    try:
        if os.path.isfile(path):
            return Path(path).read_bytes()
        _check_url(path)
        with fsspec.open(path, "rb") as file:
            return file.read()
    except OSError as error:
        raise UndecodableImageError(f"cannot read image file: {error}") from error


def _check_url(path: str):
    """Admit only paths of streamed datasets, such as zip://a.jpg::hf://...: other schemes may run code or call home."""
    *archives, source = path.split("::")
    schemes = [part.partition("://")[0] for part in archives if "://" in part]
    known = len(schemes) == len(archives) and ARCHIVES.issuperset(schemes)
    if not (known and (source.startswith("hf://") or (archives and os.path.isfile(source)))):
        raise UndecodableImageError(
            f"cannot read image file: {path!r} is neither an existing file nor on the Hub (hf://), nor in an archive "
            f"({', '.join(sorted(ARCHIVES))}) there. Download it first"
        )
