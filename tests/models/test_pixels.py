"""One rule for pixels, whatever an image is made of, at all three entrances: loader, embedder, image processor."""

import io

import numpy as np
import pytest
import torch
from datasets import Dataset
from datasets import Image as ImageFeature
from PIL import Image, ImageChops

from hf_face import FaceImageProcessor
from hf_face.data import FaceCollator
from hf_face.data.decode import UndecodableImageError
from hf_face.embedding import Embedder
from hf_face.models.pixels import (
    _check_claimed_size,
    eight_bits,
    image_suffixes,
    name_of,
    read_photograph,
    warn_of_photograph,
)

SIZE = 16
GRAY = np.arange(256, dtype=np.uint8).reshape(SIZE, SIZE)  # every value once
COLORS = np.stack([GRAY, GRAY.T, 255 - GRAY], axis=2)
RGB_OF_GRAY = np.repeat(GRAY[..., None], 3, axis=2)
PROCESSOR = FaceImageProcessor(size={"height": SIZE, "width": SIZE}, do_normalize=False)


class Seeing(torch.nn.Module):
    """A model that keeps the pixels it was given, to see what the embedder makes of an image."""

    def __init__(self):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(1))

    def forward(self, pixel_values):
        self.pixels = pixel_values
        return type("Output", (), {"pooler_output": torch.ones(len(pixel_values), 2), "norm": torch.ones(1, 1)})


def loaded(image) -> np.ndarray:
    return FaceCollator(SIZE)([{"image": image, "label": 0}])["pixel_values"][0].permute(1, 2, 0).numpy()


def processed(image) -> np.ndarray:
    pixels = PROCESSOR(image, return_tensors="pt").pixel_values[0]
    return (pixels * 255).round().permute(1, 2, 0).numpy()


def embedded(data: bytes) -> np.ndarray:
    rows = Dataset.from_dict({"image": [{"bytes": data, "path": None}]}).cast_column("image", ImageFeature())
    Embedder(model := Seeing(), PROCESSOR, flip=False, progress=False)(rows, flip=None)
    return (model.pixels[0] * 255).round().permute(1, 2, 0).numpy()


def encoded(image: Image.Image, file_format: str, **options) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, file_format, **options)
    return buffer.getvalue()


def assert_same_everywhere(data: bytes, expected: np.ndarray, path, atol: int = 0):
    """A file gives these pixels at every entrance, encoded, opened by Pillow, and by its path."""
    path.write_bytes(data)
    for pixels in (
        loaded(data),
        loaded(Image.open(io.BytesIO(data))),
        processed(Image.open(io.BytesIO(data))),
        processed(str(path)),
        embedded(data),
    ):
        assert np.abs(pixels.astype(int) - expected).max() <= atol


GRAY_MODES = ["L", "LA", "La", "I", "I;16", "I;16L", "I;16B", "I;16N", "F"]
COLOR_MODES = ["P", "PA", "RGB", "RGBA", "RGBa", "RGBX", "CMYK", "YCbCr", "HSV"]


@pytest.mark.parametrize("mode", GRAY_MODES + COLOR_MODES)
def test_every_mode_of_pillow(mode):
    gray = Image.fromarray(GRAY)
    image = gray.convert({"La": "LA", "RGBa": "RGBA"}.get(mode, "L")).convert(mode)
    assert image.mode == mode
    assert np.array_equal(loaded(image), RGB_OF_GRAY)
    assert np.array_equal(processed(image), RGB_OF_GRAY)


def test_two_more_modes():
    lab = Image.fromarray(COLORS).convert("LAB")
    assert np.array_equal(loaded(lab), np.asarray(lab.convert("RGB")))
    assert np.array_equal(processed(lab), np.asarray(lab.convert("RGB")))
    bits = Image.fromarray(GRAY > 100)
    assert bits.mode == "1"
    assert np.array_equal(loaded(bits), np.where(GRAY > 100, 255, 0)[..., None].repeat(3, 2))
    assert np.array_equal(processed(bits), loaded(bits))


