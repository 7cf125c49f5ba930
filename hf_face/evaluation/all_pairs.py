"""All pairs of a set of faces, as in the MFR challenge: TAR at FAR 1e-6 and below.

N images make N (N - 1) / 2 pairs, 10^12 for 1.6 million, too many for a score matrix. Similarities are computed block
by block. Each block contributes its genuine scores and those impostor scores that can still be among the highest
K = FAR x impostors + 1, which are all that TAR at that FAR depends on. Counts are exact, and memory is bounded by a few
blocks, the genuine scores and at most 5 K impostor scores.
"""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from datasets import Dataset
from torch import Tensor
from transformers.utils.logging import tqdm

from ..data import load_identities
from ..data.columns import identity_labels
from ..embedding import Embedder, Flip
from ..embedding.finite import check_finite
from ..embedding.ranks import is_main_process
from ..registry import protocols
from .comparison_scores import ComparisonScores
from .evaluator import Evaluator, Findings
from .metrics import allowed_errors, format_far
from .plots import plot_det, plot_roc

ALL_PAIRS_FARS = (1e-4, 1e-5, 1e-6)


@protocols.register("all_pairs")
class AllPairsEvaluator(Evaluator):
    """
    Compares every image of a labeled set with every other one: TAR at FARs of 1e-6 and below.

    Args:
        dataset (`Dataset`): Images and identities, columns `image` and `label`.
        fars (sequence of `float`):
            False accept rates to report. Rates below one impostor pair are not measurable and left out. The highest
            rate determines how many impostor scores are kept.
        flip (`str`, *optional*): Test-time augmentation by the flipped image: `"sum"`, `"concat"` or `None`.
        name (`str`): Prefix of its metrics.

    Raises:
        ValueError: if there are no genuine pairs, or too few impostor pairs for any of `fars`.

    Example:
    ```python
    >>> AllPairsEvaluator(load_orl(), fars=[1e-3])(model, image_processor)["all_pairs_tar@far=1e-3"]
    0.98
    ```
    """

    def __init__(
        self, dataset: Dataset, fars: Sequence[float] = ALL_PAIRS_FARS, flip: Flip = "sum", name: str = "all_pairs"
    ):
        self.dataset = dataset
        self.fars = fars
        self.flip = flip
        self.name = name
        num_genuine, num_impostors = count_pairs(identity_labels(dataset))
        self.measurable_fars = [far for far in fars if allowed_errors(far, num_impostors)]
        if not num_genuine or not self.measurable_fars:
            raise ValueError(
                f"{name}: {num_genuine} genuine and {num_impostors} impostors are too few for any of the FARs {fars}"
            )
        self.not_measurable = [f"tar@far={format_far(far)}" for far in fars if far not in self.measurable_fars]
        self.primary_metric = f"tar@far={format_far(min(self.measurable_fars))}"

    @classmethod
    def load(cls, data: str | Path, fars: Sequence[float] = ALL_PAIRS_FARS, flip: Flip = "sum") -> list[Evaluator]:
        """`data`: identity data that [`load_identities`] reads."""
        return [cls(load_identities(data), fars, flip)]

    def compute(self, embedder: Embedder) -> Findings:
        embeddings = torch.from_numpy(embedder(self.dataset, self.flip).embeddings)
        labels = identity_labels(self.dataset)
        scores = all_pairs_scores(embeddings.to(embedder.device), labels, max(self.measurable_fars))
        metrics = {"num_genuine": float(len(scores.genuine)), "num_impostors": float(scores.num_impostors)}
        for far in self.measurable_fars:
            point = scores.at_far(far)
            metrics |= {f"tar@far={format_far(far)}": point.tar, f"threshold@far={format_far(far)}": point.threshold}
        plots = {
            "roc": lambda: plot_roc({self.name: scores.curve()}),
            "det": lambda: plot_det({self.name: scores.curve()}),
        }
        return Findings(metrics, plots)


def count_pairs(labels: np.ndarray) -> tuple[int, int]:
    """Count genuine and impostor pairs among images with these identities (N,)."""
    counts = np.unique(labels, return_counts=True)[1]
    genuine = int((counts * (counts - 1)).sum()) // 2
    return genuine, len(labels) * (len(labels) - 1) // 2 - genuine


