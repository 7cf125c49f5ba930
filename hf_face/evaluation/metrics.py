"""Verification metrics of comparison scores: ROC, TAR at a FAR, EER, AUC and cross-validated accuracy.

Scores are similarities, and a pair is accepted if `score >= threshold`. FAR (false accept rate) is the share of
accepted impostor pairs, TAR (true accept rate) the share of accepted genuine pairs.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from numbers import Integral
from typing import NamedTuple

import numpy as np
from sklearn.metrics import auc, roc_curve

from ..embedding.finite import check_finite

DEFAULT_FARS = (1e-1, 1e-2, 1e-3, 1e-4, 1e-5, 1e-6)

# Metrics of which less is better, by the ends of their names; statistics over groups may follow those of errors.
SPREADS = ("std", "gap", "ser")
ERRORS = ("eer", "erc_area", "fmr", "fnmr", "far", "frr", "fnir", "error_correlation", "loss")
STATISTICS = ("_mean", "_min", "_max")


def greater_is_better(metric: str) -> bool:
    """Whether greater values of a metric are better, by its name: `eer` and `fnmr@far=1e-3` are errors."""
    for statistic in STATISTICS:
        metric = metric.removesuffix(statistic)
    kind = metric.partition("@")[0]
    return not f"_{metric}".endswith(_after_underscore(SPREADS)) and not f"_{kind}".endswith(_after_underscore(ERRORS))


def _after_underscore(names: Sequence[str]) -> tuple[str, ...]:
    return tuple(f"_{name}" for name in names)


def checked_pairs(same: np.ndarray, scores: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """
    `same` (P,) as bool, true for genuine pairs, and `scores` (P,).

    Raises:
        ValueError: if lengths differ, a label is not true or false (1 or 0), or a score is not finite.
    """
    same, scores = np.asarray(same), np.asarray(scores)
    if same.shape != scores.shape or same.ndim != 1:
        raise ValueError(f"expected one score per pair, got {scores.shape} scores for {same.shape} pairs")
    check_finite(scores, "score of pair", ": does the model return finite embeddings?")
    return as_flags(same, "pair"), scores


def as_flags(values: np.ndarray, what: str) -> np.ndarray:
    """
    `values` (P,) as bool, which would also be true for NaN, -1 or 2.

    Raises:
        ValueError: if a value is not true or false (1 or 0).
    """
    values = np.asarray(values)
    known = (values == 0) | (values == 1)
    if not known.all():
        row = int(np.argmin(known))
        raise ValueError(f"{what} {row} is labeled {values[row]}, expected 1 or 0")
    return values.astype(bool)


def allowed_errors(rate: float, count: int) -> int:
    """The largest number of errors in `count` trials with an error rate of at most `rate`; zero if the rate is not
    measurable with so few.

    Raises:
        ValueError: if `rate` is not above 0 and at most 1.
    """
    check_rate(rate)
    nearest = round(rate * count)
    return nearest - 1 if nearest and nearest / count > rate else nearest


def measured_errors(rate: float, count: int, what: str = "FAR", trials: str = "impostor pairs") -> int:
    """[`allowed_errors`] of a rate that has to be measurable.

    Raises:
        ValueError: as there, and if `count` trials are too few; the message names the rate and the trials.
    """
    allowed = allowed_errors(rate, count)
    if not allowed:
        raise ValueError(
            f"{what} {rate:g} is not measurable with {count} {trials}, only with {math.ceil(1 / rate)} or more"
        )
    return allowed


def check_rate(rate: float) -> None:
    """
    Raises:
        ValueError: if `rate` is not above 0 and at most 1.
    """
    if not 0 < rate <= 1:  # false for NaN
        raise ValueError(f"a false accept rate (FAR, FPIR) must be above 0 and at most 1, found {rate:g}")


def check_ranks(ranks: Sequence[int]) -> None:
    """
    Raises:
        ValueError: if a rank is not a whole number of at least 1.
    """
    for rank in ranks:
        if not isinstance(rank, Integral) or rank < 1:
            raise ValueError(f"a rank must be a whole number of at least 1, found {rank!r}")


def cosine_similarities(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Cosine of the angle between unit-length rows, (P, D) and (P, D) to (P,)."""
    return np.einsum("pd,pd->p", first, second)


