"""The pipeline that compares two photographs."""

import logging

import numpy as np
import pytest
from PIL import Image
from transformers import AutoModel, pipeline

from hf_face import FaceImageProcessor


@pytest.fixture
def photographs(detector, noise):
    return [detector.put(noise(200 + side, 220), (5, 5, side)) for side in (60, 112, 190)]


def test_the_answer(verify, embed, photographs):
    first, second, _ = photographs
    answer = verify((first, second))
    similarity = embed(first)[0]["embedding"] @ embed(second)[0]["embedding"]
    assert answer["similarity"] == pytest.approx(float(similarity), abs=1e-3)
    assert answer["threshold"] == 0.5
    assert answer["same"] is (answer["similarity"] >= 0.5)
    assert answer["boxes"] == [face["box"] for face in answer["faces"]]
    assert answer["boxes"][1]["xmax"] == 117
    assert verify(first, second)["similarity"] == answer["similarity"]
    assert verify((first, first))["same"] is True
    assert verify((first, second), threshold=answer["similarity"])["same"] is True  # the least of one person


@pytest.mark.parametrize("batch_size", [1, 2])
def test_many_pairs(verify, photographs, batch_size):
    first, second, third = photographs
    pairs = [(first, second), (second, third), (third, third)]
    single = [verify(pair)["similarity"] for pair in pairs]
    for answers in (verify(pairs, batch_size=batch_size), verify((pair for pair in pairs), batch_size=batch_size)):
        assert [answer["similarity"] for answer in answers] == pytest.approx(single, abs=1e-3)


def test_the_false_accept_rate_chooses_the_threshold(verify, photographs):
    pair = tuple(photographs[:2])
    assert verify(pair, false_accept_rate=1e-2)["threshold"] == 0.25
    assert verify(pair, threshold=-1.0)["same"] is True and verify(pair, threshold=1.1)["same"] is False
    with pytest.raises(ValueError, match=r"no threshold for a false accept rate of 0.0001, only for 0.001, 0.01: pass"):
        verify(pair, false_accept_rate=1e-4)


def test_a_model_without_thresholds_does_not_decide(model_folder, detector, photographs):
    model = AutoModel.from_pretrained(model_folder)
    model.config.similarity_thresholds = None
    verify = pipeline("face-verification", model=model, image_processor=FaceImageProcessor(), detector=detector)
    with pytest.raises(ValueError, match=r"no calibrated threshold .*Pass threshold=.*hf-face evaluate"):
        verify(tuple(photographs[:2]))
    assert verify(tuple(photographs[:2]), threshold=0.3)["threshold"] == 0.3


def test_no_face_is_an_error_that_names_the_photograph(verify, photographs, noise, tmp_path):
    Image.fromarray(noise(50, 60)).save(tmp_path / "wall.png")
    with pytest.raises(ValueError, match=r"No face was found in .*wall.png"):
        verify(photographs[0], tmp_path / "wall.png")


def test_several_faces(verify, embed, detector, noise, photographs, caplog, monkeypatch):
    monkeypatch.setattr(logging.getLogger("hf_face"), "propagate", True)
    group = detector.put(noise(240, 320), (200, 60, 110), (110, 80, 70))
    faces = embed(group)
    for policy, chosen, said in (("largest", 0, "the largest is compared"), ("center", 1, "nearest to the center")):
        caplog.clear()
        assert verify((group, photographs[0]), policy=policy)["boxes"][0] == faces[chosen]["box"]
        (warning,) = caplog.messages  # none of the photograph of one face
        assert "2 faces were found in the array of shape (240, 320, 3)" in warning and said in warning
    caplog.clear()
    best = verify((group, photographs[0]), policy="all")
    one = embed(photographs[0])[0]["embedding"]
    assert best["similarity"] == pytest.approx(max(float(face["embedding"] @ one) for face in faces), abs=1e-3)
    assert caplog.text == ""


def test_other_than_two_photographs(verify, photographs):
    with pytest.raises(ValueError, match="found 3 photographs"):
        verify(*photographs)
    with pytest.raises(ValueError, match=r"pairs of photographs, \(first, second\), but found 1 photographs"):
        verify((photographs[0],))
    with pytest.raises(ValueError, match="but found str"):
        verify(["first.jpg", "second.jpg"])
    assert np.isfinite(verify([photographs[:2]])[0]["similarity"])  # a pair as a list
