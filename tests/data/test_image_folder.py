"""What is found in folders of images, and what is left out."""

import os
from pathlib import Path

import pytest
from datasets.utils.logging import disable_progress_bar
from PIL import Image

import hf_face
from hf_face.cli import data, train
from hf_face.data import convert_to_parquet, load_identities, open_for_conversion
from hf_face.data.image_folder import ImageFolder, find_images, list_images

disable_progress_bar()


def write(folder, *names):
    for name in names:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(name.encode())
    return folder


@pytest.fixture(autouse=True)
def every_warning_anew():
    from transformers.utils import logging

    logging.warning_once.cache_clear()


def test_hidden_files_and_folders_are_no_people(tmp_path, caplog):
    write(tmp_path, "a/1.jpg", ".ipynb_checkpoints/1.jpg", "a/.ipynb_checkpoints/1-checkpoint.jpg", "a/._1.jpg")
    write(tmp_path, "__MACOSX/a/1.jpg", ".DS_Store")
    folder = ImageFolder(tmp_path)
    assert folder.names == ["a"] and folder.files == ["a/1.jpg"]
    assert not caplog.text
    assert list_images(tmp_path) == ["a/1.jpg"]


def test_links_to_folders_are_followed(tmp_path):
    write(tmp_path / "elsewhere", "b/2.jpg", "1.jpg")
    write(tmp_path / "people", "a/0.jpg")
    (tmp_path / "people" / "linked").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "people" / "a" / "more").symlink_to(tmp_path / "elsewhere" / "b")
    expected = ["a/0.jpg", "a/more/2.jpg", "linked/1.jpg", "linked/b/2.jpg"]
    assert list_images(tmp_path / "people") == expected
    folder = ImageFolder(tmp_path / "people")
    assert folder.names == ["a", "linked"] and folder.files == expected


def test_pipes_are_left_out_and_links_to_nothing_are_files(tmp_path):
    """Reading a pipe would wait forever; a broken link is an image that cannot be read."""
    os.mkfifo(tmp_path / "pipe.jpg")
    (tmp_path / "to_pipe.jpg").symlink_to(tmp_path / "pipe.jpg")
    (tmp_path / "itself.jpg").symlink_to(tmp_path / "itself.jpg")
    (tmp_path / "broken.jpg").symlink_to(tmp_path / "missing.jpg")
    files, others = find_images(tmp_path)
    assert files == ["broken.jpg", "itself.jpg"] and others == {".jpg": 2}


def test_links_in_circles_end(tmp_path):
    write(tmp_path, "a/1.jpg", "b/2.jpg")
    (tmp_path / "a" / "top").symlink_to(tmp_path)
    (tmp_path / "a" / "b").symlink_to(tmp_path / "b")
    (tmp_path / "b" / "a").symlink_to(tmp_path / "a")
    assert list_images(tmp_path) == ["a/1.jpg", "a/b/2.jpg", "b/2.jpg", "b/a/1.jpg"]


def test_every_format_of_pillow_is_an_image(tmp_path):
    names = [f"a/1{suffix}" for suffix in (".tif", ".TIFF", ".jfif", ".ppm", ".gif", ".jp2", ".avif", ".webp", ".pgm")]
    assert find_images(write(tmp_path, *names))[0] == sorted(names)


def test_formats_that_pillow_only_names_or_runs_are_none(tmp_path):
    names = ["a/embeddings.h5", "a/film.mpg", "a/plot.eps", "a/page.ps", "a/notes.txt"]
    Image.init()
    assert find_images(write(tmp_path, *names))[0] == []


def test_what_is_left_out_is_counted(tmp_path, caplog):
    write(tmp_path, "a/1.jpg", "a/2.heic", "a/3.HEIC", "b/1.jpg", "b/x/notes.txt", "b/README", "0.jpg")
    assert len(load_identities(tmp_path)) == 2
    (message,) = {record.getMessage() for record in caplog.records if "left out" in record.getMessage()}
    assert (
        "left out files (1 without suffix, 2 .heic, 1 .jpg, 1 .txt), which are not inside a person's folder" in message
    )
    caplog.clear()
    list_images(tmp_path)
    assert "left out files (1 without suffix, 2 .heic, 1 .txt), which are not in a format that Pillow" in caplog.text


def test_people_without_images_are_left_out_if_compact(tmp_path):
    write(tmp_path, "a/1.jpg", "c/1.jpg", "b/1.heic")
    with pytest.raises(ValueError, match=r"b contains no images .*, only files \(1 .heic\).*compact=True"):
        load_identities(tmp_path)
    for streaming in (False, True):
        dataset = load_identities(tmp_path, compact=True, streaming=streaming)
        assert dataset.features["label"].names == ["a", "c"]
        assert [row["label"] for row in dataset.select_columns("label")] == [0, 1]
    assert open_for_conversion(tmp_path, compact=True).names == ["a", "c"]


@pytest.fixture
def splits(tmp_path):
    return write(tmp_path / "root", "train/a/1.jpg", "train/b/2.jpg", "val/c/3.jpg", "val/d/4.jpg", "val/d/5.jpg")


def test_folders_of_splits_are_no_people(splits):
    assert load_identities(splits).features["label"].names == ["a", "b"]
    assert load_identities(splits, split="val").features["label"].names == ["c", "d"]
    assert load_identities(splits, split="val", streaming=True).features["label"].names == ["c", "d"]
    assert open_for_conversion(splits, split="val").names == ["c", "d"]
    with pytest.raises(ValueError, match=r"root has the splits train, val, but not 'test'. Set split to one of them"):
        load_identities(splits, split="test")


def test_images_directly_in_a_split_have_no_people(tmp_path):
    write(tmp_path, "train/1.jpg", "test/2.jpg")
    with pytest.raises(ValueError, match=r"train contains no folders, expected one folder of images per person"):
        load_identities(tmp_path)


def test_a_person_may_be_called_dev(tmp_path):
    write(tmp_path, "dev/1.jpg", "anna/1.jpg")
    assert load_identities(tmp_path).features["label"].names == ["anna", "dev"]


def test_an_output_folder_inside_the_source_is_refused(tmp_path):
    write(tmp_path / "people", "a/1.jpg", "b/2.jpg")
    (tmp_path / "link").symlink_to(tmp_path / "people")
    for output in ("people", "people/parquet", "people/a/x", "link/parquet"):
        with pytest.raises(
            ValueError, match=r"lies in the source folder .*people, where it would be taken for a person"
        ):
            convert_to_parquet(open_for_conversion(tmp_path / "people"), tmp_path / output)
        with pytest.raises(ValueError, match="lies in the source folder"):
            data.main(
                ["--source", str(tmp_path / "people"), "--output_dir", str(tmp_path / output), "--to", "recordio"]
            )
    recipe = Path(hf_face.__file__).parents[1] / "recipes" / "demo" / "orl.yaml"
    with pytest.raises(ValueError, match="lies in the source folder"):
        train.main(
            [str(recipe), "--train_data", str(tmp_path / "people"), "--output_dir", str(tmp_path / "people" / "run")]
        )
    assert sorted(os.listdir(tmp_path / "people")) == ["a", "b"]
    convert_to_parquet(open_for_conversion(tmp_path / "people"), tmp_path / "people2")
