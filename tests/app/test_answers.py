"""What the app answers, without a page."""

import numpy as np
import pytest
from PIL import Image

from hf_face.app import FaceApp
from hf_face.pipelines import FaceGallery


@pytest.fixture(scope="module")
def app(app_model):
    return FaceApp(str(app_model))


def test_two_photographs_are_compared_at_the_rate_that_was_chosen(app, photographs):
    assert app.false_accept_rates == ["1e-1", "1e-2"]
    files = [str(path) for path in photographs[:2]]
    answer, first, second, *crops = app.compare(*files, "1e-1")
    assert answer.startswith("## One person\nSimilarity ") and "≥ -0.90, the similarity that 1 in 10 pairs" in answer
    assert first.size == second.size == (184, 224)
    assert np.any(np.array(first) != np.array(Image.open(files[0]).convert("RGB")))  # the face is marked
    assert [crop.size for crop in crops] == [(112, 112), (112, 112)]
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
    with pytest.raises(ValueError, match="Choose a photograph first"):
        app.search(None, "1e-1")
    with pytest.raises(ValueError, match="Choose some photographs first"):
        app.group(None)


@pytest.fixture(scope="module")
def with_gallery(app, app_model, photographs, tmp_path_factory):
    gallery = FaceGallery(app.embed)
    gallery.add("Ada", str(photographs[0]))
    gallery.add("Grace", str(photographs[3]))
    return FaceApp(str(app_model), str(gallery.save(tmp_path_factory.mktemp("gallery"))))


def test_a_gallery_names_the_most_similar_person_if_it_is_enough(with_gallery, photographs):
    answer, picture, rows = with_gallery.search(str(photographs[0]), "1e-1")
    assert answer == "## Ada" and picture.size == (184, 224)
    assert rows[0] == [1, "Ada", 1.0, True] and rows[1][:2] == [1, "Grace"]
    answer, _, rows = with_gallery.search(str(photographs[0]), "1e-2")
    assert answer == "## nobody" and [row[3] for row in rows] == [False, False]
    assert with_gallery.search(str(photographs[0]), None)[0] == "## nobody"  # a model that is not calibrated


def test_photographs_are_grouped_whatever_their_names(app, photographs, tmp_path):
    same_name = tmp_path / photographs[0].name
    same_name.write_bytes(photographs[3].read_bytes())
    Image.new("RGB", (64, 64)).save(tmp_path / "black.png")
    files = [str(path) for path in (*photographs[:3], same_name, tmp_path / "black.png")]
    answer, faces, rows = app.group(files)
    people = {person for _, person in rows}
    assert answer == f"## {len(people)} people, 4 faces\n\nNo face was found in black.png."
    assert sorted(name for name, _ in rows) == sorted(path.name for path in (*photographs[:3], same_name))
    assert len(faces) == 4 and all(face.size == (112, 112) for face, _ in faces)
    assert {caption for _, caption in faces} == {f"person {person}" for person in people}
