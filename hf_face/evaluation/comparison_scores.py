"""Millions of comparison scores: operating points from sorted scores, with all impostors or only their upper tail.

`metrics.ROC` has a point per distinct score, which suits a few thousand pairs. IJB-C has 15.7 million pairs, and an
all-pairs protocol 10^10 and more: for these, metrics at a low FAR are read from the sorted scores directly.
"""

from dataclasses import dataclass

import numpy as np

from .metrics import ROC, OperatingPoint, checked_pairs, measured_errors

BLOCK_SIZE = 2**24  # similarities to compute at a time


@dataclass(frozen=True)
class ComparisonScores:
    """Scores of genuine pairs and the highest scores of impostor pairs, both ascending.

    Args:
        genuine: scores (G,) of all genuine pairs.
        impostors: the highest scores (K,) of the impostor pairs.
        num_impostors: total number of impostor pairs; more than K if only the tail was kept.
    """

    genuine: np.ndarray
    impostors: np.ndarray
    num_impostors: int

    @classmethod
    def from_pairs(cls, same: np.ndarray, scores: np.ndarray) -> "ComparisonScores":
        """Split and sort the scores (P,) of pairs, with `same` (P,) true for genuine pairs.

        Raises:
            ValueError: if lengths differ, a score is not finite, or there are no pairs of one kind.
        """
        same, scores = checked_pairs(same, scores)
        genuine, impostors = np.sort(scores[same]), np.sort(scores[~same])
        if not len(genuine) or not len(impostors):
            raise ValueError(f"found {len(genuine)} genuine and {len(impostors)} impostor pairs; TAR@FAR requires both")
        return cls(genuine, impostors, len(impostors))

    @property
    def finest_far(self) -> float:
        """The smallest measurable FAR above zero: one impostor pair."""
        return 1 / self.num_impostors

    def at_far(self, target: float) -> OperatingPoint:
        """The point with the largest TAR at a FAR of at most `target`; a pair is accepted if `score >= threshold`.

        Raises:
            ValueError: if `target` is not a rate, is below one impostor pair and not measurable, or requires more
                impostor scores than were kept.
        """
        allowed = measured_errors(target, self.num_impostors)
        kept = len(self.impostors)
        if allowed >= kept and kept < self.num_impostors:
            raise ValueError(f"FAR {target:g} requires the {allowed + 1} highest impostor scores; {kept} were kept")
        # The highest impostor score that must not be accepted.
        rejected = self.impostors[kept - allowed - 1] if allowed < kept else -np.inf
        genuine = np.searchsorted(self.genuine, rejected, side="right")
        impostor = np.searchsorted(self.impostors, rejected, side="right")
        sides = (self.genuine, genuine), (self.impostors, impostor)
        above = [scores[first] for scores, first in sides if first < len(scores)]
        threshold = min(above, default=np.nextafter(rejected, np.inf))
        return OperatingPoint(
            far=(kept - impostor) / self.num_impostors,
            tar=(len(self.genuine) - genuine) / len(self.genuine),
            threshold=float(threshold),
        )

    @property
    def auc(self) -> float:
        """Probability that a genuine pair scores above an impostor pair, ties counting half.

        Raises:
            ValueError: if only the highest impostor scores were kept.
        """
        if len(self.impostors) < self.num_impostors:
            raise ValueError(
                f"the AUC requires all {self.num_impostors} impostor scores; {len(self.impostors)} were kept"
            )
        below = np.searchsorted(self.impostors, self.genuine, side="left")
        not_above = np.searchsorted(self.impostors, self.genuine, side="right")
        return float((below + not_above).mean() / 2 / self.num_impostors)

    def curve(self) -> ROC:
        """The corners of the curve, before and at each genuine score, down to the lowest kept impostor score. For
        plots; has the area of the whole curve if all impostors were kept."""
        complete = len(self.impostors) == self.num_impostors
        lowest = min(self.genuine[0], self.impostors[0]) if complete else self.impostors[0]
        genuine = self.genuine[self.genuine >= lowest]
        thresholds = np.unique(np.concatenate([genuine, np.nextafter(genuine, np.inf), [lowest]]))[::-1]
        accepted = len(self.impostors) - np.searchsorted(self.impostors, thresholds, side="left")
        found = len(self.genuine) - np.searchsorted(self.genuine, thresholds, side="left")
        far = np.append(0, accepted) / self.num_impostors
        tar = np.append(0, found) / len(self.genuine)
        top = np.nextafter(max(self.genuine[-1], self.impostors[-1]), np.inf)
        return ROC(far, tar, np.append(top, thresholds), len(self.genuine), self.num_impostors)
