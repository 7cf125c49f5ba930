"""The exact margin softmax, without a batch-by-identities matrix.

With t = s * margin(cos(theta_y)), the loss of a sample is

    logaddexp(t, lse) - t,    lse = logsumexp of s * cos(theta_j) over j != y

so a process with all centers, a chunk, a sample, and a rank's shard all compute the same: the target cosine if they
have the center, and the lse over the negatives they have. Target cosines are then summed, and the lse values combined
by another logsumexp.
"""

import functools
import importlib.util
import os
import shutil
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import NamedTuple

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

from .margins import ArcFaceMargin, Margin
from .sharding import gather_rows, logsumexp_over_ranks, share_gradient, sum_over_ranks, with_other_ranks

NEVER = -1e30  # a logit with no effect on a softmax; minus infinity would give NaN if all logits have it


class MarginSoftmax(NamedTuple):
    """For each sample: the cross-entropy, the cosine to its class center, the margin's regularizer or None, and the lse
    over its negatives relative to its own logit, of which the cross-entropy is the softplus."""

    cross_entropy: Tensor
    target_cosine: Tensor
    regularizer: Tensor | None
    excess: Tensor


@dataclass(frozen=True)
class Classes:
    """The available class centers (all, a sample, or a shard) and the positions of the batch's labels among them.

    Attributes:
        centers: (C * sub_centers, D).
        labels: (B,) position of each sample's class; outside [0, C) if the class is not available.
        log_weight: (C,) added to the logits of negatives, for classes that represent others too; None for zeros.
        sub_centers: number of centers per class.
    """

    centers: Tensor
    labels: Tensor
    log_weight: Tensor | None = None
    sub_centers: int = 1

    def chunk(self, start: int, stop: int) -> "Classes":
        """Classes [start, stop)."""
        return Classes(
            self.centers[start * self.sub_centers : stop * self.sub_centers],
            self.labels - start,
            None if self.log_weight is None else self.log_weight[start:stop],
            self.sub_centers,
        )

    def __len__(self) -> int:
        return len(self.centers) // self.sub_centers


def unit_and_norm(vectors: Tensor, eps: float = 1e-6) -> tuple[Tensor, Tensor]:
    """Directions (..., D) and norms (..., 1). Vectors shorter than `eps` give a zero direction, without gradient."""
    norm = torch.linalg.vector_norm(vectors, dim=-1, keepdim=True)
    return vectors * torch.where(norm > eps, norm.clamp(min=eps).reciprocal(), 0), norm


def cosine_matrix(directions: Tensor, classes: Classes, normalize: bool) -> Tensor:
    """Cosines (B, C) between directions (B, D) and the classes' nearest sub-centers."""
    centers = classes.centers.to(directions.dtype)
    cosine = directions @ (unit_and_norm(centers)[0] if normalize else centers).T
    return cosine if classes.sub_centers == 1 else cosine.unflatten(1, (-1, classes.sub_centers)).amax(2)


@torch.no_grad()
def _target_cosine(directions: Tensor, classes: Classes, normalize: bool) -> Tensor:
    """Cosine (B,) to the sample's class center, 0 if it is not available."""
    if len(classes) == 0:
        return directions.new_zeros(len(directions))
    rows = classes.labels.clamp(0, len(classes) - 1)
    centers = classes.centers.unflatten(0, (-1, classes.sub_centers))[rows].to(directions.dtype)  # (B, K, D)
    cosine = torch.einsum("bd,bkd->bk", directions, unit_and_norm(centers)[0] if normalize else centers).amax(1)
    return torch.where(_at_hand(classes), cosine, 0)


def _at_hand(classes: Classes) -> Tensor:
    return (classes.labels >= 0) & (classes.labels < len(classes))


def _target_and_logits(
    directions: Tensor, classes: Classes, scale: float, normalize: bool, rule: Callable[[Tensor], Tensor] | None
) -> tuple[Tensor, Tensor]:
    """Target cosine (B,), 0 if the class is not available, and logits (B, C) with NEVER for the target."""
    with torch.autocast(directions.device.type, enabled=False):
        cosine = cosine_matrix(directions, classes, normalize)
        column, at_hand = classes.labels.clamp(0, len(classes) - 1)[:, None], _at_hand(classes)
        target = torch.where(at_hand, cosine.gather(1, column)[:, 0], 0)
        logits = scale * (cosine if rule is None else rule(cosine))
        if classes.log_weight is not None:
            logits = logits + classes.log_weight
        return target, logits.scatter_add_(1, column, torch.where(at_hand, NEVER, 0).to(logits)[:, None])


