"""Any image as upright RGB pixels of 8 bits: one rule for the data loader, the embedder and the image processor."""

import base64
import binascii
import io
import os
import struct
import warnings
from functools import cache
from pathlib import Path
from typing import Any

import httpx
import numpy as np
from PIL import ExifTags, Image, UnidentifiedImageError

# Exif orientation -> transposition. PIL.ImageOps.exif_transpose also rewrites the Exif data, which fails for some valid
# images.
TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
# Pillow hands EPS to the interpreter Ghostscript, which should not run on strangers' files. Of the others it reads the
# header only, and leaves the pixels to a plugin or to Windows.
UNFIT_FORMATS = {"BUFR", "EPS", "GRIB", "HDF5", "MPEG", "WMF"}
HEIC_BRANDS = {b"heic", b"heix", b"heim", b"heis", b"hevc", b"mif1", b"msf1"}  # of phones' photographs
WITHOUT_PREMULTIPLIED_ALPHA = {"La": "LA", "RGBa": "RGBA"}
# A byte of JPEG holds at most 512 pixels, a byte of the other formats' plain areas hardly more. An image that claims
# more, and is too large to be harmless, has a forged header.
MAX_PIXELS_PER_BYTE = 2048
HARMLESS_PIXELS = 2048 * 2048
MOST_OBLONG_CROP = 1.3  # longer to shorter side; photographs are 4:3 or more
LARGEST_CROP = 4  # times the model's input
DAMAGE = (  # what Pillow's readers raise for damaged files and unsupported variants
    EOFError,
    Image.DecompressionBombError,
    OSError,
    RuntimeError,
    SyntaxError,
    TypeError,
    ValueError,
    struct.error,
)


def readable_formats() -> list[str]:
    """Pillow's names of the formats that it reads on its own, and of those that plugins have added."""
    Image.init()
    return [name for name in Image.ID if name not in UNFIT_FORMATS]


@cache
def image_suffixes() -> frozenset[str]:
    """The suffixes of their files, in lower case and with the dot."""
    formats = set(readable_formats())
    return frozenset(suffix for suffix, name in Image.EXTENSION.items() if name in formats)


def read_photograph(image: Any, timeout: float | None = None) -> np.ndarray:
    """
    Read an image in any form that a user may have it in.

    Args:
        image: A path, URL, data URL, the file's bytes, an undecoded value of `datasets.Image`
            (`{"bytes": ..., "path": ...}`), a Pillow image, or an array `(height, width)` or
            `(height, width, channels)` of gray values, RGB or RGBA.
        timeout: Seconds to wait for a URL; without limit by default.

    Returns:
        Upright RGB (H, W, 3), uint8; see [`rgb_pixels`]. The first frame of an animation.

    Raises:
        FileNotFoundError: if the file does not exist.
        ValueError: if it is not an image or damaged, or its URL cannot be read; the message names it.
    """
    if isinstance(image, dict):
        image = image.get("path") if image.get("bytes") is None else image["bytes"]
    name = name_of(image)
    if not isinstance(image, Image.Image | np.ndarray | bytes | bytearray | memoryview | str | os.PathLike):
        raise ValueError(f"{name} is not an image: expected a path, URL, bytes, array or Pillow image.")
    try:
        if isinstance(image, Image.Image):
            pixels = rgb_pixels(image)
        elif isinstance(image, np.ndarray):
            pixels = _pixels_of_array(image)
        else:
            pixels = decode_image(_read_file(image, timeout) if isinstance(image, str | os.PathLike) else image)
        if not pixels.size:
            raise ValueError("it has no pixels")
        return pixels
    except FileNotFoundError:
        raise
    except DAMAGE as error:
        raise ValueError(f"{name} is not an image, or damaged: {error}") from error


def _pixels_of_array(image: np.ndarray) -> np.ndarray:
    if image.ndim not in (2, 3) or image.shape[2:] > (4,):
        raise ValueError("expected (height, width) or (height, width, channels), with at most 4 channels")
    if image.dtype == np.uint8 and image.shape[2:] == (3,):
        return image
    return rgb_pixels(Image.fromarray(eight_bits(image.squeeze(-1) if image.shape[2:] == (1,) else image)))


def name_of(image: Any) -> str:
    """How messages name an image: its path or URL, or what it is."""
    if isinstance(image, dict):
        image = image.get("path") or image.get("bytes")
    if isinstance(image, Image.Image):
        image = vars(image).get("filename") or image
    if isinstance(image, str | os.PathLike):
        text = os.fspath(image)
        return (text or "''") if len(text) <= 200 else f"{text[:100]}..."
    if isinstance(image, bytes | bytearray | memoryview):
        return f"the file of {len(image)} bytes"
    if isinstance(image, np.ndarray):
        return f"the array of shape {image.shape}"
    return f"the {type(image).__name__}"


