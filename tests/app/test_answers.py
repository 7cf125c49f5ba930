"""What the app answers, without a page."""

import numpy as np
import pytest
from PIL import Image

from hf_face.app import FaceApp


@pytest.fixture(scope="module")
def app(app_model):
    return FaceApp(str(app_model))


def test_two_photographs_are_compared_at_the_rate_that_was_chosen(app, photographs):
    assert app.false_accept_rates == ["1e-1", "1e-2"]
    files = [str(path) for path in photographs[:2]]
    answer, first, second, crops = app.compare(*files, "1e-1")
    assert answer.startswith("## One person\nSimilarity ") and "≥ -0.90, the similarity that 1 in 10 pairs" in answer
    assert first.size == second.size == (184, 224)
    assert np.any(np.array(first) != np.array(Image.open(files[0]).convert("RGB")))  # the face is marked
    assert [(crop.size, name) for crop, name in crops] == [((112, 112), "first"), ((112, 112), "second")]
    assert app.compare(*files, "1e-2")[0].startswith("## Two people")


def test_a_model_that_is_not_calibrated_gives_a_similarity_only(app, photographs, monkeypatch):
    monkeypatch.setattr(app.verify.model.config, "similarity_thresholds", None)
    assert app.false_accept_rates == []
    answer, *_ = app.compare(str(photographs[0]), str(photographs[0]), None)
    assert answer.startswith("## Similarity 1.00\nThis model is not calibrated")


def test_what_cannot_be_compared(app, photographs, tmp_path):
    with pytest.raises(ValueError, match="Choose two photographs first"):
        app.compare(None, str(photographs[0]), "1e-1")
    Image.new("RGB", (64, 64)).save(tmp_path / "black.png")
    with pytest.raises(ValueError, match=r"No face was found in .*black\.png"):
        app.compare(str(photographs[0]), str(tmp_path / "black.png"), "1e-1")