def _softmax_terms(directions: Tensor, classes: Classes, *settings) -> tuple[Tensor, Tensor]:
    """Target cosine (B,), 0 if the class is not available, and lse over the available negatives (B,)."""
    target, logits = _target_and_logits(directions, classes, *settings)
    return target, torch.logsumexp(logits, dim=1)


def _grad_of_lse(logits: Tensor, lse: Tensor, grad_lse: Tensor) -> Tensor:
    """The gradient of the logits (B, C) through `lse`, which may be over more logits than these."""
    return (logits - lse[:, None]).exp_().mul_(grad_lse[:, None])


@functools.cache
def _fused(function: Callable, device_type: str) -> Callable:
    """Compile for CUDA, where launching a chunk's many small kernels would take longer than its arithmetic."""
    return torch.compile(function, dynamic=True) if device_type == "cuda" and _can_compile() else function


def _can_compile() -> bool:
    """Triton, which torch.compile uses, requires a C compiler for its launchers; slim containers have none."""
    has_compiler = "CC" in os.environ or shutil.which("gcc") or shutil.which("clang")
    return bool(has_compiler) and importlib.util.find_spec("triton") is not None


class _ChunkedSoftmaxTerms(torch.autograd.Function):
    """[`_softmax_terms`] chunk by chunk; the backward pass recomputes each chunk instead of storing it."""

    @staticmethod
    def forward(ctx, directions, centers, classes, chunk_size, settings):
        terms_of_chunk = _fused(_softmax_terms, directions.device.type)
        target = directions.new_zeros(len(directions))
        lse = torch.full_like(target, NEVER, dtype=torch.float64)  # rounding errors of many chunks would accumulate
        for start in range(0, len(classes), chunk_size):
            terms = terms_of_chunk(directions, classes.chunk(start, start + chunk_size), *settings)
            target, lse = target + terms[0], torch.logaddexp(lse, terms[1].double())
        lse = lse.to(directions.dtype)
        ctx.save_for_backward(directions, centers, classes.labels, classes.log_weight, lse)
        ctx.sub_centers, ctx.chunk_size, ctx.settings = classes.sub_centers, chunk_size, settings
        return target, lse

    @staticmethod
    @once_differentiable
    def backward(ctx, grad_target, grad_lse):
        directions, centers, labels, log_weight, lse = ctx.saved_tensors
        classes = Classes(centers, labels, log_weight, ctx.sub_centers)
        logits_of_chunk = _fused(_target_and_logits, directions.device.type)
        grad_of_lse = _fused(_grad_of_lse, directions.device.type)
        directions = directions.detach().requires_grad_()
        grad_directions, grad_centers = torch.zeros_like(directions), torch.empty_like(centers)
        for start in range(0, len(classes), ctx.chunk_size):
            chunk = classes.chunk(start, start + ctx.chunk_size)
            chunk = replace(chunk, centers=chunk.centers.detach().requires_grad_())
            with torch.enable_grad():
                target, logits = logits_of_chunk(directions, chunk, *ctx.settings)
            grads_of_terms = (grad_target, grad_of_lse(logits.detach(), lse, grad_lse))
            grads = torch.autograd.grad((target, logits), (directions, chunk.centers), grads_of_terms)
            grad_directions += grads[0]
            first = start * ctx.sub_centers
            grad_centers[first : first + len(grads[1])] = grads[1]
            del target, logits, grads_of_terms, grads  # before the next chunk allocates as much again
        return grad_directions, grad_centers, None, None, None


def _negative_rule(margin: Margin, target: Tensor, filter_threshold: float | None):
    """The margin's rule for negatives and the filter for suspect ones, as one function of the cosines, or None."""
    rule = margin.negative_rule(target)
    if filter_threshold is None:
        return rule
    return lambda cosine: (rule or (lambda kept: kept))(torch.where(cosine > filter_threshold, 0, cosine))


