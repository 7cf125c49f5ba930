"""Verification (1:1): do the two images of a pair show the same person?"""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Literal

import numpy as np

from ..data import VerificationPairs, load_identities, make_verification_pairs
from ..embedding import Embedder, Embeddings, Flip
from ..registry import protocols
from . import reference
from .evaluator import Evaluator, Findings
from .metrics import (
    DEFAULT_FARS,
    ROC,
    allowed_errors,
    cosine_similarities,
    format_far,
    split_folds,
    squared_distances,
    verification_metrics,
)
from .plots import plot_det, plot_roc, plot_scores
from .protocol_data import find_pairs
from .verification_sets import VERIFICATION_SETS

Similarity = Literal["cosine", "squared_euclidean"]


@protocols.register("verification")
class VerificationEvaluator(Evaluator):
    """
    Do the two images of a pair show the same person? Ten-fold accuracy, TAR at given FARs, EER and AUC.

    The metrics are those of [`verification_metrics`], the cosine thresholds of single images regardless of `flip` and
    `similarity` (`single_image_threshold@far=1e-3`), and those of other projects: `insightface_accuracy`,
    `insightface_val@far=1e-3` (flip-sum, as in InsightFace; only with flipped embeddings) and `timm_face_accuracy`
    (single images, as in timm-face), each with its threshold. Other projects' metrics use ten consecutive folds and
    are left out for fewer than ten pairs.

    Args:
        pairs (`VerificationPairs`): Images and pairs. Their name is the name of the protocol.
        flip (`str`, *optional*): Test-time augmentation by the flipped image: `"sum"`, `"concat"` or `None`.
        similarity (`str`):
            `"cosine"`, or `"squared_euclidean"` to report thresholds as distances of unit-length embeddings,
            2 - 2 cosine; all other metrics are the same.
        fars (sequence of `float`): False accept rates to report. Those that are too small are in `not_measurable`.

    Raises:
        ValueError: if the pairs cannot be split into folds, `similarity` is unknown, or a FAR is not a rate.

    Example:
    ```python
    >>> evaluator = VerificationEvaluator(load_verification_pairs("lfw.bin"))
    >>> evaluator(model, image_processor, output_dir="results")["lfw_accuracy"]
    0.998
    ```
    """

    primary_metric = "accuracy"

    def __init__(
        self,
        pairs: VerificationPairs,
        flip: Flip = "sum",
        similarity: Similarity = "cosine",
        fars: Sequence[float] = DEFAULT_FARS,
    ):
        if similarity not in ("cosine", "squared_euclidean"):
            raise ValueError(f"similarity is {similarity!r}, expected 'cosine' or 'squared_euclidean'")
        try:
            split_folds(pairs.same, pairs.fold)
        except ValueError as error:
            raise ValueError(f"{pairs.name}: {error}") from None
        self.pairs = pairs
        self.flip = flip
        self.similarity = similarity
        self.fars = fars
        self.name = pairs.name
        num_impostors = int((~pairs.same).sum())
        self.not_measurable = [f"tar@far={format_far(far)}" for far in fars if not allowed_errors(far, num_impostors)]

    @classmethod
    def load(
        cls,
        data: str | Path,
        images: str | Path | None = None,
        set_name: str | None = None,
        flip: Flip = "sum",
        similarity: Similarity = "cosine",
        fars: Sequence[float] = DEFAULT_FARS,
    ) -> list[Evaluator]:
        """Build one evaluator per set of pairs that [`find_pairs`] finds."""
        return [cls(pairs, flip, similarity, fars) for pairs in find_pairs(data, images, set_name)]

    def compute(self, embedder: Embedder) -> Findings:
        same, scores = self.pairs.same, self.scores(embedder)
        metrics = verification_metrics(same, scores, self.pairs.fold, self.fars)
        if self.similarity == "squared_euclidean":
            metrics |= {key: -value for key, value in metrics.items() if key.startswith("threshold")}
        metrics |= self.single_image_thresholds(embedder)
        metrics |= reference_metrics(embedder(self.pairs.images, None), self.pairs)
        plots = {
            "roc": lambda: plot_roc({self.name: ROC.from_scores(same, scores)}),
            "det": lambda: plot_det({self.name: ROC.from_scores(same, scores)}),
            "scores": lambda: plot_scores(scores[same], scores[~same], self.name),
        }
        return Findings(metrics, plots)

    def single_image_thresholds(self, embedder: Embedder) -> dict[str, float]:
        """Cosine thresholds at each FAR without flipped images, as users of the model compare images."""
        scores = compare(embedder(self.pairs.images, None).embeddings, self.pairs.pairs)
        roc = ROC.from_scores(self.pairs.same, scores)
        measurable = [far for far in self.fars if allowed_errors(far, roc.num_impostors)]
        return {f"single_image_threshold@far={format_far(far)}": roc.at_far(far).threshold for far in measurable}

    def scores(self, embedder: Embedder) -> np.ndarray:
        """Similarity (P,) of each pair, float64; the negative distance if `similarity` is a distance."""
        embeddings = embedder(self.pairs.images, self.flip).embeddings
        if self.similarity == "cosine":
            return compare(embeddings, self.pairs.pairs)
        return -compare(embeddings, self.pairs.pairs, squared_distances)


