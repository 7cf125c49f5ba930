"""Templates: several images of one person pooled into one feature, and the similarity of pairs of templates.

A template is pooled by media first, so that a video of a hundred frames does not outweigh a photograph: mean over the
images of a media, sum over the medias, unit length (Crosswhite et al. 2017, "Template adaptation for face verification
and identification"; the IJB protocol of VGGFace2 and InsightFace). Both steps, including the protocol's norm and
detector-score switches, are computed as a single weighted segment sum over images.
"""

from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute
import torch
import torch.nn.functional as F

from ..embedding.finite import check_finite, first_not_finite
from .comparison_scores import BLOCK_SIZE

# Computing the grid of all similarities is faster if at least one in this many entries is used.
DENSE_ENTRIES_PER_PAIR = 64
GATHERED_PAIRS = 2**13  # to gather the rows of at a time


@dataclass
class TemplateFeatures:
    """Pooled templates: ascending `ids` (T,), int64, and unit-length `features` (T, D) in the same order."""

    ids: np.ndarray
    features: torch.Tensor

    def rows(self, template_ids, source: str) -> np.ndarray:
        """Rows of the given template ids.

        Raises:
            ValueError: if a template has no images; the message names the list, `source`.
        """
        template_ids = np.asarray(template_ids, dtype=self.ids.dtype)
        rows = pyarrow.compute.index_in(pa.array(template_ids), pa.array(self.ids))
        if rows.null_count:
            entry = int(np.argmax(rows.is_null()))
            raise ValueError(
                f"{source}: entry {entry + 1} refers to template {template_ids[entry]}, which has no images "
                f"(as do {rows.null_count} of {len(rows)} entries); provide its images or remove the entry"
            )
        return np.array(rows)


def image_weights(features, detector_scores=None, norm_score: bool = True) -> torch.Tensor:
    """Compute the weight (N,) of each image in its template.

    Args:
        features: embeddings (N, D) as returned by the network, not normalized.
        detector_scores: confidence (N,) of the face detector (the protocol's switch D); None to not use it.
        norm_score: whether to weight images by the norm of their embedding (switch N), or normalize all to unit length.
    """
    features = torch.as_tensor(features)
    weights = features.new_ones(len(features)) if norm_score else torch.linalg.vector_norm(features, dim=1).reciprocal()
    return weights if detector_scores is None else weights * torch.as_tensor(detector_scores).to(weights)


def pool_templates(features, templates, medias, weights=None) -> TemplateFeatures:
    """Pool image features (N, D) into one unit-length feature per template, in their dtype and on their device.

    Args:
        features: embeddings (N, D), not normalized.
        templates, medias: template id and media id of each image (N,). Media ids may repeat in other templates.
        weights: (N,) from `image_weights`; None for no weighting.

    Raises:
        ValueError: if lengths differ, or a template's feature is not finite (the message names the template).
    """
    features = torch.as_tensor(features)
    templates, medias = np.asarray(templates), np.asarray(medias)
    if not len(features) == len(templates) == len(medias):
        raise ValueError(
            f"{len(features)} features, {len(templates)} template ids and {len(medias)} media ids: expected one of "
            "each per image, in the same order"
        )
    ids, template_rows, template_sizes = np.unique(templates, return_inverse=True, return_counts=True)
    in_groups = np.stack([templates, medias])
    _, groups, group_sizes = np.unique(in_groups, axis=1, return_inverse=True, return_counts=True)
    # (N,), 1 / images of the same media and template
    shares = torch.as_tensor(1.0 / group_sizes[groups]).to(features)
    if weights is not None:
        shares = shares * weights
    order = torch.as_tensor(np.argsort(template_rows, kind="stable"), device=features.device)
    offsets = torch.as_tensor(np.cumsum(template_sizes) - template_sizes, device=features.device)
    pooled = F.embedding_bag(order, features, offsets, mode="sum", per_sample_weights=shares[order])  # (T, D)
    row = first_not_finite(pooled)
    if row is not None:
        raise ValueError(f"template {ids[row]}: the features of its images are not finite")
    return TemplateFeatures(ids, F.normalize(pooled))


def pair_scores(features: torch.Tensor, rows_a, rows_b, block_size: int = BLOCK_SIZE) -> np.ndarray:
    """Compute the dot product (P,) of each pair of rows of `features` (T, D), given as two integer arrays (P,).

    If the pairs fill enough of the grid of all pairs, as in the IJB protocols, the grid is computed in blocks of about
    `block_size` entries, which is faster than gathering two rows for every pair.

    Raises:
        ValueError: if a feature is not finite.
    """
    check_finite(features, "feature of template")
    rows_a, rows_b = np.asarray(rows_a), np.asarray(rows_b)
    # Rows that are first in any pair come first in the grid, so that gallery x probes is a rectangle of it. The earlier
    # row of each pair is the left one, so half of the grid is enough.
    leads = np.zeros(len(features), dtype=bool)
    leads[rows_a] = True
    order = np.argsort(~leads, kind="stable")
    place = np.empty(len(features), dtype=np.int32)
    place[order] = np.arange(len(features))
    features = features[torch.as_tensor(order, device=features.device)]
    left, right = place[rows_a], place[rows_b]
    left, right = np.minimum(left, right), np.maximum(left, right)
    if leads.sum() * len(features) > DENSE_ENTRIES_PER_PAIR * len(left):
        return _gathered_scores(features, left, right)
    return _grid_scores(features, left, right, block_size)


def _grid_scores(features: torch.Tensor, left: np.ndarray, right: np.ndarray, block_size: int) -> np.ndarray:
    num_rows = -(-block_size // len(features))
    blocks = left // num_rows
    order = np.argsort(blocks.astype(np.min_scalar_type(blocks.max())), kind="stable")  # small integers: a radix sort
    ends = np.cumsum(np.bincount(blocks))
    scores = torch.empty(len(left), dtype=features.dtype).numpy()
    grid = features.new_empty(num_rows * len(features))
    for block, pairs in enumerate(np.split(order, ends[:-1])):
        if len(pairs) == 0:
            continue
        first = block * num_rows
        rows = features[first : first + num_rows]
        low, high = right[pairs].min(), right[pairs].max()
        columns = features[low : high + 1]
        torch.mm(rows, columns.T, out=grid[: len(rows) * len(columns)].view(len(rows), -1))
        entries = (left[pairs] - first).astype(np.int64) * len(columns) + (right[pairs] - low)
        scores[pairs] = grid.take(torch.as_tensor(entries, device=grid.device)).cpu().numpy()
    return scores


def _gathered_scores(features: torch.Tensor, left: np.ndarray, right: np.ndarray) -> np.ndarray:
    scores = torch.empty(len(left), dtype=features.dtype)
    for start in range(0, len(left), GATHERED_PAIRS):
        pairs = slice(start, start + GATHERED_PAIRS)
        rows, columns = (torch.as_tensor(side[pairs], device=features.device) for side in (left, right))
        scores[pairs] = torch.linalg.vecdot(features[rows], features[columns])
    return scores.numpy()
