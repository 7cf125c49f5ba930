"""How well groups of faces match the people in them."""

import numpy as np
from sklearn.metrics.cluster import contingency_matrix


def clustering_metrics(people: np.ndarray, groups: np.ndarray) -> dict[str, float]:
    """
    BCubed and pairwise precision, recall and F of a grouping.

    BCubed (Bagga and Baldwin 1998; Amigó et al. 2009) takes the mean over faces: precision is the share of a face's
    group that shows its person, recall the share of its person's faces that are in its group. The pairwise measures
    count pairs of faces, so they depend on the people with many photographs: precision is the share of pairs in one
    group that show one person, recall the share of a person's pairs that are in one group. F is the harmonic mean.

    Args:
        people: Who each face shows (N,), of any type.
        groups: The group of each face (N,), of any type.

    Returns:
        `bcubed_precision`, `bcubed_recall`, `bcubed_f`, `pairwise_precision`, `pairwise_recall`, `pairwise_f`. Without
        any pairs to be right or wrong about, the pairwise measures are 1.

    Raises:
        ValueError: if the lengths differ, or there are no faces.
    """
    if len(people) != len(groups) or not len(people):
        raise ValueError(f"expected the group of each of one or more faces, found {len(people)} and {len(groups)}")
    common = contingency_matrix(people, groups, sparse=True).tocoo()  # (people, groups)
    counts = common.data.astype(np.float64)
    of_person, of_group = (np.bincount(index, counts) for index in (common.row, common.col))
    metrics = _with_f(
        "bcubed",
        float((counts**2 / of_group[common.col]).sum() / len(people)),
        float((counts**2 / of_person[common.row]).sum() / len(people)),
    )
    right = _pairs(counts)
    return metrics | _with_f("pairwise", _share(right, _pairs(of_group)), _share(right, _pairs(of_person)))


def _pairs(counts: np.ndarray) -> float:
    """Ordered pairs, each of which counts twice everywhere."""
    return float((counts * (counts - 1)).sum())


def _share(part: float, whole: float) -> float:
    return part / whole if whole else 1.0


def _with_f(name: str, precision: float, recall: float) -> dict[str, float]:
    total = precision + recall
    f = 2 * precision * recall / total if total else 0.0
    return {f"{name}_precision": precision, f"{name}_recall": recall, f"{name}_f": f}