@pytest.mark.parametrize("file_format", ["PNG", "TIFF", "PPM", "JPEG2000"])
def test_16_bit_gray(file_format, tmp_path):
    assert_same_everywhere(
        encoded(Image.fromarray(GRAY.astype(np.uint16) * 257), file_format), RGB_OF_GRAY, tmp_path / "a"
    )


def test_16_bit_color(tmp_path):
    cv2 = pytest.importorskip("cv2")
    for suffix in (".png", ".tiff"):
        data = cv2.imencode(suffix, COLORS[..., ::-1].astype(np.uint16) * 257)[1].tobytes()
        assert_same_everywhere(data, COLORS, tmp_path / "a")


@pytest.mark.parametrize(
    "values",
    [
        GRAY.astype(np.float32) / 255,
        GRAY.astype(np.float32),
        GRAY.astype(np.float32) * 257,
        GRAY.astype(np.int32) * 257,
    ],
    ids=["floats to 1", "floats to 255", "floats to 65535", "integers to 65535"],
)
def test_tiff_of_wide_types(values, tmp_path):
    assert_same_everywhere(encoded(Image.fromarray(values), "TIFF"), RGB_OF_GRAY, tmp_path / "a")


@pytest.mark.parametrize("worst", [-1.0, 65536.0, np.nan, np.inf])
def test_values_without_a_known_range_are_refused(worst):
    values = GRAY.astype(np.float32)
    values[3, 3] = worst
    data = encoded(Image.fromarray(values), "TIFF")
    with pytest.raises(UndecodableImageError, match=r"image of \d+ bytes: .*float32 must lie in .* found"):
        loaded(data)
    with pytest.raises(UndecodableImageError, match="float32 must lie in"):
        loaded(Image.fromarray(values))
    with pytest.raises(ValueError, match="float32 must lie in"):
        processed(Image.fromarray(values))


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.int32, np.int64])
def test_arrays_of_integers(dtype):
    values = GRAY.astype(dtype) * (257 if dtype != np.uint8 else 1)
    for array in (values[..., None], values[..., None].repeat(3, 2), torch.from_numpy(values)[None]):
        assert np.array_equal(processed(array), RGB_OF_GRAY)
    assert np.array_equal(eight_bits(GRAY.astype(np.int64)), GRAY)  # 0..255 in a wide type, as numpy's draws are
    assert np.array_equal(eight_bits(GRAY > 7), np.where(GRAY > 7, 255, 0))


@pytest.mark.parametrize("dtype", [np.uint16, np.float32])
def test_wide_types_are_rounded(dtype):
    """65,535 becomes 255, and so 65,406.2 the last value of 254."""
    assert eight_bits(np.array([65406, 65407, 65535], dtype)).tolist() == [254, 255, 255]


def test_one_gray_value_everywhere():
    assert eight_bits(np.full((2, 2), 7)).tolist() == [[7, 7], [7, 7]]
    assert eight_bits(np.zeros((2, 0))).shape == (2, 0)


def test_photographs_are_read_from_anything(tmp_path):
    path = tmp_path / "a.png"
    path.write_bytes(encoded(Image.fromarray(COLORS), "PNG"))
    for image in (path, str(path), {"bytes": None, "path": str(path)}, {"bytes": path.read_bytes(), "path": "b.png"}):
        assert np.array_equal(read_photograph(image), COLORS)
    for array in (GRAY, GRAY[..., None], GRAY.astype(np.uint16) * 257):
        assert np.array_equal(read_photograph(array), RGB_OF_GRAY)
    assert np.array_equal(read_photograph(np.dstack([COLORS, np.full_like(GRAY, 255)])), COLORS)
    assert read_photograph(COLORS) is COLORS
    for shape in [(16,), (16, 16, 5)]:
        with pytest.raises(ValueError, match="with at most 4 channels"):
            read_photograph(np.zeros(shape, np.uint8))
    with pytest.raises(ValueError, match="it is in no format that Pillow reads"):
        read_photograph(b"\0\0\0\x18ftypisom" + bytes(100))  # a film


