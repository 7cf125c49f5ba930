"""Identification (1:N): searches for every probe in a gallery of enrolled people.

    result = search(probe_features, probe_subjects, gallery_features, gallery_subjects)
    result.metrics()     # {"rank1": ..., "rank5": ..., "rank10": ..., "tpir@fpir=1e-2": ...}

Terms of ISO/IEC 19795-1: the subject of a *mated* probe is enrolled. The rank of a mated probe is the rank of its
subject's best entry in the list of candidates, and the *CMC* is the share of mated probes of rank k or better over k.
With a threshold (open set), *TPIR* is the share of mated probes of rank 1 above the threshold, and *FPIR* the share of
non-mated probes with any candidate above it.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from datasets import ClassLabel, Dataset
from transformers.utils.logging import tqdm

from ..data import load_identities
from ..data.columns import identity_labels
from ..embedding import Embedder, Flip
from ..embedding.finite import check_finite
from ..registry import protocols
from .comparison_scores import BLOCK_SIZE, ComparisonScores
from .evaluator import Evaluator, Findings
from .metrics import OperatingPoint, allowed_errors, check_ranks, format_far, measured_errors
from .plots import plot_cmc

DEFAULT_RANKS = (1, 5, 10)
DEFAULT_FPIRS = (1e-2, 1e-1)


@protocols.register("identification")
class IdentificationEvaluator(Evaluator):
    """
    Searches for every probe in a gallery of enrolled people: rank-k, mean average precision and, with enough non-mated
    probes, TPIR@FPIR.

    Args:
        gallery, probes (`Dataset`):
            Columns `image` and `label`; a person may have several gallery images. `ClassLabel` labels are matched by
            their names, since two datasets may number the same people differently.
        flip (`str`, *optional*): Test-time augmentation by the flipped image: `"sum"`, `"concat"` or `None`.
        ranks, fpirs (sequences of `int` and `float`): Ranks and false positive identification rates to report.
        name (`str`): Prefix of its metrics.

    Raises:
        ValueError: if no probe shows a person in the gallery, or a rank or rate is out of range.

    Example:
    ```python
    >>> gallery, probes = enroll_first(load_orl())
    >>> IdentificationEvaluator(gallery, probes)(model, image_processor)["identification_rank1"]
    0.93
    ```
    """

    primary_metric = "rank1"

    def __init__(
        self,
        gallery: Dataset,
        probes: Dataset,
        flip: Flip = "sum",
        ranks: Sequence[int] = DEFAULT_RANKS,
        fpirs: Sequence[float] = DEFAULT_FPIRS,
        name: str = "identification",
    ):
        self.gallery, self.probes = gallery, probes
        self.flip = flip
        self.ranks, self.fpirs = ranks, fpirs
        self.name = name
        check_ranks(ranks)
        mated = np.isin(_people(probes), _people(gallery))
        if not mated.any():
            raise ValueError(f"{name}: no probe shows a person in the gallery")
        num_unmated = int((~mated).sum())
        self.not_measurable = [
            f"tpir@fpir={format_far(fpir)}" for fpir in fpirs if not allowed_errors(fpir, num_unmated)
        ]

    @classmethod
    def load(
        cls,
        data: str | Path,
        probes: str | Path | None = None,
        flip: Flip = "sum",
        ranks: Sequence[int] = DEFAULT_RANKS,
        fpirs: Sequence[float] = DEFAULT_FPIRS,
    ) -> list[Evaluator]:
        """`data` and `probes`: identity data that [`load_identities`] reads. Without `probes`, the first image of each
        person in `data` is enrolled and all others are probes."""
        people = load_identities(data)
        gallery, searched = enroll_first(people) if probes is None else (people, load_identities(probes))
        return [cls(gallery, searched, flip, ranks, fpirs)]

    def compute(self, embedder: Embedder) -> Findings:
        sides: list[Any] = []
        for dataset in (self.probes, self.gallery):
            embeddings = embedder(dataset, self.flip).embeddings
            sides += [torch.from_numpy(embeddings).to(embedder.device), _people(dataset)]
        result = search(*sides)
        metrics = result.metrics(self.ranks, self.fpirs) | {"map": result.mean_average_precision}
        return Findings(metrics, {"cmc": lambda: plot_cmc({self.name: result.cmc(max(self.ranks))})})


def _people(dataset: Dataset) -> np.ndarray:
    """The person in each image (N,)."""
    labels, feature = identity_labels(dataset), dataset.features["label"]
    return np.array(feature.names)[labels] if isinstance(feature, ClassLabel) else labels


def enroll_first(dataset: Dataset) -> tuple[Dataset, Dataset]:
    """Split labeled images into gallery and probes: each person's first image is enrolled, all others are probes."""
    _, first = np.unique(identity_labels(dataset), return_index=True)
    others = np.setdiff1d(np.arange(len(dataset)), first)
    return dataset.select(np.sort(first)), dataset.select(others)


