"""Class centers in training: their parameter group, gradient and files."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from transformers.optimization import Adafactor

from ..heads import MarginHead, clip_grad_norm_, load_head, load_head_optimizer, save_head, step_sampled_rows_only
from ..heads.head_files import INDEX_NAME, keep_own_rows
from ..heads.sharding import grad_norm, scale_grads_
from .arguments import FaceTrainingArguments


class ClassCenters:
    """
    Handles the margin head in the optimizer and in checkpoints.

    Class centers have their own learning rate and weight decay. If they are split over ranks, each rank clips its
    centers with the norm over all ranks, and saves them with their optimizer state to its own files (see
    `hf_face.heads.head_files`). If they are sampled (Partial FC), only the sampled rows are updated.

    If they are split or sampled, engines (FSDP, DeepSpeed) must leave them alone.

    Args:
        head ([`MarginHead`]): The head of the training model.
        args ([`FaceTrainingArguments`]): Settings of the run.

    Attributes:
        own_optimizer (`torch.optim.Optimizer`, *optional*):
            An optimizer of the class centers alone, where the backbone's belongs to an engine.
    """

    own_optimizer: torch.optim.Optimizer | None = None

    def __init__(self, head: MarginHead, args: FaceTrainingArguments):
        self.head, self.args = head, args
        if args.partial_fc_sample_rate is not None:
            head.sample_rate = args.partial_fc_sample_rate
        args.check_sample_rate(head.sample_rate)
        head.seed = args.seed
        if args.head_group is not None and head.group is None:
            head.shard(args.head_group)  # before moving the model to a device that may be too small for all of it

    @property
    def is_split(self) -> bool:
        return self.head.group is not None

    @property
    def is_apart(self) -> bool:
        """Whether weights or gradients are split or sparse, which neither torch's clipping nor engines support."""
        return self.is_split or self.head.sample_rate < 1

    def add_to(self, optimizer: torch.optim.Optimizer) -> None:
        """Move the class centers to parameter groups with their own settings."""
        own = {id(parameter) for parameter in self.head.parameters()}
        for group in list(optimizer.param_groups):
            moved = [parameter for parameter in group["params"] if id(parameter) in own]
            if moved:
                group["params"] = [parameter for parameter in group["params"] if id(parameter) not in own]
                optimizer.add_param_group({**group, "params": moved, **self.own_settings})
        optimizer.param_groups[:] = [group for group in optimizer.param_groups if group["params"]]

    def take_from(self, optimizer: torch.optim.Optimizer, make: Callable[[list], torch.optim.Optimizer]) -> None:
        """Move the class centers, if they are trained, from an optimizer to one made for their parameter groups."""
        own = {id(parameter) for parameter in self.head.parameters()}
        groups: dict[bool, list] = {is_own: [] for is_own in (True, False)}
        for group in optimizer.param_groups:
            groups[id(group["params"][0]) in own].append(group)
        optimizer.param_groups[:] = groups[False]
        if groups[True]:
            self.own_optimizer = make(groups[True])

    def prepare(self, optimizer: torch.optim.Optimizer) -> None:
        """
        Make an optimizer update sampled rows only, and exclude its state of split class centers from state dicts.

        Raises:
            ValueError: if it does not update each row by itself.
        """
        if self.is_apart and isinstance(optimizer, Adafactor):
            raise ValueError(
                "Adafactor looks at all class centers at once, of which shard_head and partial_fc_sample_rate leave it "
                "some: set optim to adamw_torch_fused, rmsprop or sgd."
            )
        if self.head.sample_rate < 1:
            step_sampled_rows_only(optimizer)
        if self.is_split and self.head.weight.requires_grad:
            optimizer.register_state_dict_post_hook(self._leave_out_own_state)

    @property
    def own_settings(self) -> dict[str, float]:
        """The optimizer settings of the class centers that are not those of the backbone."""
        settings = {"lr": self.args.head_learning_rate, "weight_decay": self.args.head_weight_decay}
        return {name: value for name, value in settings.items() if value is not None}

    def check_optimizer(self, optimizer: torch.optim.Optimizer) -> None:
        """
        Raises:
            ValueError: if an optimizer that the user created cannot do what the arguments ask for.
        """
        for name in ("head_learning_rate", "head_weight_decay"):
            if getattr(self.args, name) is not None:
                raise ValueError(
                    f"{name} has no effect on optimizers=: give model.head.parameters() a group of their own there, or "
                    "leave optimizers out (optimizer_cls_and_kwargs= chooses another class)."
                )
        if self.is_split:
            raise ValueError(
                "shard_head creates new class centers, which are not in optimizers=: pass optimizer_cls_and_kwargs= "
                "instead."
            )

    def clip_grad_norm(self, model: nn.Module, max_norm: float) -> Tensor:
        """Clip like torch, with the norm over all ranks."""
        shard = self.head.weight if self.is_split else None
        return clip_grad_norm_(model.parameters(), max_norm, shard, self.head.group)

    def grad_norm(self) -> Tensor:
        """The norm of the class centers' gradient over all ranks."""
        return grad_norm(self.head.parameters(), self.head.weight, self.head.group)

    def scale_grad(self, max_norm: float, norm: Tensor) -> None:
        """Clip the class centers' gradient, where `norm` is that of the whole model."""
        scale_grads_(self.head.parameters(), max_norm, norm)

    def save(self, folder: Path, optimizer: torch.optim.Optimizer | None) -> None:
        """Save this rank's class centers. Must be called on every rank."""
        save_head(self.head, folder, self._optimizer_with_state(optimizer))

    def load(self, folder: Path, optimizer: torch.optim.Optimizer | None) -> None:
        """Load this rank's class centers from a whole or split head, saved by any number of ranks."""
        optimizer = self._optimizer_with_state(optimizer)
        if (folder / INDEX_NAME).is_file():
            load_head(self.head, folder)
            if optimizer is not None:
                load_head_optimizer(self.head, folder, optimizer)
        elif self.is_split and optimizer is not None:
            keep_own_rows(self.head, optimizer)

    def _optimizer_with_state(self, optimizer: torch.optim.Optimizer | None) -> torch.optim.Optimizer | None:
        """The optimizer that has the class centers' state, if the trainer's is asked for it and they are trained."""
        if optimizer is None or not self.head.weight.requires_grad:
            return None
        return self.own_optimizer or optimizer

    def _leave_out_own_state(self, optimizer: torch.optim.Optimizer, state_dict: dict[str, Any]) -> None:
        parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
        position = next(i for i, parameter in enumerate(parameters) if parameter is self.head.weight)
        state_dict["state"].pop(position, None)