@pytest.mark.parametrize(
    ("image", "name"),
    [
        ({"path": "a.png", "bytes": b"123"}, "a.png"),
        ({"path": None, "bytes": b"123"}, "the file of 3 bytes"),
        (memoryview(b"123"), "the file of 3 bytes"),
        (200 * "a", 200 * "a"),
        (201 * "a", 100 * "a" + "..."),
        ("", "''"),
        (GRAY, "the array of shape (16, 16)"),
        (Image.fromarray(GRAY), "the Image"),
    ],
)
def test_messages_name_an_image(image, name):
    assert name_of(image) == name


def test_an_opened_image_has_the_name_of_its_file(tmp_path):
    Image.fromarray(GRAY).save(tmp_path / "a.png")
    assert name_of(Image.open(tmp_path / "a.png")) == str(tmp_path / "a.png")


def test_suffixes_of_images():
    assert {".jpg", ".png", ".webp"} <= image_suffixes()
    assert not {".eps", ".wmf", ".h5", ".pdf"} & image_suffixes()


@pytest.mark.parametrize(
    ("height", "width", "warns"), [(130, 100, False), (100, 131, True), (448, 448, False), (449, 449, True)]
)
def test_what_is_hardly_a_crop_of_112_pixels(height, width, warns, recwarn):
    def read():
        warn_of_photograph(height, width, image_size=112)

    read()
    assert [warning.filename for warning in recwarn] == [__file__] * warns  # it names who had the image read


def test_transparent_areas_are_white_as_in_transformers(tmp_path):
    colors = np.dstack([COLORS, np.where(GRAY < 128, 0, 255).astype(np.uint8)])
    expected = np.where(colors[..., 3:] == 0, 255, COLORS)
    image = Image.fromarray(colors)
    assert_same_everywhere(encoded(image, "PNG"), expected, tmp_path / "a")
    assert_same_everywhere(encoded(image, "WEBP", lossless=True, exact=True), expected, tmp_path / "a")
    gray = Image.fromarray(GRAY)
    assert_same_everywhere(
        encoded(gray, "PNG", transparency=7), np.where(RGB_OF_GRAY == 7, 255, RGB_OF_GRAY), tmp_path / "a"
    )
    assert_same_everywhere(
        encoded(gray.convert("P"), "GIF", transparency=7), np.where(RGB_OF_GRAY == 7, 255, RGB_OF_GRAY), tmp_path / "a"
    )


def with_segment_first(jpeg: bytes, marker: int, content: bytes) -> bytes:
    return jpeg[:2] + bytes([0xFF, marker]) + (len(content) + 2).to_bytes(2, "big") + content + jpeg[2:]


def turned_files(orientation: int) -> dict[str, bytes]:
    """The same smooth image in every format that carries an orientation."""
    image = Image.fromarray(COLORS[:4, :4]).resize((SIZE, SIZE), Image.Resampling.BICUBIC)
    exif = Image.Exif()
    exif[0x0112] = orientation
    jpeg = encoded(image, "JPEG", exif=exif, quality=100, subsampling=0)
    xmp = f'<x:xmpmeta xmlns:x="adobe:ns:meta/"><r tiff:Orientation="{orientation}"/></x:xmpmeta>'.encode()
    plain = encoded(image, "JPEG", quality=100, subsampling=0)
    return {
        "JPEG": jpeg,
        "JPEG, after a comment": with_segment_first(jpeg, 0xFE, b" " * 78),
        "JPEG, after a color profile": with_segment_first(jpeg, 0xE2, b"ICC_PROFILE\0\1\1" + b"\xff\xda" * 500),
        "JPEG, in XMP": with_segment_first(plain, 0xE1, b"http://ns.adobe.com/xap/1.0/\0" + xmp),
        "PNG": encoded(image, "PNG", exif=exif),
        "WebP": encoded(image, "WEBP", exif=exif, lossless=True),
        "TIFF": encoded(image, "TIFF", exif=exif),
        "compressed TIFF": encoded(image, "TIFF", exif=exif, compression="tiff_lzw"),
    }


