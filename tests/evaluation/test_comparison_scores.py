import numpy as np
import pytest
from sklearn.metrics import auc, roc_auc_score

from hf_face.evaluation.comparison_scores import ComparisonScores
from hf_face.evaluation.metrics import ROC, allowed_errors


@pytest.mark.parametrize(
    ("rate", "count", "errors"), [(0.29, 100, 29), (0.1, 19, 1), (0.1, 20, 2), (1e-6, 999_999, 0), (0.1, 0, 0)]
)
def test_allowed_errors_is_the_most_not_above_the_rate(rate, count, errors):
    assert allowed_errors(rate, count) == errors


@pytest.mark.parametrize("decimals", [1, 2, 15])
def test_operating_points_are_those_of_the_whole_curve(decimals):
    """Also with ties, which one decimal makes plenty of."""
    rng = np.random.default_rng(0)
    same = rng.random(3000) < 0.2
    scores = np.round(rng.standard_normal(3000) + 1.5 * same, decimals)
    ours, curve = ComparisonScores.from_pairs(same, scores), ROC.from_scores(same, scores)
    assert ours.auc == pytest.approx(roc_auc_score(same, scores), abs=1e-12)
    assert auc(ours.curve().far, ours.curve().tar) == pytest.approx(ours.auc, abs=1e-12)
    assert ours.curve().thresholds[0] == np.nextafter(scores.max(), np.inf), "accepts nothing"
    assert ours.finest_far == curve.finest_far == 1 / (~same).sum()
    for far in (1, 0.5, 0.1, 0.03, 1e-2, 1e-3, ours.finest_far):
        assert ours.at_far(far) == curve.at_far(far)


def test_tail_gives_the_same_points_and_says_where_it_ends():
    rng = np.random.default_rng(0)
    genuine, impostors = np.sort(rng.standard_normal(50) + 2), np.sort(rng.standard_normal(10_000))
    whole = ComparisonScores(genuine, impostors, 10_000)
    tail = ComparisonScores(genuine, impostors[-101:], 10_000)
    assert tail.at_far(0.01) == whole.at_far(0.01)
    with pytest.raises(ValueError, match="requires the 102 highest impostor scores; 101 were kept"):
        tail.at_far(0.0101)
    with pytest.raises(ValueError, match="requires all 10000 impostor scores"):
        _ = tail.auc


@pytest.mark.parametrize("kind", [0, 1])
def test_curve_starts_above_the_highest_score_of_either_kind(kind):
    scores = [np.array([0.1, 0.2, 0.3]), np.array([0.2, 0.4, 0.9])]
    curve = ComparisonScores(scores[kind], scores[1 - kind], 3).curve()
    assert curve.thresholds[0] == np.nextafter(0.9, np.inf) and curve.far[0] == curve.tar[0] == 0
    assert curve.thresholds[-1] == 0.1 and curve.far[-1] == curve.tar[-1] == 1


def test_curve_has_the_corner_above_the_lowest_score():
    curve = ComparisonScores(np.array([0.1, 0.9]), np.array([0.5]), 1).curve()
    assert auc(curve.far, curve.tar) == 0.5


def test_threshold_where_no_impostor_scores_higher():
    scores = ComparisonScores(np.array([0.1, 0.9]), np.array([0.5, 0.5]), 2)
    assert scores.at_far(0.5) == (0, 0.5, 0.9)
    scores = ComparisonScores(np.array([0.1, 0.2]), np.array([0.5, 0.5]), 2)
    assert scores.at_far(0.5) == (0, 0, np.nextafter(0.5, 1))


def test_far_finer_than_one_impostor_is_not_measurable():
    scores = ComparisonScores(np.array([0.9]), np.linspace(-1, 0, 999), 999)
    with pytest.raises(
        ValueError, match=r"FAR 0\.001 is not measurable with 999 impostor pairs, only with 1000 or more"
    ):
        scores.at_far(1e-3)


def test_bad_scores_are_named():
    with pytest.raises(ValueError, match="the score of pair 2 is nan"):
        ComparisonScores.from_pairs([1, 0, 0], np.array([0.1, 0.2, np.nan]))
    with pytest.raises(ValueError, match="found 2 genuine and 0 impostor pairs"):
        ComparisonScores.from_pairs([1, 1], np.array([0.1, 0.2]))
