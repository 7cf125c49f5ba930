"""Encoded images to uint8 arrays, at the speed of the JPEG decoder.

JPEG goes through simplejpeg: libjpeg-turbo, straight into its place in the batch. It gives the same pixels as Pillow at
more than twice its rate, and is faster than torchvision.io, whose decoders are deprecated since 0.29. What simplejpeg
declines (PNG and other formats, broken files) goes through Pillow, whose word is final.
"""

import io
import math
import struct

import fsspec
import numpy as np
import simplejpeg
import torch
from PIL import ExifTags, Image
from torch import Tensor
from torch.nn.functional import interpolate
from torch.utils.data import get_worker_info

SCRATCH_BYTES = 3 * 2048 * 2048
# Storage is aligned to 64 bytes at least. Rows that begin at a multiple of 32 are written past the cache by
# libjpeg-turbo, with which the decoding of a crop takes a quarter longer.
MISALIGNMENT = 8


class UndecodableImageError(ValueError):
    """An image that is missing or that no decoder can read; the message says which one."""


def empty_batch(batch_size: int, image_size: int) -> Tensor:
    """uint8 (batch_size, image_size, image_size, 3), uninitialized.

    In a `DataLoader`'s worker it lies in shared memory, so that the main process gets it without a copy.
    """
    shape = (batch_size, image_size, image_size, 3)
    num_bytes = MISALIGNMENT + math.prod(shape)
    in_worker = get_worker_info() is not None
    storage = torch.UntypedStorage._new_shared(num_bytes) if in_worker else torch.UntypedStorage(num_bytes)
    return torch.empty(0, dtype=torch.uint8).set_(storage, MISALIGNMENT, shape)


class ImageDecoder:
    """Decodes images into their places in a batch, resizing (antialiased bilinear) only those of another size.

    Args:
        image_size: Height and width of the output, in pixels.
    """

    def __init__(self, image_size: int):
        self.image_size = image_size
        self._scratch = np.empty(SCRATCH_BYTES, dtype=np.uint8)

    def decode_into(self, place: np.ndarray, image: bytes | memoryview | dict | Image.Image | None):
        """Write `image` into `place` (image_size, image_size, 3), uint8, as RGB.

        Args:
            place: Written to.
            image: Encoded bytes or a view of them, a `datasets.Image` value that was not decoded (`{"bytes": ...,
                "path": ...}`), or a Pillow image.

        Raises:
            UndecodableImageError: the image is missing or cannot be decoded.
        """
        if isinstance(image, Image.Image):
            pixels = np.array(image.convert("RGB"))
        else:
            pixels = self._decode(read_bytes(image) if image is None or isinstance(image, dict) else image, place)
        if pixels.shape != place.shape:
            pixels = self._resize(pixels)
        np.copyto(place, pixels)  # copies nothing where `pixels` is `place`

    def _decode(self, data: bytes | memoryview, place: np.ndarray) -> np.ndarray:
        """RGB (H, W, 3), in `place` if it has that size."""
        if b"Exif" in bytes(data[:64]):  # it may hold an orientation, which only Pillow follows
            return decode_with_pillow(data)
        for buffer in (place, self._scratch):
            try:
                return simplejpeg.decode_jpeg(data, "RGB", buffer=buffer)
            except ValueError:  # larger than the buffer, not a JPEG, or not a whole one
                continue
        return decode_with_pillow(data)

    def _resize(self, pixels: np.ndarray) -> np.ndarray:
        image = torch.from_numpy(pixels).permute(2, 0, 1)[None]
        size = (self.image_size, self.image_size)
        return interpolate(image, size, mode="bilinear", antialias=True)[0].permute(1, 2, 0).numpy()


# Exif orientation -> how to turn the image. PIL.ImageOps.exif_transpose also writes the Exif data anew, which fails for
# some photographs that are fine.
TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
# what Pillow's readers raise for files that are damaged or of a variant they do not know
DAMAGE = (
    EOFError,
    Image.DecompressionBombError,
    OSError,
    RuntimeError,
    SyntaxError,
    TypeError,
    ValueError,
    struct.error,
)


def decode_with_pillow(data: bytes | memoryview) -> np.ndarray:
    """Any format that Pillow reads, to RGB (H, W, 3) uint8, turned as its Exif orientation says."""
    try:
        with Image.open(io.BytesIO(data)) as image:
            pixels = image.convert("RGB")
            turn = TURNS.get(image.getexif().get(ExifTags.Base.Orientation))
            return np.array(pixels if turn is None else pixels.transpose(turn))
    except DAMAGE as error:
        raise UndecodableImageError(f"{len(data)} bytes that cannot be decoded: {error}") from error


def read_bytes(image: dict | None) -> bytes:
    """The encoded bytes of an undecoded `datasets.Image` value, from its file where the row holds only a path."""
    if image is None or (image["bytes"] is None and image["path"] is None):
        raise UndecodableImageError("it is missing (null)")
    if image["bytes"] is not None:
        return image["bytes"]
    try:
        with fsspec.open(image["path"], "rb") as file:  # streamed data sets have paths like zip://a.jpg::hf://...
            return file.read()
    except OSError as error:
        raise UndecodableImageError(f"its file cannot be read: {error}") from error
