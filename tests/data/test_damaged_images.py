"""Damaged images of every format result in either pixels or an error that is distinguishable from a bug."""

import io

import numpy as np
import pytest
import torch
from PIL import Image, ImageOps, PngImagePlugin

from hf_face.data import FaceCollator, UndecodableImageError

SIZE = 24


def exif() -> Image.Exif:
    exif = Image.Exif()
    exif[0x0112] = 6  # orientation
    exif[0x010E] = "a face"
    exif.get_ifd(0x8769)[0x829A] = (1, 60)  # exposure time
    return exif


def text() -> PngImagePlugin.PngInfo:
    chunks = PngImagePlugin.PngInfo()
    chunks.add_text("Title", "a face", zip=True)
    chunks.add_itxt("Author", "someone", "en", "Author", zip=True)
    return chunks


FORMATS = {
    "JPEG": ("JPEG", {}),
    "progressive JPEG": ("JPEG", {"progressive": True}),
    "JPEG with Exif": ("JPEG", {"exif": exif()}),
    "PNG": ("PNG", {"pnginfo": text(), "exif": exif()}),
    "WebP": ("WEBP", {"exif": exif()}),
    "GIF": ("GIF", {}),
    "BMP": ("BMP", {}),
    "TIFF": ("TIFF", {"compression": "tiff_lzw"}),
    "PPM": ("PPM", {}),
}


def encode(file_format: str, **options) -> bytes:
    corners = np.random.default_rng(0).integers(0, 256, (4, 4, 3), dtype=np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(corners).resize((SIZE, SIZE), Image.Resampling.BICUBIC).save(buffer, file_format, **options)
    return buffer.getvalue()


def survives(data: bytes) -> bool:
    """Whether damaged data is decoded; any error must be ours."""
    try:
        FaceCollator(SIZE)([{"image": data, "label": 0}])
    except UndecodableImageError as error:
        assert f"cannot decode image of {len(data)} bytes" in str(error)
        return False
    return True


@pytest.mark.filterwarnings("ignore")  # Pillow warns of some of it
@pytest.mark.parametrize("name", FORMATS)
def test_damage(name):
    file_format, options = FORMATS[name]
    data = encode(file_format, **options)
    assert survives(data)
    truncated = [survives(data[:length]) for length in range(0, len(data) - 1, 7)]
    assert not any(truncated[: len(truncated) // 2])
    rng = np.random.default_rng(0)
    flipped = []
    for _ in range(150):
        damaged = np.frombuffer(data, dtype=np.uint8).copy()
        places = rng.integers(len(damaged), size=rng.integers(1, 4))
        damaged[places] ^= 1 << rng.integers(8, size=len(places), dtype=np.uint8)
        flipped.append(survives(damaged.tobytes()))
    assert 0 < sum(flipped) < len(flipped)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_every_orientation_is_followed(orientation):
    values = Image.Exif()
    values[0x0112] = orientation
    data = encode("PNG", exif=values)
    expected = ImageOps.exif_transpose(Image.open(io.BytesIO(data)))
    pixels = FaceCollator(SIZE)([{"image": data, "label": 0}])["pixel_values"][0]
    assert np.array_equal(pixels.permute(1, 2, 0), np.asarray(expected))


def test_exif_that_cannot_be_written_anew_spoils_no_image():
    values = Image.Exif()
    values[0x0112] = 3  # upside down
    values[0x010F] = "maker"
    written = values.tobytes()
    spoilt = written.replace(b"\x01\x0f\x00\x02", b"\x01\x1a\x00\x02")  # a text where a resolution should be
    assert spoilt != written
    data = encode("JPEG", exif=spoilt)
    with pytest.raises(TypeError):
        ImageOps.exif_transpose(Image.open(io.BytesIO(data)))
    pixels, upright = (
        FaceCollator(SIZE)([{"image": image, "label": 0}])["pixel_values"] for image in (data, encode("JPEG"))
    )
    assert torch.equal(pixels, upright.flip(2, 3))
