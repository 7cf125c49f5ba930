"""The fairness protocol: the same figures for each group of people, and how far apart they lie."""

from pathlib import Path

import numpy as np

from ..data import VerificationPairs
from ..embedding import Embedder, Flip
from ..embedding.ranks import is_main_process
from .evaluator import Evaluator
from .metrics import ROC, choose_far, format_far
from .plots import plot_roc, save_figure
from .verification import VerificationEvaluator

# Figures of the data, thresholds, and variants of a rate that is there already: their spread says nothing new.
NOT_SPREAD = ("num_", "finest_", "threshold", "accuracy_std", "insightface", "timm_face")


class FairnessEvaluator(Evaluator):
    """Runs one protocol per group and adds the spread of every rate that all groups have.

    Each group's metrics come as `<name>_<group>_<metric>`. For each rate, `<name>_<metric>_mean`, `_std` (sample
    standard deviation over the groups) and `_gap` (largest minus smallest) follow, and for the groups' primary metric
    the worst group's value (`_min`, or `_max` where a smaller value is the better one) and the skewed error ratio
    `_ser`, largest over smallest error (Wang and Deng 2020, "Mitigating Bias in Face Recognition Using Skewness-Aware
    Reinforcement Learning"; left out when a group makes no error). The error is 1 minus the primary metric, or the
    metric itself where smaller is better.

    Args:
        groups (`dict[str, Evaluator]`): the protocol of each group, two or more.
        name (`str`): prefix of every metric.
    """

    def __init__(self, groups: dict[str, Evaluator], name: str = "fairness"):
        if len(groups) < 2:
            raise ValueError(f"{name}: fairness compares two groups or more, found {sorted(groups)}")
        self.groups = groups
        self.name = name
        first = next(iter(groups.values()))
        self.rate = first.primary_metric.removeprefix(f"{first.name}_")
        self.greater_is_better = first.greater_is_better
        self.primary_metric = f"{name}_{self.rate}_{'min' if self.greater_is_better else 'max'}"
        self.needs_flip = any(evaluator.needs_flip for evaluator in groups.values())

    @property
    def not_measurable(self) -> list[str]:
        return [
            f"{self.name}_{group}_{key.removeprefix(f'{evaluator.name}_')}"
            for group, evaluator in self.groups.items()
            for key in evaluator.not_measurable
        ]

    def evaluate(self, embedder: Embedder, output_dir: str | Path | None = None) -> dict[str, float]:
        by_group = {}
        for group, evaluator in self.groups.items():
            metrics = evaluator.evaluate(embedder, output_dir)
            by_group[group] = {key.removeprefix(f"{evaluator.name}_"): value for key, value in metrics.items()}
        rates = [values[self.rate] for values in by_group.values()]
        worst = min(rates) if self.greater_is_better else max(rates)
        return self._flatten(by_group) | {self.primary_metric: worst} | self._skewed_error_ratio(rates)

    def _flatten(self, by_group: dict[str, dict[str, float]]) -> dict[str, float]:
        flat = {f"{self.name}_{group}_{key}": value for group, own in by_group.items() for key, value in own.items()}
        for key in next(iter(by_group.values())):
            values = np.array([metrics[key] for metrics in by_group.values() if key in metrics])
            if len(values) == len(by_group) and not key.startswith(NOT_SPREAD):
                flat[f"{self.name}_{key}_mean"] = float(values.mean())
                flat[f"{self.name}_{key}_std"] = float(values.std(ddof=1))
                flat[f"{self.name}_{key}_gap"] = float(np.ptp(values))
        return flat

    def _skewed_error_ratio(self, rates: list[float]) -> dict[str, float]:
        errors = [1 - rate for rate in rates] if self.greater_is_better else rates
        return {f"{self.name}_{self.rate}_ser": max(errors) / min(errors)} if min(errors) > 0 else {}


class VerificationFairnessEvaluator(FairnessEvaluator):
    """Verification pairs per group, such as RFW's four sets, with each group's own threshold and with a common one.

    Ten-fold accuracy gives every group the threshold that suits it; a deployed system has one for all. So, besides
    [`VerificationEvaluator`]'s figures, each group's false match and false non-match rate (`fmr@far=...`,
    `fnmr@far=...`) at the threshold that gives the stated FAR over all groups' pairs together, with their spread.

    Args:
        groups (`dict[str, VerificationPairs]`): the pairs of each group; [`split_by_group`] makes them from one set.
        name (`str`): prefix of every metric.
        far (`float`, *optional*): the false accept rate of the common threshold; by default 1e-3, or where all impostor
            pairs together cannot show that, the finest of 1e-2 and 1e-1.
        flip (`str`, *optional*): test-time augmentation by the flipped image: `"sum"`, `"concat"` or `None`.

    Raises:
        ValueError: if `far` is finer than one of all impostor pairs.
    """

    def __init__(
        self,
        groups: dict[str, VerificationPairs],
        name: str = "fairness",
        far: float | None = None,
        flip: Flip = "sum",
    ):
        super().__init__({group: VerificationEvaluator(pairs, flip) for group, pairs in groups.items()}, name)
        self.far = choose_far(far, sum(int((~pairs.same).sum()) for pairs in groups.values()), name)

    def evaluate(self, embedder: Embedder, output_dir: str | Path | None = None) -> dict[str, float]:
        metrics = super().evaluate(embedder, output_dir)
        scores = {group: evaluator.scores(embedder) for group, evaluator in self.groups.items()}
        same = {group: evaluator.pairs.same for group, evaluator in self.groups.items()}
        pooled = ROC.from_scores(np.concatenate([*same.values()]), np.concatenate([*scores.values()]))
        threshold = pooled.at_far(self.far).threshold
        metrics |= self._flatten({group: self._rates(same[group], scores[group] >= threshold) for group in same})
        metrics[f"{self.name}_threshold@far={format_far(self.far)}"] = threshold
        if output_dir is not None and is_main_process():
            curves = {group: ROC.from_scores(same[group], scores[group]) for group in same}
            save_figure(plot_roc(curves), Path(output_dir) / f"{self.name}_roc_by_group.png")
        return metrics

    def _rates(self, same: np.ndarray, accepted: np.ndarray) -> dict[str, float]:
        far = format_far(self.far)
        return {f"fmr@far={far}": float(accepted[~same].mean()), f"fnmr@far={far}": float((~accepted[same]).mean())}


def split_by_group(pairs: VerificationPairs) -> dict[str, VerificationPairs]:
    """The pairs of each value of `pairs.group`, over the same images.

    Raises:
        ValueError: if the pairs have no group.
    """
    if pairs.group is None:
        raise ValueError(f"{pairs.name}: the pairs have no column 'group' to compare people by")
    groups = {}
    for group in np.unique(pairs.group):
        rows = pairs.group == group
        fold = None if pairs.fold is None else pairs.fold[rows]
        groups[str(group)] = VerificationPairs(pairs.images, pairs.pairs[rows], pairs.same[rows], fold, str(group))
    return groups
