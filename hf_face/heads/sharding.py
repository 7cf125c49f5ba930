"""Communication between ranks when the class centers are split over them."""

from collections.abc import Iterable

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.tensor import DTensor


def shard_range(num_identities: int, rank: int, world_size: int) -> tuple[int, int]:
    """The identities [start, stop) of a rank: consecutive, and distributed as evenly as possible."""
    return num_identities * rank // world_size, num_identities * (rank + 1) // world_size


def check_same_batch_size(batch_size: int, group: dist.ProcessGroup, device: torch.device) -> None:
    """Check that all ranks have the same number of samples: otherwise, collectives hang or mix up samples.

    Raises:
        ValueError: on the CPU, on every rank. On an accelerator, a device-side assertion fails instead.
    """
    sizes = gather_rows(torch.full((1,), batch_size, device=device), group)
    same = (sizes == batch_size).all()
    if device.type != "cpu":
        torch._assert_async(same, "every rank must pass the same number of samples to the head")
    elif not same:
        raise ValueError(
            f"every rank must pass the same number of samples to the head, found {sizes.tolist()}. Drop the smaller "
            "last batch (drop_last=True), or pad it with samples of label -1"
        )


def gather_rows(rows: Tensor, group: dist.ProcessGroup) -> Tensor:
    """Gather the rows (B, ...) of every rank, with equal B, to (ranks * B, ...) in rank order, without gradient."""
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
        # Data parallelism averages gradients over ranks; the gradient of a loss over all ranks' samples is their sum.
        return own * world_size, None


def gather_with_gradient(rows: Tensor, group: dist.ProcessGroup) -> Tensor:
    """Gather as [`gather_rows`] does, and return each row's gradient to the rank that the row came from.

    For a loss that every rank computes identically from the gathered rows, when the backbone's gradients are then
    averaged over ranks (DDP, FSDP): the result is the gradient of that loss.
    """
    return _GatherWithGradient.apply(rows, group)


def with_other_ranks(rows: Tensor, group: dist.ProcessGroup) -> list[Tensor]:
    """The rows (B, ...) of every rank, in rank order; only this rank's rows carry a gradient."""
    gathered = list(gather_rows(rows.detach(), group).chunk(dist.get_world_size(group)))
    gathered[dist.get_rank(group)] = rows
    return gathered


def share_gradient(value: Tensor, group: dist.ProcessGroup) -> Tensor:
    """The unchanged value, with its gradient divided by the number of ranks.

    For values that every rank computes identically from gathered rows, since the ranks' gradients are summed in the
    backward pass.
    """
    return value.detach() + (value - value.detach()) / dist.get_world_size(group)


def sum_over_ranks(value: Tensor, group: dist.ProcessGroup) -> Tensor:
    """The sum over ranks, without gradient."""
    total = value.detach().clone()
    dist.all_reduce(total, group=group)
    return total


def logsumexp_over_ranks(value: Tensor, group: dist.ProcessGroup) -> Tensor:
    """logsumexp (B,) over the ranks' values (B,), with a gradient only for this rank's value."""
    return torch.logsumexp(torch.stack(with_other_ranks(value, group)), dim=0)


def clip_grad_norm_(
    parameters: Iterable[nn.Parameter],
    max_norm: float,
    shard: nn.Parameter | None = None,
    group: dist.ProcessGroup | None = None,
) -> Tensor:
    """Clip gradients like torch's `clip_grad_norm_`, for a model with one parameter split over ranks.

    Args:
        parameters: all parameters of the model; gradients may be sparse.
        max_norm: maximum L2 norm of the gradients.
        shard: the parameter that is split over `group`. Its norm is taken over all ranks, as are those of `DTensor`s;
            the other parameters, which are the same on every rank, count once.
        group: the ranks; all of them must call this function.

    Returns:
        The norm before clipping, the same on all ranks.
    """
    parameters = list(parameters)
    norm = grad_norm(parameters, shard, group)
    scale_grads_(parameters, max_norm, norm)
    return norm


@torch.no_grad()
def grad_norm(
    parameters: Iterable[nn.Parameter], shard: nn.Parameter | None = None, group: dist.ProcessGroup | None = None
) -> Tensor:
    """The L2 norm of gradients; see [`clip_grad_norm_`]."""
    replicated: list[Tensor] = []
    own: list[Tensor] = []
    distributed: list[Tensor] = []
    for parameter in parameters:
        for values in _grad_values(parameter):
            part = own if parameter is shard else distributed if isinstance(values, DTensor) else replicated
            part.append(values)
    square = nn.utils.get_total_norm(own).square()
    if group is not None:
        square = square.to(shard.device)
        dist.all_reduce(square, group=group)
    for part in (replicated, distributed):
        norm = nn.utils.get_total_norm(part)
        square = square + (norm.full_tensor() if isinstance(norm, DTensor) else norm).square().to(square.device)
    return square.sqrt()


@torch.no_grad()
def scale_grads_(parameters: Iterable[nn.Parameter], max_norm: float, norm: Tensor) -> None:
    """Scale gradients of the given total norm down to a norm of at most `max_norm`."""
    factor = (max_norm / (norm + 1e-6)).clamp(max=1)
    by_device: dict[torch.device, list[Tensor]] = {}  # engines may offload some
    for parameter in parameters:
        for values in _grad_values(parameter):
            local = values.to_local() if isinstance(values, DTensor) else values
            by_device.setdefault(local.device, []).append(local)
    for device, gradients in by_device.items():
        torch._foreach_mul_(gradients, factor.to(device))


def _grad_values(parameter: nn.Parameter) -> list[Tensor]:
    """The values of a parameter's gradient, if it has one, which may be sparse."""
    if parameter.grad is None:
        return []
    if not parameter.grad.is_sparse:
        return [parameter.grad]
    parameter.grad = parameter.grad.coalesce()
    return [parameter.grad._values()]
