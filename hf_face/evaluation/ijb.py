"""IJB-B and IJB-C: verification (1:1) and identification (1:N) of templates."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from matplotlib.figure import Figure
from transformers.utils import logging

from ..embedding import Embedder, EmbeddingCache, Embeddings
from ..registry import protocols
from .comparison_scores import ComparisonScores
from .evaluator import Evaluator, Findings
from .identification import DEFAULT_FPIRS, DEFAULT_RANKS, SearchResult, search
from .ijb_files import IJBProtocol, SubjectTemplates, load_ijb
from .metrics import DEFAULT_FARS, allowed_errors, check_ranks, check_rate, format_far
from .plots import plot_cmc, plot_det, plot_roc, plot_scores
from .reference_ijb import insightface_identification, insightface_open_set_tpir, insightface_tar_at_far
from .templates import TemplateFeatures, image_weights, pair_scores, pool_templates

logger = logging.get_logger(__name__)

SWITCHES = tuple(f"N{norm}D{detector}F{flip}" for norm in (1, 0) for detector in (1, 0) for flip in (1, 0))

IJBB = """
@inproceedings{ijbb,
  title = {IARPA Janus Benchmark-B Face Dataset},
  author = {Whitelam, Cameron and Taborsky, Emma and Blanton, Austin and Maze, Brianna and Adams, Jocelyn and
            Miller, Tim and Kalka, Nathan and Jain, Anil K. and Duncan, James A. and Allen, Kristen and
            Cheney, Jordan and Grother, Patrick},
  booktitle = {Conference on Computer Vision and Pattern Recognition Workshops},
  year = {2017}
}
"""

IJBC = """
@inproceedings{ijbc,
  title = {IARPA Janus Benchmark - C: Face Dataset and Protocol},
  author = {Maze, Brianna and Adams, Jocelyn and Duncan, James A. and Kalka, Nathan and Miller, Tim and
            Otto, Charles and Jain, Anil K. and Niggel, W. Tyler and Anderson, Janet and Cheney, Jordan and
            Grother, Patrick},
  booktitle = {International Conference on Biometrics},
  year = {2018}
}
"""


@protocols.register("ijb", citation=[IJBB, IJBC])
class IJBEvaluator(Evaluator):
    """
    IJB-B and IJB-C: TAR@FAR of template pairs, and rank-k and TPIR@FPIR of template searches.

    Each gallery is searched separately: probes of people enrolled only in the other gallery are its non-mated probes.
    Rank-k is the share of all mated searches, and TPIR the mean over galleries. InsightFace's metrics are also
    reported, prefixed with `insightface_`; see docs/ijb.md for how they differ.

    Args:
        protocol (`IJBProtocol`): From [`load_ijb`].
        switches (`str`):
            How to weight the images of a template, named as in the reference: N1 by the norm of the embedding, D1 by
            the detector's score; F1 adds the embedding of the flipped image. 0 disables each.
        fars, ranks, fpirs (sequences of `float` and `int`):
            What to report. Rates below one impostor pair or probe are not measurable and left out.
        cache (`EmbeddingCache`, *optional*):
            Stores embeddings to resume interrupted runs. By default, embeddings are only kept in memory.

    Raises:
        ValueError: if `switches` are unknown, a rank or rate is out of range, or no FAR can be measured with so few
            impostor pairs.

    Example:
    ```python
    >>> evaluator = IJBEvaluator(load_ijb("IJBC"), cache=EmbeddingCache("cache"))
    >>> evaluator(model, image_processor)["ijbc_tar@far=1e-4"]
    0.96
    ```
    """

    def __init__(
        self,
        protocol: IJBProtocol,
        switches: str = "N1D1F1",
        fars: Sequence[float] = DEFAULT_FARS,
        ranks: Sequence[int] = DEFAULT_RANKS,
        fpirs: Sequence[float] = DEFAULT_FPIRS,
        cache: EmbeddingCache | None = None,
    ):
        if switches not in SWITCHES:
            raise ValueError(f"switches are {switches!r}, expected one of {', '.join(SWITCHES)}")
        self.protocol = protocol
        self.switches = switches
        self.flip = "sum" if switches.endswith("F1") else None
        check_ranks(ranks)
        for fpir in fpirs:
            check_rate(fpir)
        self.fars = fars
        self.ranks = ranks
        self.fpirs = fpirs
        self.cache = cache
        self.name = protocol.name if switches == "N1D1F1" else f"{protocol.name}_{switches}"
        num_impostors = int((~protocol.same).sum())
        self.measurable_fars = [far for far in fars if allowed_errors(far, num_impostors)]
        if not self.measurable_fars:
            raise ValueError(f"{self.name}: {num_impostors} impostor pairs are too few for any of the FARs {fars}")
        primary = 1e-4 if 1e-4 in self.measurable_fars else min(self.measurable_fars)
        self.primary_metric = f"tar@far={format_far(primary)}"
        if not protocol.galleries:
            logger.warning(f"{protocol.name} has no 1:N lists in its meta folder: skipping identification")

    @classmethod
    def load(
        cls,
        data: str | Path,
        switches: str | Sequence[str] = "N1D1F1",
        fars: Sequence[float] = DEFAULT_FARS,
        ranks: Sequence[int] = DEFAULT_RANKS,
        fpirs: Sequence[float] = DEFAULT_FPIRS,
        cache_dir: str | Path | None = None,
    ) -> list[Evaluator]:
        """Build one evaluator per value of `switches`; `data` is the folder of IJB-B or IJB-C."""
        protocol = load_ijb(data)
        cache = None if cache_dir is None else EmbeddingCache(cache_dir)
        switches = [switches] if isinstance(switches, str) else switches
        return [cls(protocol, each, fars, ranks, fpirs, cache) for each in switches]

    @property
    def not_measurable(self) -> list[str]:
        missing = [f"tar@far={format_far(far)}" for far in self.fars if far not in self.measurable_fars]
        if self.protocol.galleries:
            fewest = min(
                int((~np.isin(self.protocol.probes.subjects, gallery.subjects)).sum())
                for gallery in self.protocol.galleries.values()
            )
            missing += [f"tpir@fpir={format_far(fpir)}" for fpir in self.fpirs if not allowed_errors(fpir, fewest)]
        return missing

    def compute(self, embedder: Embedder) -> Findings:
        images = self.protocol.images
        embeddings = embedder(images, None) if self.cache is None else self.cache(embedder, images)
        templates = self.pool(embeddings, embedder.device)
        scores = self.compare(templates)
        curve = scores.curve()
        metrics = {"auc": scores.auc, "eer": curve.eer} | self._rates_at_fars(scores)
        plots = {
            "roc": lambda: plot_roc({self.name: curve}),
            "det": lambda: plot_det({self.name: curve}),
            "scores": lambda: plot_scores(scores.genuine, scores.impostors, self.name),
        }
        if self.protocol.galleries:
            results = self.search(templates)
            metrics |= self._identification_metrics(results, templates)
            plots["cmc"] = lambda: self._plot_cmc(results)
        return Findings(metrics, plots)

    def pool(self, embeddings: Embeddings, device: torch.device | str = "cpu") -> TemplateFeatures:
        """Pool the embeddings of images into all templates of the protocol."""
        norm_score, detector_score, flip = (switch == "1" for switch in self.switches[1::2])
        features = embeddings.original + embeddings.flipped if flip else embeddings.original
        features = torch.from_numpy(features).to(device)
        weights = image_weights(features, self.protocol.detector_scores if detector_score else None, norm_score)
        return pool_templates(features, self.protocol.templates, self.protocol.medias, weights)

    def compare(self, templates: TemplateFeatures) -> ComparisonScores:
        """Compute the scores of the 1:1 pairs."""
        first, second = (templates.rows(side, self.protocol.pairs_source) for side in self.protocol.pairs.T)
        return ComparisonScores.from_pairs(self.protocol.same, pair_scores(templates.features, first, second))

    def search(self, templates: TemplateFeatures) -> dict[str, SearchResult]:
        """Search for every probe in each gallery."""
        probes, probe_subjects = _enroll(templates, self.protocol.probes)
        return {
            name: search(probes, probe_subjects, *_enroll(templates, gallery))
            for name, gallery in self.protocol.galleries.items()
        }

    def _rates_at_fars(self, scores: ComparisonScores) -> dict[str, float]:
        metrics = {"finest_far": scores.finest_far}
        for far in self.measurable_fars:
            point = scores.at_far(far)
            metrics |= {f"tar@far={format_far(far)}": point.tar, f"threshold@far={format_far(far)}": point.threshold}
        for far, point in zip(self.fars, insightface_tar_at_far(scores, self.fars), strict=True):
            metrics[f"insightface_tar@far={format_far(far)}"] = point.tar
        return metrics

    def _identification_metrics(
        self, results: dict[str, SearchResult], templates: TemplateFeatures
    ) -> dict[str, float]:
        found = np.concatenate([result.ranks for result in results.values()])
        metrics = {f"rank{rank}": float((found <= rank).mean()) for rank in self.ranks}
        each = {name: result.metrics(self.ranks, self.fpirs) for name, result in results.items()}
        for fpir in self.fpirs:
            key = f"tpir@fpir={format_far(fpir)}"
            if all(key in gallery for gallery in each.values()):
                metrics[key] = float(np.mean([gallery[key] for gallery in each.values()]))
                reference = [insightface_open_set_tpir(result, fpir).tar for result in results.values()]
                metrics[f"insightface_open_set_{key}"] = float(np.mean(reference))
        metrics |= {f"{name}_{key}": value for name, gallery in each.items() for key, value in gallery.items()}
        return metrics | self._closed_set_metrics(templates)

    def _plot_cmc(self, results: dict[str, SearchResult]) -> Figure:
        num_ranks = min(50, *(len(gallery.templates) for gallery in self.protocol.galleries.values()))
        return plot_cmc({f"{self.name} {name}": result.cmc(num_ranks) for name, result in results.items()})

    def _closed_set_metrics(self, templates: TemplateFeatures) -> dict[str, float]:
        """InsightFace's metrics, which require every probe's subject to occur exactly once in the galleries."""
        galleries = [_enroll(templates, gallery) for gallery in self.protocol.galleries.values()]
        gallery = torch.cat([features for features, _ in galleries])
        gallery_subjects = np.concatenate([subjects for _, subjects in galleries])
        probes, probe_subjects = _enroll(templates, self.protocol.probes)
        unique, counts = np.unique(gallery_subjects, return_counts=True)
        if not np.isin(probe_subjects, unique[counts == 1]).all():
            logger.warning(
                f"{self.name}: not every probe's subject occurs once in the galleries: no closed-set metrics"
            )
            return {}
        metrics = insightface_identification(probes, probe_subjects, gallery, gallery_subjects, self.ranks, self.fpirs)
        return {f"insightface_{key}": value for key, value in metrics.items()}


def _enroll(templates: TemplateFeatures, listed: SubjectTemplates) -> tuple[torch.Tensor, np.ndarray]:
    """Features and subjects of the templates on a list."""
    return templates.features[templates.rows(listed.templates, listed.source)], listed.subjects
