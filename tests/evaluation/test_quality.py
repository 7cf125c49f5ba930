import json

import numpy as np
import pytest

from hf_face.evaluation import Embedder, ErrorDiscard, QualityEvaluator, embed_images
from hf_face.evaluation.metrics import choose_far


def test_discarding_follows_quality_and_takes_ties_together():
    errors = np.array([1, 0, 1, 0, 0], dtype=bool)
    quality = np.array([0.1, 0.2, 0.2, 0.9, 0.5])
    curve = ErrorDiscard.from_errors(errors, quality)
    assert curve.discarded.tolist() == [0.0, 0.2, 0.6, 0.8]
    assert curve.error.tolist() == [2 / 5, 1 / 4, 0, 0]
    assert [curve.at(discard) for discard in (0, 0.19, 0.2, 0.5, 0.6, 1)] == [2 / 5, 2 / 5, 1 / 4, 1 / 4, 0, 0]
    assert curve.area() == pytest.approx(0.2 * 2 / 5 + 0.4 * 1 / 4)
    assert curve.area(0.3) == pytest.approx(0.2 * 2 / 5 + 0.1 * 1 / 4)


def test_area_tells_good_quality_from_useless_and_misleading():
    errors = np.arange(100) < 10
    areas = [
        ErrorDiscard.from_errors(errors, quality).area() for quality in (-1.0 * errors, np.zeros(100), 1.0 * errors)
    ]
    assert areas[0] == pytest.approx(0.1 * 0.1)  # all errors go first
    assert areas[1] == pytest.approx(0.1)  # the plain error rate
    assert areas[2] == pytest.approx(0.9 * 0.1 + 0.1)  # nothing but errors is left


def test_order_of_the_pairs_does_not_matter():
    rng = np.random.default_rng(0)
    errors, quality = rng.random(50) < 0.3, rng.integers(0, 5, 50)
    order = rng.permutation(50)
    first, second = ErrorDiscard.from_errors(errors, quality), ErrorDiscard.from_errors(errors[order], quality[order])
    np.testing.assert_allclose(first.error, second.error)


def test_bad_quality_is_named():
    with pytest.raises(ValueError, match="one quality per comparison"):
        ErrorDiscard.from_errors(np.zeros(3), np.zeros(2))
    with pytest.raises(ValueError, match="the quality of comparison 1 is nan"):
        ErrorDiscard.from_errors(np.zeros(3), np.array([0, np.nan, 1]))


def test_figures_are_those_of_the_genuine_pairs_at_the_threshold_of_the_far(
    model, image_processor, orl_pairs, tmp_path
):
    evaluator = QualityEvaluator(orl_pairs, far=0.05)
    metrics = evaluator.evaluate(Embedder(model, image_processor), tmp_path)
    embeddings = embed_images(model, orl_pairs.images, image_processor)
    first, second = orl_pairs.pairs.T
    scores = (embeddings.embeddings[first].astype(float) * embeddings.embeddings[second]).sum(1)
    genuine = orl_pairs.same
    threshold = np.sort(scores[~genuine])[-9]  # 0.05 of 180 impostors
    rejected = scores[genuine] <= np.sort(scores[~genuine])[-10]
    assert metrics["fnmr@far=5e-2"] == rejected.mean()
    quality = np.minimum(embeddings.norms[first], embeddings.norms[second])
    keep = np.argsort(quality[genuine], kind="stable")[18:]  # a tenth gone; norms of distinct images do not tie much
    assert metrics["fnmr@discard=0.1"] == pytest.approx(rejected[keep].mean(), abs=0.02)
    errors = (scores >= threshold) != genuine
    assert metrics["error_correlation"] == pytest.approx(_spearman(quality, errors), abs=1e-6)
    assert metrics["genuine_correlation"] == pytest.approx(_spearman(quality[genuine], scores[genuine]))
    assert evaluator.primary_metric in metrics and not evaluator.greater_is_better
    assert evaluator.is_greater_better("genuine_correlation") and not evaluator.is_greater_better("erc_area")
    assert [path.name for path in tmp_path.iterdir()] == ["orl_quality_erc.png"]


def _spearman(first, second) -> float:
    """Pearson's correlation of ranks, equal values sharing the mean rank."""
    ranks = [(values[:, None] > values).sum(1) + (values[:, None] == values).sum(1) / 2 for values in (first, second)]
    return np.corrcoef(ranks)[0, 1]


def test_any_score_can_be_the_quality(model, image_processor, orl_pairs, tmp_path):
    embedder = Embedder(model, image_processor)
    quality = np.random.default_rng(0).random(len(orl_pairs.images))
    given = QualityEvaluator(orl_pairs, quality, far=0.05).evaluate(embedder)
    by_norm = QualityEvaluator(orl_pairs, far=0.05).evaluate(embedder)
    assert given["fnmr@far=5e-2"] == by_norm["fnmr@far=5e-2"]
    assert given["erc_area"] != by_norm["erc_area"]
    images = orl_pairs.images.add_column("sharpness", quality.tolist())
    pairs = type(orl_pairs)(images, orl_pairs.pairs, orl_pairs.same, orl_pairs.fold, "orl")
    assert QualityEvaluator(pairs, "sharpness", far=0.05).evaluate(embedder) == given
    measures = [QualityEvaluator(pairs, measure, far=0.05).measure for measure in (None, quality, "sharpness")]
    assert measures == ["norm", "quality", "sharpness"], "in the legend"


def test_threshold_is_by_default_of_the_finest_far_that_the_pairs_show(model, image_processor, orl_pairs):
    assert [choose_far(None, count, "orl") for count in (10, 99, 100, 999, 1000, 10**7)] == [
        0.1,
        0.1,
        0.01,
        0.01,
        1e-3,
        1e-3,
    ]
    embedder = Embedder(model, image_processor)
    metrics = QualityEvaluator(orl_pairs).evaluate(embedder)
    assert metrics == QualityEvaluator(orl_pairs, far=0.01).evaluate(embedder)
    assert "fnmr@far=1e-2" in metrics


def test_correlation_with_a_constant_is_left_out(model, image_processor, orl_pairs):
    embedder = Embedder(model, image_processor)
    metrics = QualityEvaluator(orl_pairs, np.ones(len(orl_pairs.images))).evaluate(embedder)
    assert not [key for key in metrics if "correlation" in key]
    assert metrics["erc_area"] == pytest.approx(metrics["fnmr@far=1e-2"])
    json.dumps(metrics, allow_nan=False)


def test_unusable_arguments_are_named(orl_pairs):
    with pytest.raises(ValueError, match=r"orl: FAR 0\.001 is not measurable with 180 impostor pairs"):
        QualityEvaluator(orl_pairs, far=1e-3)
    with pytest.raises(ValueError, match=r"orl: FAR 0\.1 is not measurable with 9 impostor pairs"):
        choose_far(None, 9, "orl")
    with pytest.raises(ValueError, match="orl: no column 'sharpness' in the images"):
        QualityEvaluator(orl_pairs, "sharpness", far=0.05)
    with pytest.raises(ValueError, match=r"orl: 40 images, but quality has shape \(3,\)"):
        QualityEvaluator(orl_pairs, np.zeros(3), far=0.05)
