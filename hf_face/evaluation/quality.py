"""The quality protocol: does a quality score, such as the embedding's norm, know which comparisons go wrong?"""

from pathlib import Path

import numpy as np
from scipy.stats import spearmanr

from ..data import VerificationPairs
from ..embedding import Embedder, Flip
from ..embedding.ranks import is_main_process
from .evaluator import Evaluator
from .metrics import ROC, ErrorDiscard, choose_far, format_far
from .plots import plot_error_discard, save_figure
from .verification import compare

DISCARDS = (0.1, 0.2, 0.3)


class QualityEvaluator(Evaluator):
    """Error-versus-discard curve of verification pairs, its area, and the correlation of quality with error.

    A pair is worth what the lesser of its two images is worth. The error is the false non-match rate (FNMR), the share
    of genuine pairs below the threshold of a stated FAR; that threshold is set once, before anything is discarded.

    Metrics, each prefixed with the pairs' name:

    - `fnmr@far=...`: the FNMR with nothing discarded, and `fnmr@discard=0.1`, ... once that share of pairs is gone;
    - `erc_area`, and `erc_area@discard=0.2` of the first fifth only (a useless quality gives 0.2 times the FNMR);
    - `quality_genuine_correlation`: Spearman's rank correlation of quality and score over the genuine pairs;
    - `quality_error_correlation`: the same of quality and error (0 or 1) over all pairs, impostors accepted being
      errors too. A good quality has it negative.

    A correlation with what is constant (a useless quality, no error at all) is undefined and left out.

    Args:
        pairs (`VerificationPairs`): images and pairs.
        quality (`np.ndarray` of shape (N,) or `str`, *optional*): quality of each of `pairs.images`, higher is better,
            or the column of `pairs.images` that holds it; otherwise the norm of its embedding (MagFace, AdaFace).
        far (`float`, *optional*): the false accept rate that sets the threshold; by default 1e-3, or where the impostor
            pairs cannot show that, the finest of 1e-2 and 1e-1. The metrics' names say which.
        flip (`str`, *optional*): test-time augmentation by the flipped image: `"sum"`, `"concat"` or `None`.

    Raises:
        ValueError: if `far` is finer than one of the impostor pairs, or `quality` does not fit the images.
    """

    greater_is_better = False

    def __init__(
        self,
        pairs: VerificationPairs,
        quality: np.ndarray | str | None = None,
        far: float | None = None,
        flip: Flip = "sum",
    ):
        self.pairs = pairs
        self.quality = _quality_of_images(pairs, quality)
        self.measure = quality if isinstance(quality, str) else "norm" if quality is None else "quality"
        self.far = choose_far(far, int((~pairs.same).sum()), pairs.name)
        self.flip = flip
        self.needs_flip = flip is not None
        self.name = pairs.name
        self.primary_metric = f"{self.name}_erc_area"

    def evaluate(self, embedder: Embedder, output_dir: str | Path | None = None) -> dict[str, float]:
        embeddings = embedder(self.pairs.images, self.flip)
        scores = compare(embeddings.embeddings, self.pairs.pairs)
        quality = embeddings.norms if self.quality is None else self.quality
        quality = quality[self.pairs.pairs].min(axis=1)  # (P,)
        threshold = ROC.from_scores(self.pairs.same, scores).at_far(self.far).threshold
        errors = (scores >= threshold) != self.pairs.same

        genuine = self.pairs.same
        curve = ErrorDiscard.from_errors(errors[genuine], quality[genuine])
        if output_dir is not None and is_main_process():
            figure = plot_error_discard({self.measure: curve}, f"FNMR at FAR {format_far(self.far)}")
            save_figure(figure, Path(output_dir) / f"{self.name}_erc_{self.measure}.png")
        metrics = {
            f"fnmr@far={format_far(self.far)}": curve.at(0.0),
            **{f"fnmr@discard={discard:g}": curve.at(discard) for discard in DISCARDS},
            "erc_area": curve.area(),
            "erc_area@discard=0.2": curve.area(0.2),
        }
        for key, first, second in (
            ("quality_genuine_correlation", quality[genuine], scores[genuine]),
            ("quality_error_correlation", quality, errors.astype(np.int8)),
        ):
            if np.ptp(first) and np.ptp(second):
                metrics[key] = float(spearmanr(first, second).statistic)
        return {f"{self.name}_{key}": value for key, value in metrics.items()}


def _quality_of_images(pairs: VerificationPairs, quality: np.ndarray | str | None) -> np.ndarray | None:
    if quality is None:
        return None
    if isinstance(quality, str):
        if quality not in pairs.images.column_names:
            raise ValueError(f"{pairs.name}: no column {quality!r} in the images, only {pairs.images.column_names}")
        quality = pairs.images[quality]
    quality = np.asarray(quality, dtype=np.float64)
    if quality.shape != (len(pairs.images),):
        raise ValueError(f"{pairs.name}: {len(pairs.images)} images, but quality has shape {quality.shape}")
    return quality
