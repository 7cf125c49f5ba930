import runpy
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from hf_face.registry import augmentations

SCRIPT = Path(__file__).parents[2] / "scripts" / "preview_augmentation.py"


@pytest.fixture
def preview(monkeypatch):
    """Runs the script with a command line; exceptions are raised as they are."""
    monkeypatch.setenv("HF_FACE_TRACEBACK", "1")

    def run(*arguments: str):
        monkeypatch.setattr(sys, "argv", [str(SCRIPT), *arguments])
        runpy.run_path(str(SCRIPT), run_name="__main__")

    return run


def test_the_grid_shows_each_face_and_its_augmentations(preview, tmp_path, orl, capsys):
    output = tmp_path / "figures" / "grid.png"
    preview("[{flip: {p: 1.0}}]", str(output), "--num_faces", "3", "--num_draws", "2")
    assert f"wrote {output}" in capsys.readouterr().out
    grid = np.asarray(Image.open(output))
    assert grid.shape == (2 + 3 * 114, 2 + 3 * 114, 3)
    cells = grid[2:, 2:].reshape(3, 114, 3, 114, 3).swapaxes(1, 2)[:, :, :112, :112]  # (row, column, 112, 112, 3)
    expected = np.asarray(orl[0]["image"].convert("RGB").resize((112, 112), Image.Resampling.BILINEAR)).astype(int)
    assert np.abs(cells[0, 0] - expected).max() <= 1
    for as_it_is, *augmented in cells:
        assert all(np.array_equal(picture, as_it_is[:, ::-1]) for picture in augmented)


@pytest.mark.parametrize(("augmentation", "message"), [("flap", "called 'flap'"), ("[flap]", "'flap'")])
def test_a_wrong_augmentation_is_named(preview, tmp_path, augmentation, message):
    with pytest.raises(ValueError, match=message):
        preview(augmentation, str(tmp_path / "grid.png"))
    assert not (tmp_path / "grid.png").exists()


PLUGIN = """
from hf_face.data.augmentation import RandomHorizontalFlip
from hf_face.registry import augmentations

@augmentations.register("mirror")
class Mirror(RandomHorizontalFlip): ...
"""


def test_a_plugins_augmentation_is_shown(preview, tmp_path, monkeypatch):
    monkeypatch.setattr(augmentations, "_entries", dict(augmentations))
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "mirrors_of_our_lab.py").write_text(PLUGIN)
    preview("mirror", str(tmp_path / "grid.png"), "--num_faces", "1", "--plugins", "mirrors_of_our_lab")
    assert (tmp_path / "grid.png").is_file()


@pytest.mark.parametrize("output", ["grid", "grid.txt", "."])
def test_an_output_that_is_no_picture_is_found_before_the_work(preview, tmp_path, monkeypatch, output):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ValueError, match=r"must end in \.png or \.jpg|is a folder"):
        preview("flip", output)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("option", ["num_faces", "num_draws", "image_size"])
def test_counts_below_one(preview, tmp_path, option):
    with pytest.raises(ValueError, match=f"{option} must be at least 1, found 0"):
        preview("flip", str(tmp_path / "grid.png"), f"--{option}", "0")
