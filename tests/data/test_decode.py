import io

import numpy as np
import pytest
from PIL import Image

from hf_face.data import decode
from hf_face.data.decode import ImageDecoder, UndecodableImageError, empty_batch, is_upright_jpeg


@pytest.fixture(scope="module")
def photograph() -> Image.Image:
    """Smooth colors, 112 x 112, which JPEG preserves well."""
    corners = np.random.default_rng(0).integers(0, 256, (6, 6, 3), dtype=np.uint8)
    return Image.fromarray(corners).resize((112, 112), Image.Resampling.BICUBIC)


def encoded(image: Image.Image, file_format: str = "JPEG", **options) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, file_format, **options)
    return buffer.getvalue()


def decoded(image, size: int = 112) -> np.ndarray:
    """(H, W, 3)"""
    place = np.zeros((size, size, 3), dtype=np.uint8)
    ImageDecoder(size).decode_into(place, image)
    return place


@pytest.mark.parametrize(
    "options", [{}, {"subsampling": 0}, {"progressive": True}, {"quality": 30}, {"keep_rgb": True}]
)
def test_jpeg_gives_the_pixels_that_pillow_gives(photograph, options):
    data = encoded(photograph, **options)
    assert np.array_equal(decoded(data), np.asarray(Image.open(io.BytesIO(data))))


def test_grayscale_jpeg_has_three_equal_channels(photograph):
    data = encoded(photograph.convert("L"))
    pixels = decoded(data)
    assert np.array_equal(pixels[..., 0], np.asarray(Image.open(io.BytesIO(data))))
    assert np.array_equal(pixels[..., 0], pixels[..., 1])
    assert np.array_equal(pixels[..., 0], pixels[..., 2])


def test_cmyk_jpeg_has_the_colors_it_was_made_from(photograph):
    pixels = decoded(encoded(photograph.convert("CMYK"), quality=95))
    assert np.abs(pixels.astype(int) - np.asarray(photograph)).mean() < 2


@pytest.mark.parametrize(
    ("file_format", "options"), [("PNG", {}), ("WEBP", {"lossless": True}), ("BMP", {}), ("PPM", {})]
)
def test_other_formats_in_place_of_jpeg(photograph, file_format, options):
    assert np.array_equal(decoded(encoded(photograph, file_format, **options)), np.asarray(photograph))


@pytest.mark.parametrize("mode", ["RGBA", "P", "L", "1", "LA"])
def test_png_of_any_mode_becomes_rgb(photograph, mode):
    image = photograph.convert(mode)
    assert np.array_equal(decoded(encoded(image, "PNG")), np.asarray(image.convert("RGB")))


def test_exif_orientation_is_followed(photograph):
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned by 90 degrees clockwise
    pixels = decoded(encoded(photograph, quality=95, exif=exif))
    assert np.abs(pixels.astype(int) - np.rot90(np.asarray(photograph), -1)).mean() < 2


def test_another_size_is_resized_with_antialiasing(photograph):
    large = photograph.resize((224, 200), Image.Resampling.BICUBIC)
    data = encoded(large)
    expected = np.asarray(Image.open(io.BytesIO(data)).resize((112, 112), Image.Resampling.BILINEAR)).astype(int)
    assert np.abs(decoded(data) - expected).max() <= 1


def test_larger_than_the_scratch_buffer(photograph):
    large = photograph.resize((2100, 2100))
    data = encoded(large)
    expected = np.asarray(Image.open(io.BytesIO(data)).resize((112, 112), Image.Resampling.BILINEAR)).astype(int)
    assert np.abs(decoded(data) - expected).max() <= 1


def test_what_datasets_gives(photograph, tmp_path):
    data = encoded(photograph, "PNG")
    path = tmp_path / "face.png"
    path.write_bytes(data)
    for image in (data, {"bytes": data, "path": None}, {"bytes": None, "path": str(path)}, photograph):
        assert np.array_equal(decoded(image), np.asarray(photograph))


@pytest.mark.parametrize("file_format", ["JPEG", "PNG", "WEBP", "GIF", "BMP"])
def test_a_truncated_image_is_undecodable(photograph, file_format):
    data = encoded(photograph, file_format)
    with pytest.raises(UndecodableImageError, match=f"cannot decode image of {len(data) // 2} bytes"):
        decoded(data[: len(data) // 2])


@pytest.mark.parametrize(
    ("image", "message"),
    [
        (b"", "cannot decode image of 0 bytes"),
        (b"<html>404</html>", "cannot decode image of 16 bytes"),
        (b"\xff\xd8\xff" + bytes(100), "cannot decode image of 103 bytes"),
        (None, "missing"),
        ({"bytes": None, "path": None}, "missing"),
        ({"bytes": None, "path": "no/such/face.jpg"}, "no/such/face.jpg"),
    ],
)
def test_nothing_to_decode(image, message):
    with pytest.raises(UndecodableImageError, match=message):
        decoded(image)


def segment(marker: int, content: bytes) -> bytes:
    return bytes([0xFF, marker, *(len(content) + 2).to_bytes(2, "big")]) + content


SCAN = b"\xff\xda\x00\x00"


@pytest.mark.parametrize(
    ("segments", "upright"),
    [
        (SCAN, True),
        (b"\xff" + SCAN, True),  # a fill byte
        (segment(0xE0, bytes(257)) + SCAN, True),
        (segment(0xE1, b"http://ns.adobe.com/xap/1.0/") + SCAN, True),
        (segment(0xE1, b"Exif") + SCAN, False),
        (segment(0xE1, b"<tiff:Orientation>") + SCAN, False),
        (segment(0xE0, b"Exif") + SCAN, True),  # no Exif segment
        (SCAN + segment(0xE1, b"Exif"), True),  # pixels
        (segment(0xE0, b""), False),  # without pixels
        (SCAN[:3], False),
        (b"\xff", False),
        (b"", False),
        (b"\x00" + SCAN[1:], False),
    ],
)
def test_only_images_whose_segments_state_no_orientation_are_upright(segments, upright):
    assert is_upright_jpeg(b"\xff\xd8" + segments) is upright


def test_batches_of_workers_are_in_shared_memory(monkeypatch):
    assert empty_batch(2, 4).shape == (2, 4, 4, 3) and not empty_batch(2, 4).is_shared()
    monkeypatch.setattr(decode, "get_worker_info", object)
    assert empty_batch(2, 4).shape == (2, 4, 4, 3) and empty_batch(2, 4).is_shared()