def all_pairs_scores(features: Tensor, labels: np.ndarray, max_far: float, block_size: int = 4096) -> ComparisonScores:
    """Compute all genuine scores, and as many of the highest impostor scores as rates up to `max_far` require.

    Under `torch.distributed`, each rank holds all features and computes its share of the blocks, and all ranks return
    the same result.

    Args:
        features: unit-length embeddings (N, D), on the device to compute on. Scores have their dtype.
        labels: identity of each image (N,).
        max_far: the highest false accept rate to measure.
        block_size: images on each side of a block, which has `block_size`^2 scores.

    Raises:
        ValueError: if the number of labels does not match, there are no pairs of one kind, a feature is not finite, or
            `max_far` is not a rate.
    """
    labels = np.asarray(labels)
    if len(features) != len(labels):
        raise ValueError(f"{len(features)} features and {len(labels)} labels: expected one of each per image")
    num_genuine, num_impostors = count_pairs(labels)
    if not num_genuine or not num_impostors:
        raise ValueError(f"found {num_genuine} genuine and {num_impostors} impostor pairs; TAR@FAR requires both")
    check_finite(features, "embedding of image")

    # Sorted by identity, all genuine pairs are in the few blocks along the diagonal.
    order = torch.as_tensor(np.argsort(labels, kind="stable"))
    features, labels = features[order.to(features.device)], torch.from_numpy(labels[order]).to(features.device)
    kept = min(allowed_errors(max_far, num_impostors) + 1, num_impostors)
    none = features.new_empty(0)  # a rank may have no block, or none with a genuine pair
    genuine, tail = [none], HighestScores(kept, none)
    for scores, same in _blocks(features, labels, block_size):
        if same is not None:
            genuine.append(scores[same])
            scores = scores.masked_fill_(same, -torch.inf)
        tail.add(scores)
    genuine = _gather(torch.cat(genuine))
    impostors = _gather(tail.highest())
    return ComparisonScores(np.sort(genuine), np.sort(impostors)[-kept:], num_impostors)


class HighestScores:
    """The `size` highest of `scores` and all added scores, in memory for a few times `size` and a block."""

    def __init__(self, size: int, scores: Tensor):
        self.size = size
        self._floor = -torch.inf  # at least `size` held scores are not below it
        self._held = [scores]

    def add(self, scores: Tensor):
        """Add the scores of a block (A, B) that are above the floor."""
        # Once the floor has risen, few rows have such a score, and one pass over the block is enough.
        rows = scores[scores.amax(dim=1) > self._floor]
        self._held.append(rows[rows > self._floor])
        if sum(len(held) for held in self._held) > 2 * self.size:
            self._held = [self.highest()]
            self._floor = self._held[0].min().item()

    def highest(self) -> Tensor:
        """The highest scores (at most `size`), unordered."""
        held = torch.cat(self._held)
        return held.topk(self.size, sorted=False).values if len(held) > self.size else held


def _blocks(features: Tensor, labels: Tensor, block_size: int) -> Iterator[tuple[Tensor, Tensor | None]]:
    """Yield this rank's blocks (A, B) of the upper triangle of similarities, each overwriting the previous one, with a
    mask (A, B) of the genuine pairs, or None if there are none. Scores below the diagonal are -inf."""
    rank, world = (dist.get_rank(), dist.get_world_size()) if dist.is_initialized() else (0, 1)
    starts = range(0, len(features), block_size)
    corners = [(row, column) for row in starts for column in starts[row // block_size :]][rank::world]
    side = min(block_size, len(features))
    buffer = features.new_empty(side * side)
    for row, column in tqdm(corners, desc="All pairs", unit="block", disable=not is_main_process()):
        rows, columns = features[row : row + block_size], features[column : column + block_size]
        scores = buffer[: len(rows) * len(columns)].view(len(rows), len(columns))
        torch.mm(rows, columns.T, out=scores)
        row_labels, column_labels = labels[row : row + block_size], labels[column : column + block_size]
        same = row_labels[:, None] == column_labels if row_labels[-1] >= column_labels[0] else None
        if row == column:
            below = torch.ones_like(scores, dtype=torch.bool).tril_()
            scores.masked_fill_(below, -torch.inf)
            same &= ~below
        yield scores, same


def _gather(scores: Tensor) -> np.ndarray:
    """Concatenate the scores of all ranks."""
    scores = scores.cpu().numpy()
    if not dist.is_initialized():
        return scores
    shares: list[Any] = [None] * dist.get_world_size()
    dist.all_gather_object(shares, scores)
    return np.concatenate(shares)