@dataclass(frozen=True)
class SearchResult:
    """The result of searching for P probes; M is the largest number of gallery entries of a probe's subject.

    Args:
        mate_scores: (P, M) scores of the gallery entries of the probe's subject, descending, padded with -inf; all
            -inf for non-mated probes.
        mate_ranks: (P, M) ranks of these entries in the list of candidates, starting at 1; 0 for padding. Other
            subjects' entries with the same score rank first.
        impostor_scores: (P,) highest score of any other subject's entry.
    """

    mate_scores: np.ndarray
    mate_ranks: np.ndarray
    impostor_scores: np.ndarray

    @property
    def mated(self) -> np.ndarray:
        """Whether each probe's subject is in the gallery (P,)."""
        return self.mate_ranks[:, 0] > 0

    @property
    def ranks(self) -> np.ndarray:
        """Rank of each mated probe."""
        return self.mate_ranks[self.mated, 0]

    def cmc(self, max_rank: int) -> np.ndarray:
        """Cumulative match characteristic (max_rank,): the share of mated probes of rank 1, 2, ... or better."""
        return np.array([(self.ranks <= rank).mean() for rank in range(1, max_rank + 1)])

    def at_fpir(self, target: float) -> OperatingPoint:
        """The largest TPIR (as `tar`) at an FPIR (as `far`) of at most `target`.

        Raises:
            ValueError: if `target` is not a rate, or is below one non-mated probe.
        """
        mate_scores = np.where(self.mate_ranks[:, 0] == 1, self.mate_scores[:, 0], -np.inf)[self.mated]
        alarms = self.impostor_scores[~self.mated]
        measured_errors(target, len(alarms), "FPIR", "non-mated probes")
        return ComparisonScores(np.sort(mate_scores), np.sort(alarms), len(alarms)).at_far(target)

    @property
    def mean_average_precision(self) -> float:
        """TinyFace's mAP over mated probes: the area under the precision-recall curve by the trapezoidal rule.

        The precision before the h-th entry of the probe's subject, with rank r, is (h - 1) / (r - 1), or 1 for r = 1.
        """
        ranks = self.mate_ranks[self.mated].astype(float)
        own = np.arange(1, ranks.shape[1] + 1)
        found = ranks > 0
        after = np.divide(own, ranks, out=np.zeros_like(ranks), where=found)
        before = np.divide(own - 1, ranks - 1, out=found.astype(float), where=ranks > 1)
        return float(((before + after).sum(1) / 2 / found.sum(1)).mean())

    def metrics(self, ranks: Sequence[int] = DEFAULT_RANKS, fpirs: Sequence[float] = DEFAULT_FPIRS) -> dict[str, float]:
        """`rank1`, ...; with non-mated probes also `tpir@fpir=1e-2` and `threshold@fpir=1e-2`, ...

        FPIRs below one non-mated probe are not measurable and left out.
        """
        check_ranks(ranks)
        metrics = {f"rank{rank}": float((self.ranks <= rank).mean()) for rank in ranks}
        num_unmated = len(self.mated) - len(self.ranks)
        points = {format_far(fpir): self.at_fpir(fpir) for fpir in fpirs if allowed_errors(fpir, num_unmated)}
        metrics |= {f"tpir@fpir={fpir}": point.tar for fpir, point in points.items()}
        metrics |= {f"threshold@fpir={fpir}": point.threshold for fpir, point in points.items()}
        return metrics


def search(
    probes: torch.Tensor,
    probe_subjects: np.ndarray,
    gallery: torch.Tensor,
    gallery_subjects: np.ndarray,
    block_size: int = BLOCK_SIZE,
) -> SearchResult:
    """Search for every probe (P, D) in the gallery (G, D) by the dot product of unit-length features.

    A subject may have several gallery entries, or none. About `block_size` similarities are held at a time, on the
    device of the features.

    Raises:
        ValueError: if the numbers of features and subjects differ, there are no probes or gallery entries, or a feature
            is not finite.
    """
    probe_subjects, gallery_subjects = np.asarray(probe_subjects), np.asarray(gallery_subjects)
    for name, features, subjects in (("probe", probes, probe_subjects), ("gallery", gallery, gallery_subjects)):
        if len(features) != len(subjects) or not len(features):
            raise ValueError(
                f"{len(features)} {name} features and {len(subjects)} {name} subjects: expected one of each"
            )
        check_finite(features, f"{name} feature")
    order = np.argsort(gallery_subjects, kind="stable")
    gallery = gallery[torch.as_tensor(order, device=gallery.device)].T
    sorted_subjects = gallery_subjects[order]
    first = np.searchsorted(sorted_subjects, probe_subjects, side="left")
    num_own = np.searchsorted(sorted_subjects, probe_subjects, side="right") - first
    own_columns = first[:, None] + np.arange(max(1, num_own.max()))  # (P, M)
    is_own = own_columns < (first + num_own)[:, None]
    own_columns, is_own = torch.as_tensor(own_columns * is_own), torch.as_tensor(is_own)

    rows = -(-block_size // gallery.shape[1])
    starts = tqdm(range(0, len(probes), rows), desc="Searching", unit="block", disable=len(probes) <= rows)
    blocks = [
        _search_block(probes[block] @ gallery, own_columns[block], is_own[block])
        for block in (slice(start, start + rows) for start in starts)
    ]
    return SearchResult(*(torch.cat(parts).cpu().numpy() for parts in zip(*blocks, strict=True)))


def _search_block(scores: torch.Tensor, own_columns: torch.Tensor, is_own: torch.Tensor):
    """The fields of a result from scores (B, G), columns (B, M) of the subjects' entries and a mask of real ones."""
    own_columns, is_own = own_columns.to(scores.device), is_own.to(scores.device)
    mates = scores.gather(1, own_columns).masked_fill(~is_own, -torch.inf)
    probe, _ = is_own.nonzero(as_tuple=True)
    scores[probe, own_columns[is_own]] = -torch.inf  # only impostors remain
    mates = mates.sort(dim=1, descending=True).values
    before = [(scores >= mate[:, None]).sum(1) for mate in mates.unbind(1)]
    ranks = torch.stack(before, dim=1) + torch.arange(1, len(before) + 1, device=scores.device)
    return mates, ranks.masked_fill(mates == -torch.inf, 0), scores.amax(1)
