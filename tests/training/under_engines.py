"""
Trainings under several engines, one after the other in one process group; started through `engine_runs.py`.

DS_ACCELERATOR=cpu torchrun --standalone --nproc_per_node 2 under_engines.py RUNS_AS_JSON
"""

import gc
import json
import math
import os
import signal
import sys
from collections.abc import Sequence
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from accelerate.state import AcceleratorState, GradientState, PartialState
from accelerate.utils import DistributedType
from datasets import Dataset
from head_on_ranks import BATCH_SIZE, SETTINGS
from peft import PeftModel
from tiny_recipe import TINY_VIT
from torch.distributed.fsdp import FSDPModule
from torch.distributed.tensor import DTensor
from transformers import AutoConfig, TrainerCallback

from hf_face import FaceRecognitionConfig, FaceRecognitionModel, FoundationFaceModel
from hf_face.data import VerificationPairs, load_orl, make_verification_pairs, split_identities
from hf_face.registry import methods
from hf_face.training import (
    FaceTrainer,
    FaceTrainingArguments,
    MarginSoftmax,
    TrainingDivergedError,
    TrainingInterrupted,
)
from hf_face.training.lora import add_lora

FSDP = {"fsdp": "full_shard auto_wrap", "fsdp_config": {"version": 2, "cpu_ram_efficient_loading": False}}
SIZES = {"hidden_size": 16, "intermediate_size": 32, "num_attention_heads": 2}
CLIP = {"model_type": "clip_vision_model", "image_size": 32, "patch_size": 16, "num_hidden_layers": 2, **SIZES}
NARROW = {"depths": [1, 1], "hidden_sizes": [8, 8], "stem_size": 8}
SMALL = {"embedding_size": 16, "image_size": 32}
MODELS = {
    "vit": TINY_VIT,
    "clip": {
        "model_type": "foundation_face",
        "backbone_config": {**CLIP, "projection_dim": 16},
        "embedding_size": 12,  # not that of CLIP's own projection, so that there is another one, which is trained
    },
    "iresnet": {"model_type": "iresnet", **NARROW, **SMALL},
    "transface": {"model_type": "vit_face", "patch_weighting": True, "num_hidden_layers": 1, **SIZES, **SMALL},
}
AUTO = ("train_micro_batch_size_per_gpu", "train_batch_size", "gradient_accumulation_steps", "gradient_clipping")
SMALL_BUCKET = {"reduce_bucket_size": 10**6}  # which otherwise takes 2 GB in each run
# How many of the weights that it has gathered ZeRO-3 keeps: by default all of a tiny model.
KEPT = ("stage3_param_persistence_threshold", "stage3_max_live_parameters", "stage3_max_reuse_distance")
SWITCHES = {"fsdp": "ACCELERATE_USE_FSDP", "zero": "ACCELERATE_USE_DEEPSPEED"}

prepare = PartialState.__init__


def prepare_as_on_gpus(self, *args, **kwargs):
    """Starts engines on the CPU, which accelerate by itself starts on accelerators only."""
    prepare(self, *args, **kwargs)
    if SWITCHES["fsdp"] in os.environ:
        if self.distributed_type == DistributedType.MULTI_CPU:
            self._shared_state["distributed_type"] = DistributedType.MULTI_GPU
    elif SWITCHES["zero"] in os.environ and dist.is_initialized():
        self._shared_state.update(
            distributed_type=DistributedType.DEEPSPEED,
            device=torch.device("cpu"),
            num_processes=dist.get_world_size(),
            process_index=dist.get_rank(),
            local_process_index=dist.get_rank(),
        )


def choose(engine: str) -> dict:
    """Leave the last run's engine, and return the training arguments for another one."""
    for name in [name for name in os.environ if name.startswith(("ACCELERATE_", "FSDP_"))]:
        del os.environ[name]
    for state in (AcceleratorState, GradientState, PartialState):
        state._shared_state.clear()
    if engine in ("ddp", "single"):
        return {}
    os.environ[SWITCHES[engine[:4]]] = "true"
    if engine == "fsdp":
        return FSDP
    zero = {"stage": int(engine[-1]), **SMALL_BUCKET, **dict.fromkeys(KEPT, 0)}
    settings = {"zero_optimization": zero, **dict.fromkeys(AUTO, "auto")}
    return {"deepspeed": settings, "use_cpu": False}  # it takes use_cpu for no engine at all