def squared_distances(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Squared Euclidean distance between rows, (P, D) and (P, D) to (P,); 2 - 2 cosine at unit length."""
    return np.square(first - second).sum(axis=1)


class OperatingPoint(NamedTuple):
    """The rates at a threshold: pairs are accepted if `score >= threshold`."""

    far: float
    tar: float
    threshold: float


class FoldAccuracies(NamedTuple):
    """Accuracy of each fold at the threshold chosen on the others, both of shape (num_folds,)."""

    accuracies: np.ndarray
    thresholds: np.ndarray


@dataclass(frozen=True)
class ROC:
    """The receiver operating characteristic of a set of pairs, one point per distinct score (none dropped).

    Args:
        far, tar (`np.ndarray` of shape (T,)): rates at each threshold, both ascending.
        thresholds (`np.ndarray` of shape (T,)): descending; the first is just above every score and accepts nothing.
        num_genuine, num_impostors (`int`): number of pairs of each kind.
    """

    far: np.ndarray
    tar: np.ndarray
    thresholds: np.ndarray
    num_genuine: int
    num_impostors: int

    @classmethod
    def from_scores(cls, same: np.ndarray, scores: np.ndarray) -> "ROC":
        """Build the curve from `same` (P,), true for genuine pairs, and `scores` (P,).

        Raises:
            ValueError: if lengths differ, a score is not finite, or there are no pairs of one kind.
        """
        same, scores = checked_pairs(same, scores)
        num_genuine = int(same.sum())
        num_impostors = len(same) - num_genuine
        if not num_genuine or not num_impostors:
            raise ValueError(
                f"a ROC requires genuine and impostor pairs, found {num_genuine} genuine and {num_impostors} impostors"
            )
        far, tar, thresholds = roc_curve(same, scores, drop_intermediate=False)
        thresholds[0] = np.nextafter(thresholds[1], np.inf)  # JSON has no infinity
        return cls(far, tar, thresholds, num_genuine, num_impostors)

    @property
    def finest_far(self) -> float:
        """The smallest measurable FAR above zero: one impostor pair."""
        return 1 / self.num_impostors

    def at_far(self, target: float) -> OperatingPoint:
        """The point with the largest TAR at a FAR of at most `target`.

        Raises:
            ValueError: if `target` is not a rate, or is below one impostor pair and not measurable.
        """
        measured_errors(target, self.num_impostors)
        return self._point(int(np.searchsorted(self.far, target, side="right")) - 1)

    @property
    def eer(self) -> float:
        """Equal error rate, where FAR = 1 - TAR, linearly interpolated between the two points around the crossing."""
        return float(np.interp(0, self.far - (1 - self.tar), self.far))  # the gap rises from -1 to 1

    @property
    def auc(self) -> float:
        """Area under the curve: the probability that a genuine pair scores above an impostor pair."""
        return float(auc(self.far, self.tar))

    @property
    def most_accurate(self) -> OperatingPoint:
        """The highest threshold with the best accuracy on these pairs."""
        # Counts, not rates: equal accuracies must compare as equal.
        correct = np.rint(self.tar * self.num_genuine) - np.rint(self.far * self.num_impostors)
        return self._point(int(np.argmax(correct)))

    def _point(self, index: int) -> OperatingPoint:
        return OperatingPoint(float(self.far[index]), float(self.tar[index]), float(self.thresholds[index]))


def cross_validated_accuracy(
    same: np.ndarray, scores: np.ndarray, fold: np.ndarray | None = None, num_folds: int = 10
) -> FoldAccuracies:
    """Accuracy on each fold at the most accurate threshold on all other folds (LFW's View 2 protocol).

    Args:
        same (`np.ndarray` of shape (P,)): true for genuine pairs.
        scores (`np.ndarray` of shape (P,)): similarity of each pair.
        fold (`np.ndarray` of shape (P,), *optional*): the fold of each pair; by default, folds are consecutive.
        num_folds (`int`): number of consecutive folds if `fold` is not given.

    Raises:
        ValueError: as for [`ROC.from_scores`] and [`split_folds`].
    """
    same, scores = checked_pairs(same, scores)
    accuracies, thresholds = [], []
    for train, test in split_folds(same, fold, num_folds):
        threshold = ROC.from_scores(same[train], scores[train]).most_accurate.threshold
        accuracies.append(np.mean((scores[test] >= threshold) == same[test]))
        thresholds.append(threshold)
    return FoldAccuracies(np.array(accuracies), np.array(thresholds))


def split_folds(
    same: np.ndarray, fold: np.ndarray | None = None, num_folds: int = 10
) -> list[tuple[np.ndarray, np.ndarray]]:
    """For each fold, the rows of all other folds, to choose a threshold on, and its own rows.

    Raises:
        ValueError: if there are fewer pairs than folds, `fold` is not one whole number per pair, or all pairs outside a
            fold are of one kind.
    """
    if fold is None:
        if len(same) < num_folds:
            raise ValueError(
                f"{len(same)} pairs are too few for {num_folds}-fold accuracy: add pairs, or state the fold of each "
                "pair (VerificationPairs(fold=...), or a column `fold` in a CSV or Parquet)"
            )
        fold = np.repeat(np.arange(num_folds), [len(part) for part in np.array_split(same, num_folds)])
    fold = np.asarray(fold)
    if fold.shape != same.shape or fold.dtype.kind not in "iu":
        raise ValueError(
            f"expected a whole number per pair as its fold, got {fold.shape} {fold.dtype} for {same.shape} pairs"
        )
    splits = []
    for number in np.unique(fold):
        train, test = np.flatnonzero(fold != number), np.flatnonzero(fold == number)
        genuine = int(same[train].sum())
        if not 0 < genuine < len(train):
            raise ValueError(
                f"the folds other than {number} have {genuine} genuine and {len(train) - genuine} impostor pairs, but "
                "choosing a threshold requires both: mix the pairs, or pass the fold of each pair"
            )
        splits.append((train, test))
    return splits


@dataclass(frozen=True)
class ErrorDiscard:
    """Error-versus-discard characteristic (Grother and Tabassi 2007): a step function.

    Args:
        discarded (`np.ndarray` of shape (K,)): share of discarded comparisons, ascending from 0.
        error (`np.ndarray` of shape (K,)): error rate of the remaining comparisons, from that share up to the next.
    """

    discarded: np.ndarray
    error: np.ndarray

    @classmethod
    def from_errors(cls, errors: np.ndarray, quality: np.ndarray) -> "ErrorDiscard":
        """Build the curve from `errors` (P,), true for wrong comparisons, and `quality` (P,).

        Comparisons are discarded from the lowest quality up, with equal qualities together (Schlett et al. 2023), so
        the curve does not depend on the order of pairs.

        Raises:
            ValueError: if lengths differ, an error is not true or false, or a quality is not finite.
        """
        errors, quality = np.asarray(errors), np.asarray(quality)
        if errors.shape != quality.shape or errors.ndim != 1:
            raise ValueError(f"expected one quality per comparison, got {quality.shape} for {errors.shape} comparisons")
        check_finite(quality, "quality of comparison")
        errors = as_flags(errors, "comparison").astype(np.float64)
        order = np.argsort(quality)
        starts = np.unique(quality[order], return_index=True)[1]  # the first comparison of each distinct quality
        errors_left = np.cumsum(errors[order][::-1])[::-1]
        return cls(starts / len(errors), errors_left[starts] / (len(errors) - starts))

    def at(self, discard: float) -> float:
        """Error rate after discarding at most the share `discard` of the comparisons."""
        _check_share(discard)
        return float(self.error[np.searchsorted(self.discarded, discard, side="right") - 1])

    def area(self, max_discard: float = 1.0) -> float:
        """Area under the curve from 0 to `max_discard`; for a useless quality, the error rate times `max_discard`."""
        _check_share(max_discard)
        widths = np.diff(np.append(self.discarded.clip(max=max_discard), max_discard))
        return float(widths @ self.error)


def _check_share(discard: float) -> None:
    if not 0 <= discard <= 1:
        raise ValueError(f"the share of comparisons to discard must be from 0 to 1, found {discard:g}")


def format_far(far: float) -> str:
    """Format a rate as in metric names: 0.001 is `1e-3`."""
    mantissa, exponent = f"{far:e}".split("e")
    return f"{float(mantissa):g}e{int(exponent)}"


def choose_far(far: float | None, num_impostors: int, name: str) -> float:
    """Return `far`, or if None the finest of 1e-3, 1e-2 and 1e-1 that this many impostor pairs can measure.

    Raises:
        ValueError: if `far` is not a rate, or it or 1e-1 is below one impostor pair; `name` is the name of the pairs.
    """
    if far is None:
        far = next((each for each in (1e-3, 1e-2) if allowed_errors(each, num_impostors)), 1e-1)
    measured_errors(far, num_impostors, f"{name}: FAR")
    return far


def verification_metrics(
    same: np.ndarray,
    scores: np.ndarray,
    fold: np.ndarray | None = None,
    fars: Sequence[float] = DEFAULT_FARS,
    num_folds: int = 10,
) -> dict[str, float]:
    """Compute all metrics of a verification set from its scores, as a flat dict.

    Args:
        same (`np.ndarray` of shape (P,)): true for genuine pairs.
        scores (`np.ndarray` of shape (P,)): similarity of each pair.
        fold (`np.ndarray` of shape (P,), *optional*): the fold of each pair; by default, folds are consecutive.
        fars (sequence of `float`): false accept rates to report. Rates below `finest_far` are not measurable and left
            out, not reported as zero.
        num_folds (`int`): number of consecutive folds if `fold` is not given.

    Returns:
        `accuracy` and `accuracy_std` (mean and population standard deviation over folds), `threshold` (mean of the
        folds' thresholds), `auc`, `eer`, `tar@far=...` with its `threshold@far=...`, `finest_far`,
        `num_genuine` and `num_impostors`. Rates are fractions of one.
    """
    roc = ROC.from_scores(same, scores)
    folds = cross_validated_accuracy(same, scores, fold, num_folds)
    metrics = {
        "accuracy": float(folds.accuracies.mean()),
        "accuracy_std": float(folds.accuracies.std()),
        "threshold": float(folds.thresholds.mean()),
        "auc": roc.auc,
        "eer": roc.eer,
    }
    points = {format_far(far): roc.at_far(far) for far in fars if allowed_errors(far, roc.num_impostors)}
    metrics |= {f"tar@far={far}": point.tar for far, point in points.items()}
    metrics |= {f"threshold@far={far}": point.threshold for far, point in points.items()}
    return metrics | {
        "finest_far": roc.finest_far,
        "num_genuine": float(roc.num_genuine),
        "num_impostors": float(roc.num_impostors),
    }