@pytest.mark.parametrize("orientation", range(1, 9))
def test_every_orientation_in_every_format(orientation, tmp_path):
    upright = turned_files(1)
    turns = {
        2: lambda a: a[:, ::-1],
        3: lambda a: a[::-1, ::-1],
        4: lambda a: a[::-1],
        5: lambda a: a.transpose(1, 0, 2),
        6: lambda a: np.rot90(a, -1),
        7: lambda a: np.rot90(a.transpose(1, 0, 2), 2),
        8: lambda a: np.rot90(a, 1),
    }
    for name, data in turned_files(orientation).items():
        expected = loaded(upright[name])
        if orientation > 1:
            expected = turns[orientation](expected)
        assert_same_everywhere(data, expected, tmp_path / "a", atol=1 if "JPEG" in name else 0)


def test_an_image_is_turned_once():
    opened = Image.open(io.BytesIO(turned_files(6)["PNG"]))
    before = np.asarray(opened).copy()
    assert np.array_equal(processed(opened), processed(opened))
    assert np.array_equal(np.asarray(opened), before)  # the user's own image stays as it is
    assert ImageChops.difference(opened, Image.fromarray(before)).getbbox() is None


def forged(width: int, height: int) -> bytes:
    """A small JPEG whose header claims another size."""
    jpeg = encoded(Image.fromarray(COLORS), "JPEG")
    at = jpeg.index(b"\xff\xc0") + 5
    return jpeg[:at] + height.to_bytes(2, "big") + width.to_bytes(2, "big") + jpeg[at + 4 :]


@pytest.mark.filterwarnings("error")  # refused before Pillow's own warning
@pytest.mark.parametrize(("width", "height"), [(9000, 9000), (2049, 2048)])
def test_a_header_that_claims_more_than_the_file_can_hold(width, height, tmp_path):
    with pytest.raises(UndecodableImageError, match=rf"claims {width} x {height} pixels, which \d+ bytes cannot hold"):
        loaded(forged(width, height))
    (tmp_path / "a.jpg").write_bytes(forged(width, height))
    with pytest.raises(ValueError, match="cannot hold"):
        processed(str(tmp_path / "a.jpg"))


def test_a_claim_that_the_file_can_hold():
    _check_claimed_size(2048, 2048, num_bytes=1)
    _check_claimed_size(4096, 4096, num_bytes=8192)
    with pytest.raises(ValueError, match="which 8191 bytes cannot hold"):
        _check_claimed_size(4096, 4096, num_bytes=8191)


@pytest.mark.parametrize("limit", [256, None])
def test_as_many_pixels_as_pillow_allows(monkeypatch, limit):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", limit)
    assert np.array_equal(loaded(encoded(Image.fromarray(COLORS), "PNG")), COLORS)


def test_pillows_limit_of_pixels_is_an_error(monkeypatch):
    data = encoded(Image.fromarray(COLORS), "PNG")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 200)
    with (
        pytest.warns(Image.DecompressionBombWarning),
        pytest.raises(UndecodableImageError, match="16 x 16 pixels"),
    ):
        loaded(data)


def test_ghostscript_is_not_run(monkeypatch):
    monkeypatch.setattr("PIL.EpsImagePlugin.Ghostscript", None)  # would fail if it were called
    with pytest.raises(UndecodableImageError, match="no format that Pillow reads"):
        loaded(encoded(Image.fromarray(COLORS), "EPS"))