for _name, _citation in VERIFICATION_SETS.items():
    protocols.register(_name, citation=_citation, set_name=_name)(VerificationEvaluator)


@protocols.register("folder")
class FolderVerificationEvaluator(VerificationEvaluator):
    """
    Verification on a folder with one subfolder of images per person: all genuine pairs and as many random impostor
    pairs, in ten folds.

    Example:
    ```python
    >>> (evaluator,) = FolderVerificationEvaluator.load("photographs/colleagues")
    >>> evaluator(model, image_processor)["colleagues_accuracy"]
    0.97
    ```
    """

    @classmethod
    def load(
        cls,
        data: str | Path,
        seed: int = 0,
        flip: Flip = "sum",
        similarity: Similarity = "cosine",
        fars: Sequence[float] = DEFAULT_FARS,
    ) -> list[Evaluator]:
        """
        Args:
            data (`str` or `Path`): The folder, or any other identity data that [`load_identities`] reads.
            seed (`int`): Seed for choosing impostor pairs and folds.
            flip, similarity, fars: As in [`VerificationEvaluator`].
        """
        pairs = make_verification_pairs(load_identities(data), seed, name=Path(data).stem)
        return [cls(pairs, flip, similarity, fars)]


def compare(
    embeddings: np.ndarray,
    pairs: np.ndarray,
    measure: Callable[[np.ndarray, np.ndarray], np.ndarray] = cosine_similarities,
    chunk_size: int = 65536,
) -> np.ndarray:
    """Apply `measure` in float64 to each of `pairs` (P, 2) of rows of `embeddings` (N, D), in bounded memory."""
    scores = np.empty(len(pairs))
    for start in range(0, len(pairs), chunk_size):
        first, second = (embeddings[rows].astype(np.float64) for rows in pairs[start : start + chunk_size].T)
        scores[start : start + chunk_size] = measure(first, second)
    return scores


def reference_metrics(embeddings: Embeddings, pairs: VerificationPairs) -> dict[str, float]:
    """Other projects' metrics, each with that project's test-time augmentation and folds."""
    if len(pairs) < reference.NUM_FOLDS:
        return {}
    single = compare(embeddings.with_flip(None).embeddings, pairs.pairs)
    folds = reference.timm_face_accuracy(single, pairs.same)
    metrics = {"timm_face_accuracy": float(folds.accuracies.mean())}
    if np.isfinite(folds.thresholds).all():  # infinite if accepting nothing is best on a fold
        metrics["timm_face_threshold"] = float(folds.thresholds.mean())
    if embeddings.flipped is None:
        return metrics
    distances = compare(embeddings.with_flip("sum").embeddings, pairs.pairs, squared_distances)
    folds = reference.insightface_accuracy(distances, pairs.same)
    metrics |= {
        "insightface_accuracy": float(folds.accuracies.mean()),
        "insightface_accuracy_std": float(folds.accuracies.std()),
        "insightface_threshold": float(folds.thresholds.mean()),
    }
    if reference.folds_are_mixed(pairs.same):
        val = reference.insightface_val(distances, pairs.same)
        metrics |= {
            "insightface_val@far=1e-3": val.val,
            "insightface_val_std@far=1e-3": val.val_std,
            "insightface_far@far=1e-3": val.far,
        }
    return metrics
