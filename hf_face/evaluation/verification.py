"""The verification protocol: are the two images of a pair of one person?"""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Literal

import numpy as np

from ..data import VerificationPairs
from ..embedding import Embedder, Embeddings, Flip
from ..embedding.ranks import is_main_process
from . import reference
from .evaluator import Evaluator
from .metrics import (
    DEFAULT_FARS,
    ROC,
    cosine_similarities,
    format_far,
    split_folds,
    squared_distances,
    verification_metrics,
)
from .plots import plot_det, plot_roc, plot_scores, save_figure

Similarity = Literal["cosine", "squared_euclidean"]


class VerificationEvaluator(Evaluator):
    """Ten-fold accuracy, TAR at stated FARs, EER and AUC of verification pairs.

    The metrics are those of [`verification_metrics`], each prefixed with the pairs' name (`lfw_accuracy`), the cosine
    thresholds of single images whatever `flip` and `similarity` (`lfw_single_image_threshold@far=1e-3`), and the
    references' own figures: `insightface_accuracy`, `insightface_val@far=1e-3` (flip-sum, as InsightFace does; absent
    without flipped embeddings) and `timm_face_accuracy` (single images, as timm-face does), each with its threshold.
    The references take ten consecutive folds: their figures are absent from fewer than ten pairs.

    Args:
        pairs (`VerificationPairs`): images and pairs.
        flip (`str`, *optional*): test-time augmentation by the flipped image: `"sum"`, `"concat"` or `None`.
        similarity (`str`): `"cosine"`, or `"squared_euclidean"`, whose thresholds are distances of unit-length
            embeddings, 2 - 2 cosine; all other figures are the same.
        fars (sequence of `float`): the false accept rates to report. `not_measurable` names those that are too fine.

    Raises:
        ValueError: if the pairs cannot be judged fold by fold, or `similarity` is unknown.

    Example:
    ```python
    >>> evaluator = VerificationEvaluator(load_verification_pairs("lfw.bin"))
    >>> evaluator(model, image_processor, output_dir="results")["lfw_accuracy"]
    0.998
    ```
    """

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
        self.needs_flip = flip is not None
        self.similarity = similarity
        self.fars = fars
        self.name = pairs.name
        self.primary_metric = f"{self.name}_accuracy"

    @property
    def not_measurable(self) -> list[str]:
        """Metrics left out because their FAR is finer than one of the impostor pairs."""
        num_impostors = int((~self.pairs.same).sum())
        return [f"{self.name}_tar@far={format_far(far)}" for far in self.fars if far < 1 / num_impostors]

    def evaluate(self, embedder: Embedder, output_dir: str | Path | None = None) -> dict[str, float]:
        scores = self.scores(embedder)
        metrics = verification_metrics(self.pairs.same, scores, self.pairs.fold, self.fars)
        if self.similarity == "squared_euclidean":
            metrics |= {key: -value for key, value in metrics.items() if key.startswith("threshold")}
        metrics |= self.single_image_thresholds(embedder)
        metrics |= reference_metrics(embedder(self.pairs.images, None), self.pairs)
        if output_dir is not None and is_main_process():
            self._draw(scores, Path(output_dir))
        return {f"{self.name}_{key}": value for key, value in metrics.items()}

    def single_image_thresholds(self, embedder: Embedder) -> dict[str, float]:
        """Cosine thresholds at each FAR without flipped images, as users of the model compare."""
        scores = compare(embedder(self.pairs.images, None).embeddings, self.pairs.pairs)
        roc = ROC.from_scores(self.pairs.same, scores)
        measurable = [far for far in self.fars if far >= roc.finest_far]
        return {f"single_image_threshold@far={format_far(far)}": roc.at_far(far).threshold for far in measurable}

    def scores(self, embedder: Embedder) -> np.ndarray:
        """Similarity (P,) of each pair, float64; minus the distance where distances are asked for."""
        embeddings = embedder(self.pairs.images, self.flip).embeddings
        if self.similarity == "cosine":
            return compare(embeddings, self.pairs.pairs)
        return -compare(embeddings, self.pairs.pairs, squared_distances)

    def _draw(self, scores: np.ndarray, output_dir: Path):
        curves = {self.name: ROC.from_scores(self.pairs.same, scores)}
        save_figure(plot_roc(curves), output_dir / f"{self.name}_roc.png")
        save_figure(plot_det(curves), output_dir / f"{self.name}_det.png")
        genuine, impostors = scores[self.pairs.same], scores[~self.pairs.same]
        save_figure(plot_scores(genuine, impostors, self.name), output_dir / f"{self.name}_scores.png")


def compare(
    embeddings: np.ndarray,
    pairs: np.ndarray,
    measure: Callable[[np.ndarray, np.ndarray], np.ndarray] = cosine_similarities,
    chunk_size: int = 65536,
) -> np.ndarray:
    """`measure` in float64 of the rows of `embeddings` (N, D) that `pairs` (P, 2) names, (P,), in bounded memory."""
    scores = np.empty(len(pairs))
    for start in range(0, len(pairs), chunk_size):
        first, second = (embeddings[rows].astype(np.float64) for rows in pairs[start : start + chunk_size].T)
        scores[start : start + chunk_size] = measure(first, second)
    return scores


def reference_metrics(embeddings: Embeddings, pairs: VerificationPairs) -> dict[str, float]:
    """Other projects' figures under their own names, each with that project's test-time augmentation and folds."""
    if len(pairs) < reference.NUM_FOLDS:
        return {}
    single = compare(embeddings.with_flip(None).embeddings, pairs.pairs)
    folds = reference.timm_face_accuracy(single, pairs.same)
    metrics = {"timm_face_accuracy": float(folds.accuracies.mean())}
    if np.isfinite(folds.thresholds).all():  # infinity where a fold does best to accept nothing
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
