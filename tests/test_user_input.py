"""What people type is checked before anything slow starts, and the message names it."""

from pathlib import Path

import pytest

from hf_face import user_input
from hf_face.user_input import (
    check_at_least,
    check_exists,
    check_folder,
    check_output_file,
    check_output_folder,
    check_path,
    may_be_on_hub,
)


@pytest.fixture(autouse=True)
def workplace(tmp_path, monkeypatch):
    """A folder with the folders data/faces and outputs/demo, and a file."""
    monkeypatch.chdir(tmp_path)
    for folder in ("data/faces", "outputs/demo"):
        Path(folder).mkdir(parents=True)
    Path("file.txt").touch()


@pytest.mark.parametrize(
    "name",
    [
        *("data/facez", "outputs/dmo", "data/faces/train"),  # the parent exists
        *("./org/name", "../faces", "/nowhere/faces", "~/faces", "org/name/train", "data\\faces"),
        *("org/lfw.bin", "org/faces.parquet", "org/train.rec", "org/recipe.yaml", "org/model.safetensors"),
        *("faces", "org/", "/name", "", "a b/c", "org/na me"),
    ],
)
def test_a_path_is_not_a_name_on_the_hub(name):
    assert not may_be_on_hub(name)


@pytest.mark.parametrize("name", ["org/name", "Org-1/name_2.0", "me/ms1mv2-112x112", Path("org/name")])
def test_a_name_that_may_be_on_the_hub(name):
    assert may_be_on_hub(name)
    check_exists(name)


def test_a_missing_file_is_named_with_the_nearest_that_is_there():
    cases = {
        "data/facez": "no such file or folder: data/facez. Did you mean 'data/faces'?",
        "data/facez/train/0.rec": "no such file or folder: data/facez/train/0.rec. Did you mean 'data/faces'?",
        "data/xyz": "no such file or folder: data/xyz",
        "outputs/demo.bin": "no such file or folder: outputs/demo.bin. Did you mean 'outputs/demo'?",
        "file.txt/x": "no such file or folder: file.txt/x",
    }
    for name, expected in cases.items():
        for check in (check_exists, check_path, check_folder):
            with pytest.raises(FileNotFoundError) as error:
                check(name)
            assert str(error.value) == expected
    with pytest.raises(NotADirectoryError, match=r"file\.txt is a file, but a folder is needed"):
        check_folder("file.txt")
    check_exists("file.txt")


def test_outputs_that_can_be_written():
    check_output_file("new/folder/out.PARQUET", [".parquet"])
    check_output_file("file.txt")
    check_output_folder("data")
    check_output_folder("new/folder")
    assert not Path("new").exists()


def test_outputs_that_cannot_be_written(monkeypatch):
    here = Path.cwd()
    with pytest.raises(ValueError, match="data is a folder: name a file to write in it"):
        check_output_file("data", [".parquet"])
    for name in ("out.csv", "out"):
        with pytest.raises(ValueError, match=rf"{name} must end in \.png or \.jpg, the format that is written"):
            check_output_file(name, [".png", ".jpg"])
    for check, name in ((check_output_file, "file.txt/deep/out.png"), (check_output_folder, "file.txt/deep")):
        with pytest.raises(ValueError, match=f"{name} cannot be written to: {here}/file.txt is a file"):
            check(name)
    monkeypatch.setattr(user_input.os, "access", lambda path, mode: path != here / "data")
    with pytest.raises(ValueError, match=f"no permission to write to {here}/data"):
        check_output_folder("data/new")


def test_counts():
    check_at_least(1, threads=None, images_per_shard=1)
    with pytest.raises(ValueError, match="images_per_shard must be at least 1, found 0"):
        check_at_least(1, images_per_shard=0)
