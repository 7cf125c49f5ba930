"""Training with weights that FSDP or DeepSpeed split over ranks."""

from typing import Any

import torch.distributed as dist
from accelerate import Accelerator
from accelerate.utils import DeepSpeedPlugin, DistributedType, DynamoBackend, FullyShardedDataParallelPlugin
from torch import nn
from transformers import TrainingArguments

from .arguments import create_models_whole


def prepare_engine(accelerator: Accelerator, asked_for: str | None = None) -> None:
    """
    Adapt or reject engine settings that would fail, possibly only when saving the model.

    Args:
        accelerator: The accelerator.
        asked_for: The engine that it should have started.

    Raises:
        ValueError: if settings of FSDP or DeepSpeed do not work with face models, or it has not started them.
    """
    if asked_for is not None and not (splits_weights(accelerator) and dist.is_initialized()):
        launch_file = {"FSDP": "fsdp", "DeepSpeed": "zero2"}[asked_for]
        raise ValueError(
            f"accelerate has not started {asked_for}, as it does for processes with a GPU each: start them with "
            f"`accelerate launch --config_file $(hf-face recipes accelerate/{launch_file})`, or leave "
            f"{asked_for.lower()} out."
        )
    compiles = accelerator.state.dynamo_plugin.backend != DynamoBackend.NO
    if accelerator.distributed_type == DistributedType.FSDP:
        _prepare_fsdp(accelerator.state.fsdp_plugin, compiles)
    if accelerator.distributed_type == DistributedType.DEEPSPEED:
        create_models_whole()  # accelerate has just told transformers otherwise
        _check_deepspeed(accelerator.state.deepspeed_plugin, accelerator.mixed_precision, compiles)


def splits_weights(accelerator: Accelerator) -> bool:
    """Whether an engine manages the weights, so that a rank may only have a part of them."""
    return accelerator.distributed_type in (DistributedType.FSDP, DistributedType.DEEPSPEED)


def check_shapes(model: nn.Module) -> None:
    """
    Raises:
        ValueError: for a weight that engines cannot split.
    """
    scalar = next((name for name, weight in model.named_parameters() if weight.ndim == 0), None)
    if scalar is not None:
        raise ValueError(
            f"{scalar} has the shape (), which neither FSDP nor DeepSpeed can split: give it the shape (1,), or train "
            "with plain data parallelism (`accelerate launch --multi_gpu`)."
        )


def layers_to_gather(model: nn.Module) -> set[str]:
    """
    The classes of a model's layers whose weights FSDP gathers one layer at a time. Models list them for themselves, and
    transformers' also those that only a relative has, such as CLIP's text model, at which accelerate would fail.
    """
    listed = {name for module in model.modules() for name in getattr(module, "_no_split_modules", None) or ()}
    return listed & {type(module).__name__ for module in model.modules()}


def uses_reentrant_checkpoints(args: TrainingArguments) -> bool:
    """Whether gradients are checkpointed in torch's older way, which requires an input with a gradient."""
    settings: Any = args.gradient_checkpointing_kwargs or {}
    return bool(args.gradient_checkpointing and settings.get("use_reentrant"))


def _prepare_fsdp(plugin: FullyShardedDataParallelPlugin, compiles: bool = False) -> None:
    if plugin.fsdp_version != 2:
        raise ValueError(
            "FSDP 1 is not supported: set version to 2 in fsdp_config (fsdp_version in accelerate's configuration)."
        )
    if plugin.cpu_ram_efficient_loading:
        raise ValueError(
            "FSDP's cpu_ram_efficient_loading cannot distribute buffers, such as batch norm statistics: set it to "
            "false in fsdp_config (fsdp_cpu_ram_efficient_loading in accelerate)."
        )
    if plugin.activation_checkpointing:
        raise ValueError(
            "FSDP's activation_checkpointing repeats a layer with another dropout than before, and renames its "
            "weights: leave it out of fsdp_config (fsdp_activation_checkpointing in accelerate), and set "
            "--gradient_checkpointing true."
        )
    if compiles:
        raise ValueError(
            "torch_compile with FSDP renames the weights, which nothing else could load: leave it out, or train with "
            "plain data parallelism (`accelerate launch --multi_gpu`)."
        )
    # FSDP would cast all weights, including those of batch norm, which fails with its float32 statistics. The loss is
    # computed with autocast instead, as with plain data parallelism.
    plugin.mixed_precision_policy = None


def _check_deepspeed(plugin: DeepSpeedPlugin, mixed_precision: str, compiles: bool = False) -> None:
    if mixed_precision != "no":
        raise ValueError(
            f"{mixed_precision} makes DeepSpeed cast all weights, including those of batch norm, which fails with its "
            "float32 statistics: leave it out of DeepSpeed's configuration, and set --bf16 true."
        )
    if plugin.zero_stage == 0:
        raise ValueError(
            "ZeRO stage 0 splits nothing: set the stage in DeepSpeed's zero_optimization to 1, 2 or 3, or train with "
            "plain data parallelism (`accelerate launch --multi_gpu`)."
        )
    if plugin.zero_stage == 3 and compiles:
        raise ValueError(
            "torch_compile reads weights that ZeRO-3 has not gathered yet: leave it out, or set the stage in "
            "DeepSpeed's zero_optimization to 2."
        )
    if plugin.deepspeed_config["zero_optimization"].get("offload_param", {}).get("device") == "nvme":
        raise ValueError(
            "Weights on disks can neither be averaged nor resumed from a checkpoint: set offload_param in DeepSpeed's "
            "zero_optimization to the device cpu, or leave it out."
        )
    if not plugin.deepspeed_config["zero_optimization"].get("compute_grad_norm", True):
        raise ValueError(
            "Without compute_grad_norm, DeepSpeed does not notice gradients that are not finite: leave it out of "
            "zero_optimization."
        )
    for name, instead in (("optimizer", "optim, learning_rate and weight_decay"), ("scheduler", "lr_scheduler_type")):
        if name in plugin.deepspeed_config:
            raise ValueError(
                f"The {name} in DeepSpeed's configuration would ignore the training arguments: leave it out, and set "
                f"{instead}."
            )
    # With the optimizer on the CPU, accelerate would replace any that it does not know, SGD too, with DeepSpeed's Adam.
    plugin.deepspeed_config.setdefault("zero_force_ds_cpu_optimizer", False)
