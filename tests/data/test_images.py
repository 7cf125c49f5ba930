"""Images without regard to who they show."""

import pytest
from datasets import Dataset, Features, Image, Value
from PIL import Image as PillowImage

from hf_face.data import load_images, select_identities, write_recordio

PIXELS = [PillowImage.new("RGB", (8, 8), color) for color in ("red", "blue")]


@pytest.fixture
def folder(tmp_path):
    for name, image in zip(("b.png", "a/c.png"), PIXELS, strict=True):
        (tmp_path / "images" / name).parent.mkdir(parents=True, exist_ok=True)
        image.save(tmp_path / "images" / name)
    return tmp_path / "images"


def test_a_folder_of_images_with_subfolders_or_without(folder):
    images = load_images(folder)
    assert images["file_name"][:] == ["a/c.png", "b.png"]
    assert [image.getpixel((0, 0)) for image in images["image"]] == [(0, 0, 255), (255, 0, 0)]
    with pytest.raises(ValueError, match=r"images has no splits, but split='val' was requested"):
        load_images(folder, split="val")


def test_recordio_and_orl_keep_their_labels(orl, tmp_path):
    write_recordio(select_identities(orl, 2, 3), tmp_path / "rec")
    (tmp_path / "rec" / "property").write_text("100,112,92")  # more people than images
    assert load_images(tmp_path / "rec")["label"][:] == [0, 0, 0, 1, 1, 1]
    assert load_images("orl").column_names == ["image", "label"]


def test_the_image_column(tmp_path):
    columns = {"photo": PIXELS, "mask": PIXELS, "name": ["one", "two"]}
    features = Features({"photo": Image(), "mask": Image(), "name": Value("string")})
    Dataset.from_dict(columns, features).to_parquet(tmp_path / "two.parquet")
    with pytest.raises(ValueError, match=r"two.parquet has no column 'image', only \['photo', 'mask', 'name'\]"):
        load_images(tmp_path / "two.parquet")
    images = load_images(tmp_path / "two.parquet", image_column="mask")
    assert images.column_names == ["photo", "image", "name"] and images[1]["image"].getpixel((0, 0)) == (0, 0, 255)
    Dataset.from_dict({"name": ["one"]}).to_parquet(tmp_path / "none.parquet")
    with pytest.raises(ValueError, match="has no column 'image'"):
        load_images(tmp_path / "none.parquet")
    with pytest.raises(FileNotFoundError, match="nowhere"):
        load_images(tmp_path / "nowhere")
