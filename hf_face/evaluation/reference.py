"""Other projects' verification metrics, computed as in their scripts for comparison with published results.

See docs/evaluation.md for how they differ from `hf_face.evaluation.metrics`.
"""

from typing import NamedTuple

import numpy as np
from sklearn.metrics import roc_curve
from sklearn.model_selection import KFold

from .metrics import FoldAccuracies, check_rate, checked_pairs

NUM_FOLDS = 10


class InsightFaceAccuracy(NamedTuple):
    """InsightFace's `calculate_roc`: accuracy of each fold and the threshold chosen on the others, both (num_folds,),
    and true and false accept rates at each of 400 thresholds, averaged over folds, both (400,)."""

    accuracies: np.ndarray
    thresholds: np.ndarray
    tpr: np.ndarray
    fpr: np.ndarray


class InsightFaceVal(NamedTuple):
    """InsightFace's VAL: means over the test folds; `val_std` is the population standard deviation."""

    val: float
    val_std: float
    far: float
    thresholds: np.ndarray  # (num_folds,) squared distances


def insightface_accuracy(distances: np.ndarray, same: np.ndarray, num_folds: int = NUM_FOLDS) -> InsightFaceAccuracy:
    """`calculate_roc` of InsightFace's `eval/verification.py`: ten-fold accuracy on squared distances.

    A pair is accepted if its distance is strictly below the threshold. A fold's threshold is the first of
    `np.arange(0, 4, 0.01)` with the best accuracy on the other folds. Folds are consecutive and not shuffled. A rate is
    zero in a fold without pairs of its kind.

    Args:
        distances (`np.ndarray` of shape (P,)): squared distances of unit-length embeddings, in [0, 4].
        same (`np.ndarray` of shape (P,)): true for genuine pairs.

    Raises:
        ValueError: if lengths differ, or a distance is not finite.
    """
    thresholds = np.arange(0, 4, 0.01)
    same, distances = checked_pairs(same, distances)
    accuracies: list[float] = []
    chosen: list[float] = []
    tpr: list[np.ndarray] = []
    fpr: list[np.ndarray] = []
    for train, test in KFold(num_folds).split(distances):
        correct = _below(distances[train][same[train]], thresholds)
        correct -= _below(distances[train][~same[train]], thresholds)
        threshold = thresholds[np.argmax(correct)]
        accuracies.append(np.mean((distances[test] < threshold) == same[test]))
        chosen.append(threshold)
        for rates, kind in ((tpr, same[test]), (fpr, ~same[test])):
            rates.append(_below(distances[test][kind], thresholds) / max(kind.sum(), 1))
    return InsightFaceAccuracy(np.array(accuracies), np.array(chosen), np.mean(tpr, axis=0), np.mean(fpr, axis=0))


def insightface_val(
    distances: np.ndarray, same: np.ndarray, far_target: float = 1e-3, num_folds: int = NUM_FOLDS
) -> InsightFaceVal:
    """`calculate_val` of InsightFace's `eval/verification.py`: the share of accepted genuine pairs at a FAR.

    Each fold's threshold is linearly interpolated from the other folds' FAR over `np.arange(0, 4, 0.001)`, or zero if
    that FAR does not reach `far_target`. The FAR on the test folds may be above the target.

    Raises:
        ValueError: if lengths differ, a distance is not finite, `far_target` is not a rate, or a fold has no genuine or
            no impostor pairs (the reference divides by zero).
    """
    check_rate(far_target)
    thresholds = np.arange(0, 4, 0.001)
    same, distances = checked_pairs(same, distances)
    if not folds_are_mixed(same, num_folds):
        raise ValueError(
            "every fold needs genuine and impostor pairs; mix the pairs before splitting them into consecutive folds"
        )
    vals, fars, chosen = [], [], []
    for train, test in KFold(num_folds).split(distances):
        genuine, impostors = distances[test][same[test]], distances[test][~same[test]]
        train_impostors = distances[train][~same[train]]
        train_far = _below(train_impostors, thresholds) / len(train_impostors)
        threshold = np.interp(far_target, train_far, thresholds) if train_far.max() >= far_target else 0.0
        vals.append(np.mean(genuine < threshold))
        fars.append(np.mean(impostors < threshold))
        chosen.append(threshold)
    return InsightFaceVal(float(np.mean(vals)), float(np.std(vals)), float(np.mean(fars)), np.array(chosen))


def folds_are_mixed(same: np.ndarray, num_folds: int = NUM_FOLDS) -> bool:
    """Whether each consecutive fold has genuine and impostor pairs, as `insightface_val` requires."""
    return all(0 < same[test].sum() < len(test) for _, test in KFold(num_folds).split(same))


def timm_face_accuracy(scores: np.ndarray, same: np.ndarray, num_folds: int = NUM_FOLDS) -> FoldAccuracies:
    """`kfold_accuracy` of timm-face's `train.py`: accuracy at cosine thresholds from the training folds' scores.

    A pair is accepted if `score >= threshold`. The threshold is the first best one of sklearn's thinned ROC curve,
    which starts at infinity. The project does not use flipped images.

    Args:
        scores (`np.ndarray` of shape (P,)): similarity of each pair.
        same (`np.ndarray` of shape (P,)): true for genuine pairs.

    Raises:
        ValueError: if lengths differ, or a score is not finite.
    """
    same, scores = checked_pairs(same, scores)
    accuracies, chosen = [], []
    for train, test in KFold(num_folds).split(scores):
        thresholds = roc_curve(same[train], scores[train])[2]
        # Rejected impostors minus rejected genuine pairs: the number of correct pairs up to a constant.
        correct = _below(scores[train][~same[train]], thresholds) - _below(scores[train][same[train]], thresholds)
        threshold = thresholds[np.argmax(correct)]
        accuracies.append(np.mean((scores[test] >= threshold) == same[test]))
        chosen.append(threshold)
    return FoldAccuracies(np.array(accuracies), np.array(chosen))


def _below(values: np.ndarray, thresholds: np.ndarray) -> np.ndarray:
    """Number of values strictly below each threshold (T,)."""
    return np.searchsorted(np.sort(values), thresholds, side="left")
