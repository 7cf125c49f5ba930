"""Weights that an engine (FSDP or DeepSpeed) may split over ranks: gathered, loaded, and each rank's own part."""

import copy
from collections.abc import Collection, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed.fsdp import FSDPModule
from torch.distributed.tensor import DTensor, distribute_tensor
from torch.nn.functional import pad

from ..recognition import FaceRecognitionModel


def gather(tensor: Tensor) -> Tensor:
    """A copy of all of a weight, or of the optimizer's state for it, on the CPU. Must be called on every rank."""
    if isinstance(tensor, DTensor):  # gathered where the ranks communicate, even if it is offloaded
        there: Any = tensor.detach().to(tensor.device_mesh.device_type)
        return there.full_tensor().to("cpu", copy=True)
    if is_partitioned(tensor):
        import deepspeed

        with deepspeed.zero.GatheredParameters([tensor]):
            return tensor.detach().to("cpu", copy=True)
    return tensor.detach().to("cpu", copy=True)


def whole_state_dict(
    model: FaceRecognitionModel, keep: bool = True, without: Collection[str] = ()
) -> dict[str, Tensor]:
    """
    A model's state dict with all of every weight, but without class centers that are split by `shard_head`. Must be
    called on every rank.

    Args:
        keep: Whether to return it on this rank, or to only take part in gathering it.
        without: Names to leave out.
    """
    split_again(model)  # the next weights may be on their way
    split = {name: parameter for name, parameter in model.named_parameters() if is_partitioned(parameter)}
    head = {f"head.{name}": tensor for name, tensor in model.head.state_dict().items()}  # may be kept apart
    whole = {}
    for name, tensor in {**model.state_dict(), **head}.items():
        if name in without:
            continue
        gathered = gather(split.get(name, tensor))  # ZeRO-3 leaves weights empty in state dicts
        if keep:
            whole[name] = gathered
    return whole


@torch.no_grad()
def load_weights(model: FaceRecognitionModel, weights: Mapping[str, Tensor], engine: nn.Module) -> None:
    """
    Load whole weights; each rank takes its parts. Weights of the model that are missing stay.

    Args:
        engine: What the model is wrapped in.

    Raises:
        ValueError: for weights of another shape.
    """
    split_again(model)
    for name, tensor in named_tensors(model):
        if name not in weights:
            continue
        weight = weights[name]
        if tensor is model.head.weight and model.head.group is not None:
            weight = weight[model.head.own_rows]
        shape = getattr(tensor, "ds_shape", tensor.shape)
        if weight.shape != shape:
            raise ValueError(f"{name} has the shape {list(weight.shape)} in the file, {list(shape)} in the model.")
        own_part(tensor).copy_(own_part_of(weight, tensor))
    zero = getattr(engine, "optimizer", None)
    if zero is not None:
        zero.refresh_fp32_params()  # DeepSpeed's optimizer has copies


def named_tensors(model: FaceRecognitionModel) -> Iterator[tuple[str, Tensor]]:
    """The parameters and buffers of a model, including those of a head that is kept apart."""
    for module, prefix in ((model, ""), (model.head, "head")):
        yield from module.named_parameters(prefix=prefix)
        yield from module.named_buffers(prefix=prefix)


def num_trained(model: FaceRecognitionModel) -> int:
    """The number of weights that are trained, on all ranks together."""
    trained = {name: tensor for name, tensor in named_tensors(model) if tensor.requires_grad}
    sizes = {name: getattr(weight, "ds_shape", weight.shape).numel() for name, weight in trained.items()}
    if "head.weight" in sizes:  # of which a rank may have some rows
        sizes["head.weight"] = model.head.num_identities * model.head.sub_centers * model.head.embedding_size
    return sum(sizes.values())


def split_again(model: nn.Module) -> None:
    """Free weights that a forward pass has gathered, and that engines may keep for the next one."""
    for module in model.modules():
        if isinstance(module, FSDPModule):
            module.reshard()
    trained: Any = next((weight for weight in model.parameters() if hasattr(weight, "_z3_optimizer")), None)
    if trained is not None:
        trained._z3_optimizer.parameter_offload.partition_all_parameters()


def without_weights(module: nn.Module) -> nn.Module:
    """A copy of a module with its buffers, but with parameters on the meta device, to be loaded with `assign=True`."""
    empty = {
        id(weight): nn.Parameter(weight.detach().to("meta"), weight.requires_grad) for weight in module.parameters()
    }
    return copy.deepcopy(module, empty)


def own_part(tensor: Any) -> Tensor:
    """This rank's part of a weight or buffer. Changes to it change the model, after [`split_again`]."""
    if is_partitioned(tensor):
        return tensor.ds_tensor.detach()
    part = tensor.detach()
    return part.to_local() if isinstance(part, DTensor) else part


def own_part_of(whole: Tensor, tensor: Tensor) -> Tensor:
    """What of a whole weight, or of the optimizer's whole state for it, belongs to this rank's part of a weight."""
    if isinstance(tensor, DTensor):
        return own_part(distribute(whole, tensor))
    if not is_partitioned(tensor):
        return whole
    weight: Any = tensor
    size, rank = weight.ds_tensor.numel(), weight.ds_zero_partition_rank
    part = whole.flatten()[size * rank : size * (rank + 1)]
    return pad(part, (0, size - part.numel()))


def distribute(whole: Tensor, like: DTensor) -> DTensor:
    """Split a whole tensor, which all ranks have, like another one."""
    whole = whole.to(like.device_mesh.device_type)
    return distribute_tensor(whole, like.device_mesh, like.placements, src_data_rank=None)


def is_partitioned(tensor: Tensor) -> bool:
    """Whether it is a weight that DeepSpeed ZeRO-3 splits."""
    return hasattr(tensor, "ds_tensor")