def check_split(trainer: FaceTrainer, engine: str) -> None:
    """Fails unless the engine has split the backbone, and left a split head alone."""
    is_apart = trainer.class_centers.is_apart
    weights = trainer.model.backbone.parameters()
    if engine == "fsdp":
        assert all(isinstance(weight, DTensor) for weight in weights)
        assert any(isinstance(module, FSDPModule) for module in trainer.model.backbone.modules())
        assert isinstance(trainer.model.head.weight, DTensor) != is_apart
    elif engine.startswith("zero"):
        assert trainer.model_wrapped.zero_optimization_stage() == int(engine[-1])
        assert all(hasattr(weight, "ds_tensor") == (engine == "zero3") for weight in weights)
        assert (trainer.class_centers.own_optimizer is not None) == (is_apart and trainer.method.uses_head)


@cache
def faces_and_pairs() -> tuple[Dataset, VerificationPairs]:
    faces, held_out = split_identities(load_orl(), num_held_out=10)
    return faces, make_verification_pairs(held_out.select(range(40)), name="orl")


class Scheduler(TrainerCallback):
    """Asks the first rank to stop in a step."""

    def __init__(self, stop_in: int):
        self.stop_in = stop_in

    def on_substep_end(self, args, state, control, **kwargs):
        if state.global_step + 1 == self.stop_in and args.process_index == 0:
            os.kill(os.getpid(), signal.SIGTERM)


class Poisoned(MarginSoftmax):
    """The margin softmax, whose loss or gradient is not finite in some batches of the last rank."""

    def __init__(self, batches: dict[str, str]):
        super().__init__()
        self.batches, self.number = batches, 0

    def losses(self, model, batch):
        loss = super().losses(model, batch)["margin_softmax"]
        self.number += 1
        what = self.batches.get(str(self.number))
        if what is not None and PartialState().is_last_process:
            loss = loss + math.inf if what == "loss" else loss * math.nan
        return {"margin_softmax": loss}


def build(model: str, targets: Sequence[str] = (), margin: str = "adaface") -> FaceRecognitionModel:
    """A model of `MODELS` or with a CLIP in a folder, with adapters for some of its layers."""
    torch.manual_seed(0)
    settings = {"num_identities": 30, "margin": margin}
    if model in MODELS:
        config = AutoConfig.for_model(**MODELS[model])
        built = FaceRecognitionModel(FaceRecognitionConfig(backbone_config=config, **settings))
    else:
        built = FaceRecognitionModel.from_backbone(FoundationFaceModel.from_backbone(model, image_size=32), **settings)
    return add_lora(built, {"r": 4, "alpha": 8, "target_modules": list(targets)}) if targets else built


def train(
    folder: str,
    engine: str,
    resume_from: str | None = None,
    stop_in: int | None = None,
    model: dict[str, Any] | None = None,
    method: dict[str, dict[str, Any]] | None = None,
    poisoned: dict[str, str] | None = None,
    **settings,
) -> None:
    """Trains from the same start under any engine, in each step on the same images on any number of ranks."""
    args = FaceTrainingArguments(folder, **{**SETTINGS, **choose(engine), **settings})
    args.per_device_train_batch_size = BATCH_SIZE // args.world_size // args.gradient_accumulation_steps
    built = build(**model or {"model": "vit"})
    losses = Poisoned(poisoned) if poisoned else methods.build(method or "margin_softmax")
    trainer = FaceTrainer(built, args, *faces_and_pairs(), augmentation=None, method=losses)
    if stop_in is not None:
        trainer.add_callback(Scheduler(stop_in))
        with suppress(TrainingInterrupted):
            trainer.train()
        return
    with suppress(TrainingDivergedError):
        trainer.train(resume_from_checkpoint=resume_from)
    check_split(trainer, engine)
    if args.load_best_model_at_end:
        trainer.save_metrics("eval", trainer.evaluate())
    trainer.save_model(str(Path(folder, "saved")))
    if isinstance(built.backbone, PeftModel):
        is_told = args.process_index == 0 or engine in ("ddp", "single")
        assert all((each is not None) == is_told for each in (trainer.backbone, trainer.adapter))


if __name__ == "__main__":
    PartialState.__init__ = prepare_as_on_gpus
    for run in json.loads(sys.argv[1]):
        train(**run)
        gc.collect()  # engines hold what holds them
    if dist.is_initialized():
        dist.barrier()  # a rank that ends while another still talks to it can abort
        dist.destroy_process_group()
