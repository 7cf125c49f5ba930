from pathlib import Path

import evaluate
import numpy as np
import pytest
import yaml

from hf_face.evaluation import verification_metrics

FOLDER = Path(__file__).parents[2] / "hf_face" / "metrics" / "face_verification"


@pytest.fixture(scope="module")
def metric():
    return evaluate.load(str(FOLDER))


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


def test_folder_is_a_space():
    card = yaml.safe_load((FOLDER / "README.md").read_text().split("---")[1])
    assert card["sdk"] == "gradio"
    assert (FOLDER / card["app_file"]).is_file()
    assert "metric" in card["tags"]
    assert (FOLDER / "requirements.txt").read_text().split() == ["evaluate", "hf_face"]
