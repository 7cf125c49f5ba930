"""A `Trainer` under FSDP and DeepSpeed."""

import copy
import math
from pathlib import Path
from typing import Any

import torch
from accelerate.optimizer import AcceleratedOptimizer
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.distributed.fsdp import FSDPModule
from torch.distributed.tensor import DTensor
from transformers import Trainer
from transformers.trainer import OPTIMIZER_NAME, SCHEDULER_NAME

from ..heads.head_files import INDEX_NAME, PREFIX_IN_MODEL, read_head, read_head_optimizer
from ..recognition import FaceRecognitionModel
from .arguments import FaceTrainingArguments
from .class_centers import ClassCenters
from .engine_optimizer import ZeroOptimizer, load_optimizer_state, whole_optimizer_state
from .engine_weights import load_weights, whole_state_dict
from .engines import prepare_engine, splits_weights, uses_reentrant_checkpoints
from .lora import frozen_names


class EngineTrainer(Trainer):
    """
    transformers' `Trainer`, but with split or sampled class centers that FSDP and DeepSpeed leave alone, and with
    checkpoints that have the same files under each engine and without one. Training goes on from them under any other,
    on any number of ranks.
    """

    args: FaceTrainingArguments
    model: FaceRecognitionModel
    class_centers: ClassCenters
    blueprint: nn.Module  # the backbone without weights
    optimizer: Any
    _optimized: list[list[nn.Parameter]]  # the weights in the optimizer's groups
    _number_of_head: int | None  # in the optimizer's state

    def create_accelerator_and_postprocess(self) -> None:
        super().create_accelerator_and_postprocess()
        prepare_engine(self.accelerator, self.args.engine)
        if self.args.ddp_find_unused_parameters is None:
            # transformers also looks for none with torch's newer way of checkpointing gradients, which allows it.
            self.accelerator.ddp_handler.find_unused_parameters = not uses_reentrant_checkpoints(self.args)

    # Optimizer

    def create_optimizer(self, model: nn.Module | None = None) -> torch.optim.Optimizer:
        if self.optimizer is None:
            super().create_optimizer(model)
            self.class_centers.add_to(self.optimizer)
            if self.class_centers.is_apart:
                self._leave_head_alone()
            self.class_centers.prepare(self.class_centers.own_optimizer or self.optimizer)
        if not isinstance(self.optimizer, AcceleratedOptimizer):  # engines will replace the weights in it
            groups = [list(group["params"]) for group in self.optimizer.param_groups]
            is_head = [weight is self.model.head.weight for group in groups for weight in group]
            self._number_of_head = is_head.index(True) if True in is_head else None
            self._optimized = groups if self.is_deepspeed_enabled else []  # FSDP frees them
        return self.optimizer

    def _leave_head_alone(self) -> None:
        if self.is_fsdp_enabled:
            self.accelerator.state.fsdp_plugin.ignored_modules = [self.model.head]
        if self.is_deepspeed_enabled:
            optimizer_cls, kwargs = self.optimizer_cls_and_kwargs or self.get_optimizer_cls_and_kwargs(self.args)
            self.class_centers.take_from(self.optimizer, lambda groups: optimizer_cls(groups, **kwargs))
            self.model.take_head_apart()

    def create_scheduler(self, num_training_steps: int, optimizer: torch.optim.Optimizer | None = None):
        if self.is_deepspeed_enabled and not isinstance(self.optimizer, ZeroOptimizer):  # it has just been prepared
            clips_to = self.accelerator.deepspeed_engine_wrapped.engine.gradient_clipping()
            zero = self.optimizer.optimizer
            self.optimizer = ZeroOptimizer(zero, self._optimized, self.class_centers, clips_to)
        return super().create_scheduler(num_training_steps, optimizer)

    def _clip_grad_norm(self, model: nn.Module):
        # Not public, but accelerate can clip neither gradients that are split over ranks nor sparse ones.
        if self.is_deepspeed_enabled or not self.class_centers.is_apart:
            return super()._clip_grad_norm(model)
        self.accelerator.unscale_gradients()
        return self.class_centers.clip_grad_norm(model, self.args.max_grad_norm or math.inf)

    def _get_grad_norm(self, model: nn.Module, grad_norm=None):
        # Not public, but called in every step with the norm, between the gradient and the optimizer.
        if grad_norm is None and self.class_centers.is_apart:
            grad_norm = self._clip_grad_norm(model)
        grad_norm = super()._get_grad_norm(model, grad_norm)
        return grad_norm.full_tensor() if isinstance(grad_norm, DTensor) else grad_norm

    @property
    def has_engine(self) -> bool:
        """Whether an engine has wrapped the model, as it does when training starts."""
        return self.model_wrapped is not self.model or isinstance(self.model, FSDPModule)

    # Checkpoints

    def whole_state_dict(self, part: str) -> dict[str, Tensor]:
        """Weights of the backbone or the head, complete on the first rank even if an engine splits them."""
        if not splits_weights(self.accelerator):
            return getattr(self.model, part).state_dict()
        weights = whole_state_dict(self.model, keep=self.args.should_save)
        prefix = f"{part}."
        return {name.removeprefix(prefix): weight for name, weight in weights.items() if name.startswith(prefix)}

    def whole_backbone(self) -> Any:
        """
        The backbone; or where an engine splits its weights, a copy in CPU memory on the first rank, and None on others.
        Must be called on every rank.
        """
        if not splits_weights(self.accelerator):
            return self.model.backbone
        weights = self.whole_state_dict("backbone")
        if not self.args.should_save:
            return None
        backbone = copy.deepcopy(self.blueprint)
        backbone.load_state_dict(weights, assign=True)
        return backbone

    def save_model(self, output_dir: str | None = None, _internal_call: bool = False) -> None:
        if not splits_weights(self.accelerator):
            super().save_model(output_dir, _internal_call)
            return
        weights = whole_state_dict(self.model, self.args.should_save, without=frozen_names(self.model))
        if self.args.should_save:
            self._save(output_dir, weights)

    def _save_optimizer_and_scheduler(self, output_dir: str) -> None:
        # Not public, as are the following methods, but engines would save files that only they can read.
        if not splits_weights(self.accelerator):
            super()._save_optimizer_and_scheduler(output_dir)
            return
        state = whole_optimizer_state(self.optimizer, keep=self.args.should_save)
        if self.args.should_save:
            torch.save(state, Path(output_dir, OPTIMIZER_NAME))
            torch.save(self.lr_scheduler.state_dict(), Path(output_dir, SCHEDULER_NAME))

    def _prepare_for_training(self, max_steps: int, train_dataloader: Any, resume_from_checkpoint: str | None):
        if not splits_weights(self.accelerator):
            return super()._prepare_for_training(max_steps, train_dataloader, resume_from_checkpoint)
        if self.has_engine:
            raise ValueError(
                "With FSDP or DeepSpeed, a trainer trains once: make another one, and pass resume_from_checkpoint to "
                "go on from a checkpoint."
            )
        prepared = super()._prepare_for_training(max_steps, train_dataloader, None)
        if resume_from_checkpoint is not None:
            self._load_from_checkpoint(resume_from_checkpoint)
            self._load_optimizer_and_scheduler(resume_from_checkpoint)
            self._load_scaler(resume_from_checkpoint)
        return prepared

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: nn.Module | None = None) -> None:
        if not splits_weights(self.accelerator):
            super()._load_from_checkpoint(resume_from_checkpoint, model)
            return
        weights: dict[str, Tensor] = {}
        for file in Path(resume_from_checkpoint).glob("model*.safetensors"):
            weights |= load_file(file)
        if self._is_split_only_in(resume_from_checkpoint):
            head = read_head(self.model.head, Path(resume_from_checkpoint))
            weights |= {PREFIX_IN_MODEL + name: tensor for name, tensor in head.items()}
        load_weights(self.model, weights, self.model_wrapped)

    def _load_best_model(self) -> None:
        if splits_weights(self.accelerator):
            self._load_from_checkpoint(self.state.best_model_checkpoint)
        else:
            super()._load_best_model()

    def _load_optimizer_and_scheduler(self, checkpoint: str | None) -> None:
        if checkpoint is None or not splits_weights(self.accelerator):
            super()._load_optimizer_and_scheduler(checkpoint)
            return
        file = Path(checkpoint, OPTIMIZER_NAME)
        if not file.is_file():
            raise ValueError(
                f"{checkpoint} has no {OPTIMIZER_NAME}: the optimizer was not saved, or by an earlier version in "
                "a format of FSDP or DeepSpeed. To train on from its weights, start a new run with the model in it."
            )
        state = torch.load(file, map_location="cpu", weights_only=True)
        if self._is_split_only_in(checkpoint) and self._number_of_head is not None:
            state["state"][self._number_of_head] = read_head_optimizer(self.model.head, Path(checkpoint))
        load_optimizer_state(self.optimizer, state)
        self.lr_scheduler.load_state_dict(torch.load(Path(checkpoint, SCHEDULER_NAME), weights_only=True))

    def _is_split_only_in(self, checkpoint: str) -> bool:
        """Whether the class centers are in files of their own, but an engine has them."""
        return not self.class_centers.is_split and Path(checkpoint, INDEX_NAME).is_file()
