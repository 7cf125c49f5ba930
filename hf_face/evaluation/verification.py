"""The verification protocol: are the two images of a pair of one person?"""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Literal

import numpy as np

from ..data import VerificationPairs
from . import reference
from .embedding import Embedder, Embeddings, Flip, is_main_process
from .evaluator import Evaluator
from .metrics import DEFAULT_FARS, ROC, cosine_similarities, format_far, squared_distances, verification_metrics
from .plots import plot_det, plot_roc, plot_scores, save_figure

Similarity = Literal["cosine", "squared_euclidean"]


class VerificationEvaluator(Evaluator):
    """Ten-fold accuracy, TAR at stated FARs, EER and AUC of verification pairs.

    The metrics are those of [`verification_metrics`], each prefixed with the pairs' name (`lfw_accuracy`), and the
    references' own figures: `insightface_accuracy`, `insightface_val@far=1e-3` (flip-sum, as InsightFace does; absent
    without mirrored embeddings) and `timm_face_accuracy` (single images, as timm-face does).

    Args:
        pairs (`VerificationPairs`): images and pairs.
        flip (`str`, *optional*): test-time augmentation by the mirror image: `"sum"`, `"concat"` or `None`.
        similarity (`str`): `"cosine"`, or `"squared_euclidean"`, whose thresholds are distances of unit-length
            embeddings, 2 - 2 cosine; all other figures are the same.
        fars (sequence of `float`): the false accept rates to report. `not_measurable` names those that are too fine.

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
        self.pairs = pairs
        self.flip = flip
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
        metrics |= reference_metrics(embedder(self.pairs.images, None), self.pairs)
        if output_dir is not None and is_main_process():
            self._draw(scores, metrics, Path(output_dir))
        return {f"{self.name}_{key}": value for key, value in metrics.items()}

    def scores(self, embedder: Embedder) -> np.ndarray:
        """Similarity (P,) of each pair, float64; minus the distance where distances are asked for."""
        embeddings = embedder(self.pairs.images, self.flip).embeddings
        if self.similarity == "cosine":
            return compare(embeddings, self.pairs.pairs)
        return -compare(embeddings, self.pairs.pairs, squared_distances)

    def _draw(self, scores: np.ndarray, metrics: dict[str, float], output_dir: Path):
        curves = {self.name: ROC.from_scores(self.pairs.same, scores)}
        save_figure(plot_roc(curves), output_dir / f"{self.name}_roc.png")
        save_figure(plot_det(curves), output_dir / f"{self.name}_det.png")
        save_figure(plot_scores(self.pairs.same, scores, self.name), output_dir / f"{self.name}_scores.png")


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
    single = compare(embeddings.with_flip(None).embeddings, pairs.pairs)
    metrics = {"timm_face_accuracy": float(reference.timm_face_accuracy(single, pairs.same).accuracies.mean())}
    if embeddings.mirrored is None:
        return metrics
    distances = compare(embeddings.with_flip("sum").embeddings, pairs.pairs, squared_distances)
    folds = reference.insightface_accuracy(distances, pairs.same)
    metrics |= {
        "insightface_accuracy": float(folds.accuracies.mean()),
        "insightface_accuracy_std": float(folds.accuracies.std()),
    }
    if reference.folds_are_mixed(pairs.same):
        val = reference.insightface_val(distances, pairs.same)
        metrics |= {
            "insightface_val@far=1e-3": val.val,
            "insightface_val_std@far=1e-3": val.val_std,
            "insightface_far@far=1e-3": val.far,
        }
    return metrics