def margin_softmax(
    direction: Tensor,
    norm: Tensor,
    classes: Classes,
    labeled: Tensor,
    margin: Margin,
    scale: float,
    chunk_size: int | None = None,
    filter_threshold: float | None = None,
    group: dist.ProcessGroup | None = None,
    statistics_group: dist.ProcessGroup | None = None,
    rival: Tensor | None = None,
) -> MarginSoftmax:
    """The margin softmax of each sample, over the classes available here and, with `group`, on the other ranks.

    Args:
        direction: (B, D), unit-length embeddings; with `group`, those of all ranks.
        norm: (B, 1), length of the embeddings before normalization.
        classes: the available class centers.
        labeled: (B,) bool; other samples get no margin and are excluded from its statistics.
        margin, scale, chunk_size, filter_threshold: as in [`margin_softmax_loss`].
        group: ranks that hold the other classes and process the same embeddings.
        statistics_group: ranks that process other embeddings, for margins that depend on the whole batch.
        rival: (B,), the logit of one more negative relative to the sample's own; with `group`, those of all ranks.
    """
    dtype = compute_dtype(direction, classes.centers)
    with torch.autocast(direction.device.type, enabled=False):
        directions, norm = direction.to(dtype), norm.to(dtype)
        if not margin.normalize:
            directions = directions * norm
        norm = norm[:, 0]
        target_value = _target_cosine(directions, classes, margin.normalize)
        if group is not None:
            target_value = sum_over_ranks(target_value, group)
        if margin.training and margin.batch_statistics:
            batch = (target_value, norm.detach(), labeled)
            margin.prepare(*(gather_rows(x, statistics_group) for x in batch) if statistics_group else batch)
        settings = (scale, margin.normalize, _negative_rule(margin, target_value, filter_threshold))

        if len(classes) == 0:
            target = directions.sum(1) * 0
            lse = target + NEVER
        elif chunk_size is None:
            target, lse = _softmax_terms(directions, classes, *settings)
        else:
            target, lse = _ChunkedSoftmaxTerms.apply(directions, classes.centers, classes, chunk_size, settings)
        if group is not None:
            norm = share_gradient(norm, group)
            target = target_value + (target - target.detach())
            lse = logsumexp_over_ranks(lse, group)
            rival = None if rival is None else share_gradient(rival, group)

        if statistics_group is not None and margin.batch_statistics:
            of_all = margin(*(torch.cat(with_other_ranks(x, statistics_group)) for x in (target, norm)))
            margined = of_all.chunk(dist.get_world_size(statistics_group))[dist.get_rank(statistics_group)]
        else:
            margined = margin(target, norm)
        margined = torch.where(labeled, margined, target)
        excess = lse - scale * margined
        if rival is not None:
            excess = torch.logaddexp(excess, rival)
        return MarginSoftmax(-F.logsigmoid(-excess), target.detach(), margin.regularizer(norm), excess)


def check_labels(labels: Tensor, num_identities: int) -> None:
    """Check that labels are in [0, num_identities), or -1 for samples to ignore.

    Raises:
        ValueError: on the CPU. On an accelerator, a device-side assertion fails instead, to avoid synchronizing.
    """
    valid = (labels >= -1) & (labels < num_identities)
    if labels.device.type == "cpu" and not torch.compiler.is_compiling():
        if not valid.all():
            raise ValueError(
                f"labels must be in [0, {num_identities}) or -1 (ignored), found {labels[~valid][:5].tolist()}. "
                "Set the head's num_identities to the number of identities in the training data"
            )
    else:
        torch._assert_async(valid.all(), f"labels must be in [0, {num_identities}) or -1 (ignored)")


def check_chunk_size(chunk_size: int | None) -> None:
    """Raise `ValueError` for a chunk size below 1."""
    if chunk_size is not None and chunk_size < 1:
        raise ValueError(f"chunk_size must be at least 1, or None for all classes at once, found {chunk_size}")


def compute_dtype(embeddings: Tensor, centers: Tensor) -> torch.dtype:
    """float32, or float64 if either input is float64."""
    return torch.promote_types(torch.promote_types(embeddings.dtype, centers.dtype), torch.float32)


