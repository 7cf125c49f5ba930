import doctest
from pathlib import Path

import evaluate
import numpy as np
import pytest
import yaml

from hf_face.evaluation import verification_metrics

METRICS = Path(__file__).parents[2] / "hf_face" / "metrics"


@pytest.fixture(scope="module")
def metric():
    return evaluate.load(str(METRICS / "face_verification"))


def test_figures_are_the_librarys(metric, fixtures):
    figures = np.load(fixtures / "evaluation" / "verification.npz")
    embeddings, same = figures["embeddings"].astype(float), figures["actual_issame"]
    scores = (embeddings[0::2] * embeddings[1::2]).sum(1)
    results = metric.compute(predictions=scores, references=same)
    assert results["accuracy"] == figures["kfold_accuracy"]
    assert results == verification_metrics(same, scores)


def test_example_of_the_card(metric):
    for same, score in zip([1, 0, 1, 0, 1, 0], [0.9, 0.2, 0.8, 0.1, 0.7, 0.6], strict=True):
        metric.add(prediction=score, reference=same)
    results = metric.compute(fars=[0.5], num_folds=2)
    assert results["auc"] == results["tar@far=5e-1"] == 1
    assert results["threshold@far=5e-1"] == 0.6


def test_identification_is_the_librarys():
    metric = evaluate.load(str(METRICS / "face_identification"))
    rng = np.random.default_rng(0)
    gallery, probes = rng.standard_normal((30, 8)), rng.standard_normal((80, 8))
    people, subjects = np.arange(30) % 20, np.arange(80) % 40
    probes[subjects < 20] += 2 * gallery[subjects[subjects < 20]]
    arguments = {"gallery": gallery.tolist(), "gallery_references": people.tolist(), "fpirs": [0.05, 0.01]}
    results = metric.compute(predictions=3 * probes, references=subjects, **arguments)
    cosines = probes / np.linalg.norm(probes, axis=1)[:, None] @ (gallery / np.linalg.norm(gallery, axis=1)[:, None]).T
    mated, best = subjects < 20, people[cosines.argmax(1)]
    assert (results["num_mated"], results["num_non_mated"]) == (40, 40)
    assert results["rank1"] == pytest.approx((best == subjects)[mated].mean())
    alarm = np.sort(cosines[~mated].max(1))[-3]  # two of forty may find anyone
    found = (best == subjects) & (cosines.max(1) > alarm)
    assert results["tpir@fpir=5e-2"] == pytest.approx(found[mated].mean())
    assert "tpir@fpir=1e-2" not in results
    with pytest.raises(ValueError, match="no probe shows a person in the gallery"):
        metric.compute(predictions=probes[:2], references=[100, 101], **arguments)


def test_error_versus_discard_is_the_librarys():
    metric = evaluate.load(str(METRICS / "error_versus_discard"))
    wrong, quality = [1, 0, 1, 0, 0], [0.1, 0.2, 0.2, 0.9, 0.5]
    results = metric.compute(predictions=quality, references=wrong, discards=[0.3])
    expected = {"error": 0.4, "error@discard=0.3": 0.25, "area": 0.2 * 0.4 + 0.4 * 0.25, "area@discard=0.3": 0.105}
    assert results == pytest.approx(expected)


@pytest.mark.parametrize("name", ["error_versus_discard", "face_identification", "face_verification"])
def test_example_of_the_docstring(name):
    metric = evaluate.load(str(METRICS / name))
    examples = doctest.DocTestParser().get_doctest(metric.inputs_description, {"evaluate": evaluate}, name, None, 0)
    examples.examples = examples.examples[1:]  # `evaluate.load` by a path below the repository
    examples.globs[name] = metric
    assert doctest.DocTestRunner().run(examples).failed == 0
    assert len(examples.examples) >= 3


@pytest.mark.parametrize("name", ["error_versus_discard", "face_identification", "face_verification"])
def test_folder_is_a_space(name):
    folder = METRICS / name
    card = yaml.safe_load((folder / "README.md").read_text().split("---")[1])
    assert card["sdk"] == "gradio"
    assert (folder / card["app_file"]).is_file()
    assert "metric" in card["tags"]
    assert (folder / "requirements.txt").read_text().split() == ["evaluate", "hf_face"]
