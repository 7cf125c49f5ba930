"""Face identification: finding people in a gallery by their embeddings."""

import datasets
import evaluate
import numpy as np
import torch
import torch.nn.functional as F

from hf_face.evaluation.identification import DEFAULT_FPIRS, DEFAULT_RANKS, search

_DESCRIPTION = """\
Metrics of 1:N face identification from embeddings of probes and a gallery: the share of probes found at rank k (closed
set), and the true positive identification rate at given false positive identification rates (TPIR@FPIR, open set).
Embeddings are compared by cosine similarity.
"""

_KWARGS_DESCRIPTION = """
Args:
    predictions (`list[list[float]]`): embedding of each probe, with any norm.
    references (`list[int]`): identity of each probe.
    gallery (`list[list[float]]`): embeddings of the enrolled images.
    gallery_references (`list[int]`): identity of each enrolled image; a person may have several images.
    ranks (`list[int]`): ranks to report, by default 1, 5 and 10.
    fpirs (`list[float]`): false positive identification rates to report, by default 1e-2 and 1e-1. Rates below one
        probe of a person outside the gallery are not measurable and left out.
Returns:
    rank1, ...: share of mated probes (those of enrolled people) with an image of the person among the k most similar.
    map: mean average precision over mated probes (as in TinyFace).
    tpir@fpir=..., threshold@fpir=...: largest share of mated probes found at rank 1 and above a threshold, for which at
        most this share of non-mated probes has any candidate above the threshold.
    num_mated, num_non_mated: number of probes of enrolled people and of others.
Examples:
    >>> face_identification = evaluate.load("hf_face/metrics/face_identification")
    >>> gallery, probes = [[1.0, 0.0], [0.0, 1.0]], [[0.9, 0.1], [0.6, 0.5], [-1.0, -1.0]]
    >>> results = face_identification.compute(
    ...     predictions=probes, references=[7, 8, 9], gallery=gallery, gallery_references=[7, 8]
    ... )
    >>> results["rank1"], results["rank5"]
    (0.5, 1.0)
"""

_CITATION = """\
@techreport{iso19795,
  title = {Information technology -- Biometric performance testing and reporting -- Part 1: Principles and framework},
  institution = {ISO/IEC},
  number = {19795-1},
  year = {2021},
}
"""


@evaluate.utils.file_utils.add_start_docstrings(_DESCRIPTION, _KWARGS_DESCRIPTION)
class FaceIdentification(evaluate.Metric):
    def _info(self):
        return evaluate.MetricInfo(
            description=_DESCRIPTION,
            citation=_CITATION,
            inputs_description=_KWARGS_DESCRIPTION,
            features=datasets.Features(
                {"predictions": datasets.Sequence(datasets.Value("float64")), "references": datasets.Value("int64")}
            ),
        )

    def _compute(self, predictions, references, gallery, gallery_references, ranks=DEFAULT_RANKS, fpirs=DEFAULT_FPIRS):
        if not np.isin(references, gallery_references).any():
            raise ValueError("no probe shows a person in the gallery")
        probes, gallery = (F.normalize(torch.as_tensor(np.asarray(each, float))) for each in (predictions, gallery))
        result = search(probes, references, gallery, gallery_references)
        return result.metrics(ranks, fpirs) | {
            "map": result.mean_average_precision,
            "num_mated": float(result.mated.sum()),
            "num_non_mated": float((~result.mated).sum()),
        }
