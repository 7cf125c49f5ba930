"""Comparison scores by the million: operating points from sorted scores, with all impostors or only their upper tail.

`metrics.ROC` holds a point per distinct score and is what a few thousand pairs need. IJB-C has 15.7 million, an
all-pairs protocol 10^10 and more: there, every figure at a low FAR is read off the sorted scores themselves.
"""

from dataclasses import dataclass

import numpy as np

from .metrics import ROC, OperatingPoint


def allowed_errors(rate: float, count: int) -> int:
    """The most errors among `count` trials whose share is not above `rate`."""
    nearest = round(rate * count)
    return nearest if nearest <= rate * count or nearest / count <= rate else nearest - 1


@dataclass(frozen=True)
class ComparisonScores:
    """Scores of genuine pairs and the highest scores of impostor pairs, both ascending.

    Args:
        genuine: scores (G,) of all genuine pairs.
        impostors: the highest scores (K,) of the impostor pairs.
        num_impostors: impostor pairs in all; more than K where only the tail was kept.
    """

    genuine: np.ndarray
    impostors: np.ndarray
    num_impostors: int

    @classmethod
    def from_pairs(cls, same: np.ndarray, scores: np.ndarray) -> "ComparisonScores":
        """Split and sort the scores (P,) of pairs, `same` (P,) being true for genuine ones.

        Raises:
            ValueError: a score is not finite, or either kind of pair is missing.
        """
        same = np.asarray(same, dtype=bool)
        genuine, impostors = np.sort(scores[same]), np.sort(scores[~same])
        if not len(genuine) or not len(impostors):
            raise ValueError(f"found {len(genuine)} genuine and {len(impostors)} impostor pairs; TAR@FAR needs both")
        # Sorting leaves infinities and NaN at the ends.
        if not np.isfinite([genuine[0], genuine[-1], impostors[0], impostors[-1]]).all():
            first = int(np.argmin(np.isfinite(scores)))
            raise ValueError(f"pair {first} scores {scores[first]}: the model gave an embedding that is not finite")
        return cls(genuine, impostors, len(impostors))

    @property
    def finest_far(self) -> float:
        """The smallest FAR above zero that these pairs can show: one impostor."""
        return 1 / self.num_impostors

    def at_far(self, target: float) -> OperatingPoint:
        """The point of the largest TAR whose FAR is not above `target`; a pair is accepted when `score >= threshold`.

        Raises:
            ValueError: `target` is finer than one impostor, hence not measurable, or takes more impostors than were
                kept.
        """
        allowed = allowed_errors(target, self.num_impostors)
        if allowed == 0:
            raise ValueError(f"FAR {target:g} is not measurable with {self.num_impostors} impostor pairs")
        kept = len(self.impostors)
        if allowed >= kept and kept < self.num_impostors:
            raise ValueError(f"FAR {target:g} takes the {allowed + 1} highest impostor scores; {kept} were kept")
        # The highest impostor score that must not be accepted.
        rejected = self.impostors[kept - allowed - 1] if allowed < kept else -np.inf
        genuine = np.searchsorted(self.genuine, rejected, side="right")
        impostor = np.searchsorted(self.impostors, rejected, side="right")
        above = [*self.genuine[genuine : genuine + 1], *self.impostors[impostor : impostor + 1]]
        threshold = min(above, default=np.nextafter(rejected, np.inf))
        return OperatingPoint(
            far=(kept - impostor) / self.num_impostors,
            tar=(len(self.genuine) - genuine) / len(self.genuine),
            threshold=float(threshold),
        )

    @property
    def auc(self) -> float:
        """The chance that a genuine pair scores above an impostor pair, ties counting half; needs all impostors."""
        if len(self.impostors) < self.num_impostors:
            raise ValueError(f"the AUC needs all {self.num_impostors} impostor scores; {len(self.impostors)} were kept")
        below = np.searchsorted(self.impostors, self.genuine, side="left")
        not_above = np.searchsorted(self.impostors, self.genuine, side="right")
        return float((below + not_above).mean() / 2 / self.num_impostors)

    def curve(self) -> ROC:
        """The corners of the curve, before and at each genuine score, as far down as the kept impostors reach: for
        figures, with the area of the whole curve where all impostors were kept."""
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