def _read_file(name: str | os.PathLike, timeout: float | None) -> bytes:
    text = os.fspath(name)
    if text.lower().startswith(("http://", "https://")):
        try:
            return httpx.get(text, timeout=timeout, follow_redirects=True).raise_for_status().content
        except (httpx.HTTPError, httpx.InvalidURL) as error:
            raise ValueError(f"it could not be downloaded ({error})") from error
    if text.startswith("data:"):
        try:
            return base64.b64decode(text.partition(",")[2], validate=True)
        except binascii.Error as error:
            raise ValueError(f"it is not base64 ({error})") from error
    return Path(text).read_bytes() if text else b""


def decode_image(data: bytes | bytearray | memoryview) -> np.ndarray:
    """
    Decode a file of any format that Pillow reads.

    Args:
        data: The file's bytes.

    Returns:
        Upright RGB (H, W, 3), uint8; see [`rgb_pixels`].

    Raises:
        ValueError: if the image claims more pixels than its bytes can hold or than `PIL.Image.MAX_IMAGE_PIXELS`, or if
            its values have no known range. Damaged files raise whatever Pillow's readers raise.
    """
    try:
        opened = Image.open(io.BytesIO(data), formats=readable_formats())
    except UnidentifiedImageError:
        raise ValueError(_unknown_format(data)) from None
    with opened as image:
        _check_claimed_size(*image.size, len(data))
        return rgb_pixels(image)


def _unknown_format(data: bytes | bytearray | memoryview) -> str:
    if not len(data):
        return "it is empty"
    if bytes(data[4:8]) == b"ftyp" and bytes(data[8:12]) in HEIC_BRANDS:
        return "it is in HEIC, which Pillow reads once pillow_heif.register_heif_opener() of pillow-heif was called"
    return "it is in no format that Pillow reads"


def rgb_pixels(image: Image.Image) -> np.ndarray:
    """
    Convert an image of any mode to upright RGB (H, W, 3), uint8.

    It is turned as its Exif or XMP orientation says. More than 8 bits are scaled (see [`eight_bits`]), never clipped.
    Transparent areas are white, as in transformers.
    """
    image = upright(image)
    if image.mode in WITHOUT_PREMULTIPLIED_ALPHA:  # nothing else converts from these
        image = image.convert(WITHOUT_PREMULTIPLIED_ALPHA[image.mode])
    if image.has_transparency_data:
        white = Image.new("RGBA", image.size, "white")
        image = Image.alpha_composite(white, image.convert("RGBA"))
    return np.array(image if image.mode == "RGB" else image.convert("RGB"))


def upright(image: Image.Image) -> Image.Image:
    """The image with at most 8 bits a channel, turned as its orientation says."""
    image.load()  # first, since Pillow turns a TIFF on its own and then forgets the orientation
    turn = TURNS.get(image.getexif().get(ExifTags.Base.Orientation))
    if image.mode.startswith(("I", "F")):  # I, I;16 in any byte order, F
        image = Image.fromarray(eight_bits(np.asarray(image)))
    return image if turn is None else image.transpose(turn)


def eight_bits(values: np.ndarray) -> np.ndarray:
    """
    Scale pixels of any type to uint8.

    Wider types do not say what white is, so it is the smallest of 1 (floats), 255 and 65535 that no value exceeds.

    Raises:
        ValueError: if values are negative, above 65535 or not finite.
    """
    if values.dtype == np.uint8:
        return values
    if values.dtype == bool:
        return values * np.uint8(255)
    if not values.size:
        return values.astype(np.uint8)
    low, high = values.min(), values.max()
    if not 0 <= low <= high <= 65535:  # false for NaN too
        raise ValueError(
            f"pixels of type {values.dtype} must lie in 0..255 or 0..65535, or floats in 0..1, found {low} to {high}. "
            "Scale them to 8 bits first"
        )
    whites = (255, 65535) if np.issubdtype(values.dtype, np.integer) else (1, 255, 65535)
    white = next(white for white in whites if high <= white)
    return np.rint(values * (255 / white)).astype(np.uint8)


def warn_of_photograph(height: int, width: int, image_size: int) -> None:
    """Warn of an image that is unlikely to be an aligned crop, as a model with crops of `image_size` expects."""
    shorter, longer = sorted((height, width))
    if longer > MOST_OBLONG_CROP * shorter or longer > LARGEST_CROP * image_size:
        warnings.warn(
            f"An image is far from square, or more than {LARGEST_CROP} times as large as the {image_size} x "
            f"{image_size} crops that the model takes. Its embedding says little if it is a photograph rather than an "
            'aligned crop: pipeline("face-embedding") finds and aligns the faces in photographs.',
            stacklevel=3,
        )


def _check_claimed_size(width: int, height: int, num_bytes: int):
    pixels = width * height
    if pixels > max(HARMLESS_PIXELS, MAX_PIXELS_PER_BYTE * num_bytes):
        raise ValueError(f"its header claims {width} x {height} pixels, which {num_bytes} bytes cannot hold")
    if Image.MAX_IMAGE_PIXELS is not None and pixels > Image.MAX_IMAGE_PIXELS:
        raise ValueError(
            f"it has {width} x {height} pixels, more than PIL.Image.MAX_IMAGE_PIXELS = {Image.MAX_IMAGE_PIXELS}"
        )
