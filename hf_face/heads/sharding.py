"""What ranks say to each other when the class centres are split over them."""

import torch
import torch.distributed as dist
from torch import Tensor


def shard_range(num_labels: int, rank: int, world_size: int) -> tuple[int, int]:
    """The identities [start, stop) of a rank: consecutive, and as even as any number of them allows."""
    return num_labels * rank // world_size, num_labels * (rank + 1) // world_size


def gather_rows(rows: Tensor, group: dist.ProcessGroup) -> Tensor:
    """The rows (B, ...) of every rank, in rank order (ranks * B, ...). Without gradient; B is the same on all ranks."""
    gathered = rows.new_empty(dist.get_world_size(group) * len(rows), *rows.shape[1:])
    dist.all_gather_into_tensor(gathered, rows.contiguous(), group=group)
    return gathered


class _GatherWithGradient(torch.autograd.Function):
    @staticmethod
    def forward(ctx, rows: Tensor, group: dist.ProcessGroup) -> Tensor:
        ctx.group = group
        return gather_rows(rows, group)

    @staticmethod
    def backward(ctx, gradient: Tensor) -> tuple[Tensor, None]:
        world_size = dist.get_world_size(ctx.group)
        own = gradient.new_empty(len(gradient) // world_size, *gradient.shape[1:])
        dist.reduce_scatter_tensor(own, gradient.contiguous(), group=ctx.group)
        # Data parallelism averages the ranks' gradients; the gradient of a loss over all ranks' samples is their sum.
        return own * world_size, None


def gather_with_gradient(rows: Tensor, group: dist.ProcessGroup) -> Tensor:
    """As [`gather_rows`], and every rank's gradient finds its way back to the rank that the row came from.

    Made for a loss that every rank computes alike from the gathered rows, followed by an average of the backbone's
    gradients over the ranks (DDP, FSDP): the result is the gradient of that one loss.
    """
    return _GatherWithGradient.apply(rows, group)


def sum_over_ranks(value: Tensor, group: dist.ProcessGroup) -> Tensor:
    """The sum over ranks, without gradient."""
    total = value.detach().clone()
    dist.all_reduce(total, group=group)
    return total


def logsumexp_over_ranks(value: Tensor, group: dist.ProcessGroup) -> Tensor:
    """logsumexp (B,) over the ranks' values (B,), with the gradient of this rank's own."""
    values = list(gather_rows(value.detach(), group).chunk(dist.get_world_size(group)))
    values[dist.get_rank(group)] = value
    return torch.logsumexp(torch.stack(values), dim=0)
