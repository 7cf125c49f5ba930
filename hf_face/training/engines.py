"""Training with weights that FSDP or DeepSpeed split over ranks."""

from typing import Any

from accelerate import Accelerator
from accelerate.utils import DeepSpeedPlugin, DistributedType, FullyShardedDataParallelPlugin
from torch import Tensor, nn
from transformers import TrainingArguments

from .arguments import create_models_whole


def prepare_engine(accelerator: Accelerator) -> None:
    """
    Adapt or reject engine settings that would fail, possibly only when saving the model.

    Raises:
        ValueError: if settings of FSDP or DeepSpeed do not work with face models.
    """
    if accelerator.distributed_type == DistributedType.FSDP:
        _prepare_fsdp(accelerator.state.fsdp_plugin)
    if accelerator.distributed_type == DistributedType.DEEPSPEED:
        create_models_whole()  # accelerate has just told transformers otherwise
        _check_deepspeed(accelerator.state.deepspeed_plugin, accelerator.mixed_precision)


def splits_weights(accelerator: Accelerator) -> bool:
    """Whether an engine manages the weights, so that a rank may only have a part of them."""
    return accelerator.distributed_type in (DistributedType.FSDP, DistributedType.DEEPSPEED)


def uses_reentrant_checkpoints(args: TrainingArguments) -> bool:
    """Whether gradients are checkpointed in torch's older way, which requires an input with a gradient."""
    settings: Any = args.gradient_checkpointing_kwargs or {}
    return bool(args.gradient_checkpointing and settings.get("use_reentrant"))


def whole_state_dict(accelerator: Accelerator, wrapped: nn.Module, part: str) -> dict[str, Tensor]:
    """Gather the weights of a part (`"backbone"`, `"head"`) of a split model; empty on all ranks but the first."""
    weights = accelerator.get_state_dict(wrapped) or {}
    return {name.removeprefix(f"{part}."): weight for name, weight in weights.items() if name.startswith(f"{part}.")}


def _prepare_fsdp(plugin: FullyShardedDataParallelPlugin) -> None:
    if plugin.fsdp_version == 2 and plugin.cpu_ram_efficient_loading:
        raise ValueError(
            "FSDP's cpu_ram_efficient_loading cannot distribute buffers, such as batch norm statistics: set it to "
            "false in fsdp_config (fsdp_cpu_ram_efficient_loading in accelerate)."
        )
    # FSDP would cast all weights, including those of batch norm, which fails with its float32 statistics. The loss is
    # computed with autocast instead, as with plain data parallelism.
    plugin.mixed_precision_policy = None


def _check_deepspeed(plugin: DeepSpeedPlugin, mixed_precision: str) -> None:
    if mixed_precision != "no":
        raise ValueError(
            f"{mixed_precision} makes DeepSpeed cast all weights, including those of batch norm, which fails with its "
            "float32 statistics: leave it out of DeepSpeed's configuration, and set --bf16 true."
        )
    zero = plugin.deepspeed_config["zero_optimization"]
    if plugin.zero_stage == 3 and not zero.get("stage3_gather_16bit_weights_on_model_save"):
        raise ValueError(
            "The model cannot be saved: set stage3_gather_16bit_weights_on_model_save to true in the "
            "zero_optimization of DeepSpeed's configuration."
        )