def weighted_mean(values: Tensor, labeled: Tensor, sample_weight: Tensor | None, group=None) -> Tensor:
    """Mean over the labeled samples of weight times value; weights are not normalized.

    With `group`, ranks that process other samples, the results average to the mean over the samples of all ranks.
    """
    if sample_weight is not None:
        values = values * sample_weight.to(values)
    total, count = torch.where(labeled, values, 0).sum(), labeled.sum()
    if group is not None:
        total, count = total * dist.get_world_size(group), sum_over_ranks(count, group)
    return total / count.clamp(min=1)


def margin_softmax_loss(
    embeddings: Tensor,
    centers: Tensor,
    labels: Tensor,
    margin: Margin | None = None,
    scale: float = 64.0,
    chunk_size: int | None = None,
    sample_weight: Tensor | None = None,
    sub_centers: int = 1,
    filter_threshold: float | None = None,
) -> Tensor:
    """Mean cross-entropy of the margin softmax, plus the margin's regularizer if it has one.

    Computed in float32 (float64 for float64 inputs), even under autocast, and only over the samples of this process.
    With several ranks, use [`MarginHead`] for margins that depend on the whole batch, such as AdaFace's.

    Args:
        embeddings: (B, D), not normalized.
        centers: (C * sub_centers, D), not normalized; the sub-centers of a class are consecutive.
        labels: (B,) int64 in [0, C); samples with label -1 are ignored.
        margin: the margin; defaults to [`ArcFaceMargin`].
        scale: scale s of the cosines.
        chunk_size: number of classes to hold logits of at a time; the peak memory, in addition to the centers and their
            gradient, is then a few B x chunk_size matrices. None holds the B x C matrix.
        sample_weight: (B,) weights of the samples' losses, for example for hard-sample mining (TransFace's EHSM). Not
            normalized, without gradient.
        sub_centers: number of centers per class; the nearest one counts (Deng et al., "Sub-center ArcFace", 2020).
        filter_threshold: cosines to other classes above it are attributed to mislabeled faces and set to 0, without
            gradient, as in InsightFace's inter-class filtering.

    Returns:
        A scalar.

    Raises:
        ValueError: for labels out of range, or a chunk size below 1.

    Example:
        >>> import torch
        >>> from hf_face.heads import ArcFaceMargin, margin_softmax_loss
        >>> embeddings, centers = torch.eye(2, 4), torch.eye(3, 4)
        >>> margin_softmax_loss(embeddings, centers, torch.tensor([0, 1]), ArcFaceMargin(m=0.5), scale=8.0)
    """
    classes = Classes(centers, labels, sub_centers=sub_centers)
    check_labels(labels, len(classes))
    check_chunk_size(chunk_size)
    labeled = labels >= 0
    direction, norm = unit_and_norm(embeddings.to(compute_dtype(embeddings, centers)))
    softmax = margin_softmax(
        direction, norm, classes, labeled, margin or ArcFaceMargin(), scale, chunk_size, filter_threshold
    )
    loss = weighted_mean(softmax.cross_entropy, labeled, sample_weight)
    return loss if softmax.regularizer is None else loss + weighted_mean(softmax.regularizer, labeled, None)


def margin_logits(
    embeddings: Tensor,
    centers: Tensor,
    labels: Tensor,
    margin: Margin | None = None,
    scale: float = 64.0,
    sub_centers: int = 1,
    filter_threshold: float | None = None,
) -> Tensor:
    """The logits (B, C) for which [`margin_softmax_loss`] is the cross-entropy, for inspection. Same arguments.

    Rows with label -1 hold plain scaled cosines.

    Raises:
        ValueError: for labels out of range.
    """
    margin, classes = margin or ArcFaceMargin(), Classes(centers, labels, sub_centers=sub_centers)
    check_labels(labels, len(classes))
    directions, norm = unit_and_norm(embeddings)
    if not margin.normalize:
        directions = embeddings
    norm = norm[:, 0]
    cosine = cosine_matrix(directions, classes, margin.normalize)
    column, labeled = labels.clamp(min=0)[:, None], labels >= 0
    target = cosine.gather(1, column)[:, 0]
    if margin.training and margin.batch_statistics:
        margin.prepare(target.detach(), norm.detach(), labeled)
    rule = _negative_rule(margin, target.detach(), filter_threshold)
    logits = cosine if rule is None else rule(cosine)
    own = torch.where(labeled, margin(target, norm), logits.gather(1, column)[:, 0])
    return scale * logits.scatter(1, column, own[:, None])
