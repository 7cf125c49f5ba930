"""The quality protocol: does a quality score, such as the embedding's norm, predict which comparisons are wrong?"""

from pathlib import Path

import numpy as np
from scipy.stats import spearmanr

from ..data import VerificationPairs
from ..embedding import Embedder, Flip
from ..embedding.finite import check_finite
from ..registry import protocols
from .evaluator import Evaluator, Findings
from .metrics import ROC, ErrorDiscard, choose_far, format_far
from .plots import plot_error_discard
from .protocol_data import find_pairs
from .verification import compare

DISCARDS = (0.1, 0.2, 0.3)

ERROR_VERSUS_DISCARD = """
@article{error_versus_discard,
  title = {Performance of Biometric Quality Measures},
  author = {Grother, Patrick and Tabassi, Elham},
  journal = {IEEE Transactions on Pattern Analysis and Machine Intelligence},
  volume = {29},
  number = {4},
  year = {2007}
}
"""


@protocols.register("quality", citation=ERROR_VERSUS_DISCARD)
class QualityEvaluator(Evaluator):
    """
    Does a quality score, such as the embedding's norm, predict which comparisons are wrong? Computes the
    error-versus-discard curve of verification pairs, its area, and the correlation of quality with error.

    The quality of a pair is the lower quality of its two images. The error is the false non-match rate (FNMR), the
    share of genuine pairs below the threshold at a given FAR, which is set once, before any pairs are discarded.

    Metrics:

    - `fnmr@far=...`: the FNMR of all pairs, and `fnmr@discard=0.1`, ... after discarding this share of pairs;
    - `erc_area`, and `erc_area@discard=0.2` for the first fifth only (0.2 times the FNMR for a useless quality);
    - `genuine_correlation`: Spearman's rank correlation of quality and score over genuine pairs;
    - `error_correlation`: Spearman's rank correlation of quality and error (0 or 1) over all pairs, where accepted
      impostors are errors too. It is negative for a good quality.

    Correlations with constants (a useless quality, no errors) are undefined and left out.

    Args:
        pairs (`VerificationPairs`): Images and pairs. The protocol is named `<name of the pairs>_quality`.
        quality (`np.ndarray` of shape (N,) or `str`, *optional*):
            Quality of each of `pairs.images`, higher is better, or the column of `pairs.images` with the quality. The
            default is the norm of the embedding (MagFace, AdaFace).
        far (`float`, *optional*):
            False accept rate that sets the threshold. The default is 1e-3, or the finest of 1e-2 and 1e-1 that the
            impostor pairs can measure. It is part of the metrics' names.
        flip (`str`, *optional*): Test-time augmentation by the flipped image: `"sum"`, `"concat"` or `None`.

    Raises:
        ValueError: if `far` is below one impostor pair, or `quality` does not match the images or is not finite.
    """

    primary_metric = "erc_area"
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
        self.name = f"{pairs.name}_quality"  # verification has the name of the pairs

    @classmethod
    def load(
        cls,
        data: str | Path,
        images: str | Path | None = None,
        quality: str | None = None,
        far: float | None = None,
        flip: Flip = "sum",
    ) -> list[Evaluator]:
        """Build one evaluator per set of pairs that [`find_pairs`] finds."""
        return [cls(pairs, quality, far, flip) for pairs in find_pairs(data, images)]

    def compute(self, embedder: Embedder) -> Findings:
        embeddings = embedder(self.pairs.images, self.flip)
        scores = compare(embeddings.embeddings, self.pairs.pairs)
        quality = embeddings.norms if self.quality is None else self.quality
        quality = quality[self.pairs.pairs].min(axis=1)  # (P,)
        threshold = ROC.from_scores(self.pairs.same, scores).at_far(self.far).threshold
        errors = (scores >= threshold) != self.pairs.same

        genuine, far = self.pairs.same, format_far(self.far)
        curve = ErrorDiscard.from_errors(errors[genuine], quality[genuine])
        metrics = {
            f"fnmr@far={far}": curve.at(0.0),
            **{f"fnmr@discard={discard:g}": curve.at(discard) for discard in DISCARDS},
            "erc_area": curve.area(),
            "erc_area@discard=0.2": curve.area(0.2),
        }
        for key, first, second in (
            ("genuine_correlation", quality[genuine], scores[genuine]),
            ("error_correlation", quality, errors.astype(np.int8)),
        ):
            if np.ptp(first) and np.ptp(second):
                metrics[key] = float(spearmanr(first, second).statistic)
        return Findings(metrics, {"erc": lambda: plot_error_discard({self.measure: curve}, f"FNMR at FAR {far}")})


def _quality_of_images(pairs: VerificationPairs, quality: np.ndarray | str | None) -> np.ndarray | None:
    if quality is None:
        return None
    if isinstance(quality, str):
        if quality not in pairs.images.column_names:
            raise ValueError(f"{pairs.name}: no column {quality!r} in the images, found {pairs.images.column_names}")
        quality = pairs.images[quality]
    quality = np.asarray(quality, dtype=np.float64)
    if quality.shape != (len(pairs.images),):
        raise ValueError(f"{pairs.name}: {len(pairs.images)} images, but quality has shape {quality.shape}")
    check_finite(quality, f"quality in {pairs.name} of image")
    return quality
