"""The fairness protocol: the same metrics for each group of people, and how much they differ."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ..data import VerificationPairs, load_verification_pairs
from ..embedding import Embedder, Flip
from ..registry import protocols
from ..user_input import check_path
from .evaluator import Evaluator, Findings
from .metrics import DEFAULT_FARS, ROC, choose_far, format_far
from .plots import plot_roc
from .protocol_data import has_pairs, load_pairs
from .verification import VerificationEvaluator

# Data sizes, thresholds, and variants of other rates: their spread is not informative.
NOT_SPREAD = ("num_", "finest_", "threshold", "accuracy_std", "insightface", "timm_face")

SKEWED_ERROR_RATIO = """
@inproceedings{skewed_error_ratio,
  title = {Mitigating Bias in Face Recognition Using Skewness-Aware Reinforcement Learning},
  author = {Wang, Mei and Deng, Weihong},
  booktitle = {Conference on Computer Vision and Pattern Recognition},
  year = {2020}
}
"""

RFW = """
@inproceedings{rfw,
  title = {Racial Faces in the Wild: Reducing Racial Bias by Information Maximization Adaptation Network},
  author = {Wang, Mei and Deng, Weihong and Hu, Jiani and Tao, Xunqiang and Huang, Yaohai},
  booktitle = {International Conference on Computer Vision},
  year = {2019}
}
"""


class FairnessEvaluator(Evaluator):
    """
    Runs one protocol per group and adds the spread of every rate that all groups share.

    Each group's metrics are reported as `<group>_<metric>`, followed by `<metric>_mean`, `_std` (sample standard
    deviation over groups) and `_gap` (largest minus smallest) of each rate. For the primary metric, the value of the
    worst group (`_min`, or `_max` if smaller is better) and the skewed error ratio `_ser` are added: the largest over
    the smallest error (Wang and Deng 2020, "Mitigating Bias in Face Recognition Using Skewness-Aware Reinforcement
    Learning"), left out if a group has no errors. The error is 1 minus the primary metric, or the metric itself if
    smaller is better.

    Args:
        groups (`dict[str, Evaluator]`): The protocol of each of at least two groups.
        name (`str`): Prefix of its metrics.

    Raises:
        ValueError: if there are fewer than two groups.
    """

    def __init__(self, groups: Mapping[str, Evaluator], name: str = "fairness"):
        if len(groups) < 2:
            raise ValueError(f"{name}: fairness requires at least two groups, found {sorted(groups)}")
        self.groups: Mapping[str, Any] = groups  # subclasses know which protocol it is
        self.name = name
        first = next(iter(groups.values()))
        self.rate = first.primary_metric
        self.flip = first.flip
        self.greater_is_better = first.greater_is_better
        self.primary_metric = f"{self.rate}_{'min' if self.greater_is_better else 'max'}"

    @property
    def needs_flip(self) -> bool:
        return any(evaluator.needs_flip for evaluator in self.groups.values())

    @property
    def not_measurable(self) -> list[str]:
        return [f"{group}_{key}" for group, evaluator in self.groups.items() for key in evaluator.not_measurable]

    def compute(self, embedder: Embedder) -> Findings:
        found = {group: evaluator.compute(embedder) for group, evaluator in self.groups.items()}
        rates = [findings.metrics[self.rate] for findings in found.values()]
        worst = min(rates) if self.greater_is_better else max(rates)
        metrics = _with_spread({group: findings.metrics for group, findings in found.items()})
        metrics |= {self.primary_metric: worst} | self._skewed_error_ratio(rates)
        plots = {f"{group}_{kind}": plot for group, findings in found.items() for kind, plot in findings.plots.items()}
        return Findings(metrics, plots)

    def _skewed_error_ratio(self, rates: list[float]) -> dict[str, float]:
        errors = [1 - rate for rate in rates] if self.greater_is_better else rates
        return {f"{self.rate}_ser": max(errors) / min(errors)} if min(errors) > 0 else {}


def _with_spread(by_group: dict[str, dict[str, float]]) -> dict[str, float]:
    """Each group's metrics, and mean, standard deviation and gap of the rates that all groups share."""
    flat = {f"{group}_{key}": value for group, own in by_group.items() for key, value in own.items()}
    for key in next(iter(by_group.values())):
        values = np.array([metrics[key] for metrics in by_group.values() if key in metrics])
        if len(values) == len(by_group) and not key.startswith(NOT_SPREAD):
            flat[f"{key}_mean"] = float(values.mean())
            flat[f"{key}_std"] = float(values.std(ddof=1))
            flat[f"{key}_gap"] = float(np.ptp(values))
    return flat


@protocols.register("rfw", citation=[RFW, SKEWED_ERROR_RATIO], name="rfw")
@protocols.register("fairness", citation=SKEWED_ERROR_RATIO)
class VerificationFairnessEvaluator(FairnessEvaluator):
    """
    Verification per group of people, such as RFW's four sets, and how much the groups differ, at each group's own
    threshold and at a shared one.

    Ten-fold accuracy chooses the best threshold for each group, but a deployed system has a single threshold. In
    addition to [`VerificationEvaluator`]'s metrics, this reports each group's false match and false non-match rate
    (`fmr@far=...`, `fnmr@far=...`) at the threshold for the given FAR on the pairs of all groups, and their spread.

    Args:
        groups (`dict[str, VerificationPairs]`): The pairs of each group; see [`split_by_group`] to split a set.
        name (`str`): Prefix of its metrics.
        far (`float`, *optional*):
            False accept rate of the shared threshold. The default is 1e-3, or the finest of 1e-2 and 1e-1 that the
            impostor pairs of all groups can measure.
        flip (`str`, *optional*): Test-time augmentation by the flipped image: `"sum"`, `"concat"` or `None`.
        fars (sequence of `float`): False accept rates to report for each group at its own thresholds.

    Raises:
        ValueError: if there are fewer than two groups, or `far` is below one of all impostor pairs.
    """

    def __init__(
        self,
        groups: dict[str, VerificationPairs],
        name: str = "fairness",
        far: float | None = None,
        flip: Flip = "sum",
        fars: Sequence[float] = DEFAULT_FARS,
    ):
        super().__init__(
            {group: VerificationEvaluator(pairs, flip, fars=fars) for group, pairs in groups.items()}, name
        )
        self.far = choose_far(far, sum(int((~pairs.same).sum()) for pairs in groups.values()), name)

    @classmethod
    def load(
        cls,
        data: str | Path,
        images: str | Path | None = None,
        name: str = "fairness",
        far: float | None = None,
        flip: Flip = "sum",
        fars: Sequence[float] = DEFAULT_FARS,
    ) -> list[Evaluator]:
        """`data` and `images`: see [`load_groups`]."""
        return [cls(load_groups(data, images), name, far, flip, fars)]

    def compute(self, embedder: Embedder) -> Findings:
        findings = super().compute(embedder)
        scores = {group: evaluator.scores(embedder) for group, evaluator in self.groups.items()}
        same = {group: evaluator.pairs.same for group, evaluator in self.groups.items()}
        pooled = ROC.from_scores(np.concatenate([*same.values()]), np.concatenate([*scores.values()]))
        threshold = pooled.at_far(self.far).threshold
        metrics = findings.metrics
        metrics |= _with_spread({group: self._rates(same[group], scores[group] >= threshold) for group in same})
        metrics[f"threshold@far={format_far(self.far)}"] = threshold
        by_group = {"roc_by_group": lambda: plot_roc({g: ROC.from_scores(same[g], scores[g]) for g in same})}
        return Findings(metrics, by_group | findings.plots)

    def _rates(self, same: np.ndarray, accepted: np.ndarray) -> dict[str, float]:
        far = format_far(self.far)
        return {f"fmr@far={far}": float(accepted[~same].mean()), f"fnmr@far={far}": float((~accepted[same]).mean())}


def load_groups(data: str | Path, images: str | Path | None = None) -> dict[str, VerificationPairs]:
    """
    Load the pairs of each group of people.

    Args:
        data (`str` or `Path`):
            RFW's folder (`txts/<group>/<group>_pairs.txt`, with images in `data/<group>` that are aligned by
            `txts/<group>/<group>_lmk.txt`), a folder with one `.bin` file per group, or pairs with a column `group`.
        images (`str` or `Path`, *optional*): Folder of aligned copies of RFW's images, or of the images of a list.

    Raises:
        FileNotFoundError: if the file or folder does not exist or contains none of these.
        ValueError: if the pairs have no groups.
    """
    if images is not None:
        check_path(images)
    folder = Path(data)
    if lists := sorted(folder.glob("txts/*/[!.]*_pairs.txt")):
        return {path.parent.name: _load_rfw_group(path, folder, images) for path in lists}
    if files := sorted(folder.glob("[!.]*.bin")):
        return {path.stem: load_verification_pairs(path) for path in files}
    if folder.is_dir() and not has_pairs(folder):
        raise FileNotFoundError(
            f"{folder} contains no groups of pairs: expected txts/<group>/<group>_pairs.txt as in RFW, one .bin file "
            "per group, or the folders images and pairs that VerificationPairs.to_parquet writes"
        )
    return split_by_group(load_pairs(data, images))


def _load_rfw_group(path: Path, folder: Path, images: str | Path | None) -> VerificationPairs:
    group = path.parent.name
    if images is not None:
        return load_verification_pairs(path, images=Path(images) / group, name=group)
    landmarks = path.with_name(f"{group}_lmk.txt")
    landmarks = landmarks if landmarks.is_file() else None
    return load_verification_pairs(path, images=folder / "data" / group, name=group, landmarks=landmarks)


def split_by_group(pairs: VerificationPairs) -> dict[str, VerificationPairs]:
    """Split pairs by `pairs.group`, with the same images.

    Raises:
        ValueError: if the pairs have no group.
    """
    if pairs.group is None:
        raise ValueError(f"{pairs.name}: the pairs have no column 'group' to split them by")
    groups = {}
    for group in np.unique(pairs.group):
        rows = pairs.group == group
        fold = None if pairs.fold is None else pairs.fold[rows]
        groups[str(group)] = VerificationPairs(pairs.images, pairs.pairs[rows], pairs.same[rows], fold, str(group))
    return groups
