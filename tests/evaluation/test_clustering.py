"""BCubed and pairwise measures, against their definitions."""

from itertools import combinations

import numpy as np
import pytest
from sklearn.metrics.cluster import pair_confusion_matrix

from hf_face.evaluation import clustering_metrics


def test_against_the_definitions():
    rng = np.random.default_rng(0)
    people, groups = rng.integers(0, 12, 100), rng.integers(0, 9, 100)
    same_person, same_group = people[:, None] == people, groups[:, None] == groups
    both = same_person & same_group
    metrics = clustering_metrics(people, groups)
    assert metrics["bcubed_precision"] == pytest.approx(np.mean(both.sum(1) / same_group.sum(1)))
    assert metrics["bcubed_recall"] == pytest.approx(np.mean(both.sum(1) / same_person.sum(1)))
    pairs = list(combinations(range(100), 2))
    right = sum(both[pair] for pair in pairs)
    assert metrics["pairwise_precision"] == pytest.approx(right / sum(same_group[pair] for pair in pairs))
    assert metrics["pairwise_recall"] == pytest.approx(right / sum(same_person[pair] for pair in pairs))
    (_, wrong), (missed, right) = pair_confusion_matrix(people, groups)
    assert metrics["pairwise_f"] == pytest.approx(2 * right / (2 * right + wrong + missed))


@pytest.mark.parametrize(
    ("people", "groups", "bcubed", "pairwise"),
    [
        (["a", "a", "b"], [5, 5, 7], (1, 1, 1), (1, 1, 1)),
        (["a", "a", "b"], [0, 0, 0], (5 / 9, 1, 5 / 7), (1 / 3, 1, 1 / 2)),
        (["a", "a", "b"], [0, 1, 2], (1, 2 / 3, 4 / 5), (1, 0, 0)),
        (["a", "b"], [0, 0], (1 / 2, 1, 2 / 3), (0, 1, 0)),
        (["a", "b"], [0, 1], (1, 1, 1), (1, 1, 1)),
        (["a", "b", "a", "b"], [0, 0, 1, 1], (1 / 2, 1 / 2, 1 / 2), (0, 0, 0)),
    ],
)
def test_small_ones(people, groups, bcubed, pairwise):
    metrics = clustering_metrics(np.array(people), np.array(groups))
    assert list(metrics.values()) == pytest.approx([*bcubed, *pairwise])


def test_what_cannot_be_measured():
    with pytest.raises(ValueError, match="found 2 and 3"):
        clustering_metrics(np.arange(2), np.arange(3))
    with pytest.raises(ValueError, match="found 0 and 0"):
        clustering_metrics(np.arange(0), np.arange(0))
