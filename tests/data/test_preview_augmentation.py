import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

SCRIPT = Path(__file__).parents[2] / "scripts" / "preview_augmentation.py"


def preview(*arguments: str) -> subprocess.CompletedProcess:
    return subprocess.run([sys.executable, SCRIPT, *arguments], capture_output=True, text=True)


def test_the_grid_shows_each_face_and_its_augmentations(tmp_path, orl):
    output = tmp_path / "figures" / "grid.png"
    result = preview("[{flip: {p: 1.0}}]", str(output), "--num_faces", "3", "--num_draws", "2")
    assert result.returncode == 0, result.stderr
    grid = np.asarray(Image.open(output))
    assert grid.shape == (2 + 3 * 114, 2 + 3 * 114, 3)
    cells = grid[2:, 2:].reshape(3, 114, 3, 114, 3).swapaxes(1, 2)[:, :, :112, :112]  # (row, column, 112, 112, 3)
    expected = np.asarray(orl[0]["image"].convert("RGB").resize((112, 112), Image.Resampling.BILINEAR)).astype(int)
    assert np.abs(cells[0, 0] - expected).max() <= 1
    for row in cells:
        assert np.array_equal(row[1], row[0][:, ::-1])
        assert np.array_equal(row[2], row[0][:, ::-1])


@pytest.mark.parametrize(("augmentation", "message"), [("flap", "unknown augmentation 'flap'"), ("[flap]", "'flap'")])
def test_a_wrong_augmentation_is_named(tmp_path, augmentation, message):
    result = preview(augmentation, str(tmp_path / "grid.png"))
    assert result.returncode != 0
    assert message in result.stderr
    assert not (tmp_path / "grid.png").exists()
