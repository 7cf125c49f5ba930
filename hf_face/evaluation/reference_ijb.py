"""InsightFace's IJB metrics, computed as in its scripts for comparison with published results.

See docs/ijb.md for how they differ from the definitions in `comparison_scores` and `identification`.
"""

import math
from collections.abc import Sequence

import numpy as np
import torch

from ..embedding.finite import check_finite
from .comparison_scores import BLOCK_SIZE, ComparisonScores
from .identification import SearchResult
from .metrics import OperatingPoint, check_ranks, check_rate, format_far

BELOW_ANY_COSINE = -2.0


def insightface_roc(scores: ComparisonScores) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The curve of `eval_ijbc.py`, sklearn's `roc_curve` with its default thinning: FAR, TAR, thresholds (R,).

    Computes the same points from sorted scores, which is several times faster than from labels.
    """
    merged = np.insert(scores.impostors, np.searchsorted(scores.impostors, scores.genuine), scores.genuine)[::-1]
    last = np.append(np.flatnonzero(merged[1:] != merged[:-1]), len(merged) - 1)  # of each distinct score, descending
    thresholds = merged[last]
    tps = len(scores.genuine) - np.searchsorted(scores.genuine, thresholds, side="left")
    fps = last + 1 - tps
    # Points where both counts rise by the same amounts as before are dropped.
    corner = np.ones(len(last), dtype=bool)
    corner[1:-1] = (np.diff(fps, 2) != 0) | (np.diff(tps, 2) != 0)
    far = np.append(0, fps[corner]) / scores.num_impostors
    tar = np.append(0, tps[corner]) / len(scores.genuine)
    return far, tar, np.append(np.inf, thresholds[corner])


def insightface_tar_at_far(scores: ComparisonScores, fars: Sequence[float]) -> list[OperatingPoint]:
    """The table of `eval_ijbc.py`: the point of the thinned curve with the FAR nearest to each target.

    That FAR may be above the target, and is zero for targets below half an impostor pair. Of equally near points, the
    one with the larger TAR is used.

    Raises:
        ValueError: if a target is not from 0 to 1.
    """
    far, tar, thresholds = (values[::-1] for values in insightface_roc(scores))  # the larger TAR comes first
    points = []
    for target in fars:
        if target:  # 0 is the first point of the curve
            check_rate(target)
        index = np.argmin(np.abs(far - target))
        points.append(OperatingPoint(float(far[index]), float(tar[index]), float(thresholds[index])))
    return points


def insightface_identification(
    probes: torch.Tensor,
    probe_subjects: np.ndarray,
    gallery: torch.Tensor,
    gallery_subjects: np.ndarray,
    ranks: Sequence[int] = (1, 5, 10),
    fpirs: Sequence[float] = (1e-2, 1e-1),
) -> dict[str, float]:
    """The metrics of `ijb_1n.py`, which searches a closed set: the combined galleries G1 and G2.

    The threshold at FPIR f is the ceil(f P)-th largest of all wrong similarities, several of which may belong to one
    probe. TPIR is the share of probes that score above it with their subject's entry, regardless of its rank.

    Raises:
        ValueError: if a probe's subject does not occur exactly once in the gallery, a feature is not finite, or a rank
            or rate is out of range.
    """
    check_finite(probes, "probe feature")
    check_finite(gallery, "gallery feature")
    check_ranks(ranks)
    for fpir in fpirs:
        check_rate(fpir)
    columns = _columns_of_mates(probe_subjects, np.asarray(gallery_subjects))
    wanted = [math.ceil(fpir * len(probes)) for fpir in fpirs]
    own, places_found, wrong = [], [], []
    rows = -(-BLOCK_SIZE // len(gallery))
    own_columns = torch.as_tensor(columns, device=probes.device)[:, None]
    for block, mates in zip(probes.split(rows), own_columns.split(rows), strict=True):
        similarity = block @ gallery.T
        own.append(similarity.gather(1, mates)[:, 0])
        places_found.append((similarity > own[-1][:, None]).sum(1) + 1)
        similarity.scatter_(1, mates, BELOW_ANY_COSINE)
        wrong.append(similarity.flatten().topk(min(max(wanted), similarity.numel())).values)
    own, places_found, wrong = torch.cat(own), torch.cat(places_found), torch.cat(wrong)
    wrong = wrong.sort(descending=True).values
    metrics = {f"rank{rank}": float((places_found <= rank).double().mean()) for rank in ranks}
    for fpir, count in zip(fpirs, wanted, strict=True):
        metrics[f"tpir@fpir={format_far(fpir)}"] = float((own > wrong[count - 1]).double().mean())
        metrics[f"threshold@fpir={format_far(fpir)}"] = float(wrong[count - 1])
    return metrics


def _columns_of_mates(probe_subjects: np.ndarray, gallery_subjects: np.ndarray) -> np.ndarray:
    """Where in the gallery each probe's subject is (P,). Raises `ValueError` unless each is there exactly once."""
    subjects, columns, entries = np.unique(gallery_subjects, return_index=True, return_counts=True)
    places = np.searchsorted(subjects, probe_subjects).clip(max=len(subjects) - 1)
    counts = np.where(subjects[places] == probe_subjects, entries[places], 0)
    if (counts != 1).any():
        first = int(np.argmax(counts != 1))
        raise ValueError(
            f"probe {first}: subject {probe_subjects[first]} occurs {counts[first]} times in the gallery; "
            "a closed set requires every probe's subject exactly once"
        )
    return columns[places]


def insightface_open_set_tpir(result: SearchResult, fpir: float) -> OperatingPoint:
    """TPIR and threshold of `ijb_evals.py` (pull requests 1387 and 1739) for one gallery.

    Differs from `SearchResult.at_fpir` only in the threshold: the max(int(f N) - 1, 0)-th of the N non-mated probes'
    highest scores, counted from zero, and itself rejected. This is one false alarm fewer than the target allows.

    Raises:
        ValueError: if `fpir` is not a rate.
    """
    check_rate(fpir)
    alarms = np.sort(result.impostor_scores[~result.mated])[::-1]
    threshold = alarms[max(int(len(alarms) * fpir) - 1, 0)]
    found = (result.mate_ranks[:, 0] == 1) & (result.mate_scores[:, 0] > threshold)
    return OperatingPoint(float((alarms > threshold).mean()), float(found[result.mated].mean()), float(threshold))
