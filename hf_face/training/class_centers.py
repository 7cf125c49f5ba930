"""The part of training that knows the class centers: their parameter group, their gradient, their files."""

from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ..heads import MarginHead, clip_grad_norm_, load_head, load_head_optimizer, save_head, step_sampled_rows_only
from ..heads.head_files import INDEX_NAME, keep_own_rows
from .arguments import FaceTrainingArguments


class ClassCenters:
    """
    The margin head as the optimizer and the checkpoints see it.

    Class centers have a learning rate and weight decay of their own. Where they are split over ranks, every rank holds
    other ones: it clips them with the norm over all ranks, and writes them, with their optimizer state, to files of its
    own (see `hf_face.heads.head_files`). Where they are sampled (Partial FC), only the sampled rows are stepped.

    Args:
        head ([`MarginHead`]): The head of the training model.
        args ([`FaceTrainingArguments`]): Settings of the run.
    """

    def __init__(self, head: MarginHead, args: FaceTrainingArguments):
        self.head, self.args = head, args
        head.sample_rate = args.partial_fc_sample_rate
        if args.head_group is not None and head.group is None:
            head.shard(args.head_group)  # before the model goes to a device, which may not hold all of it

    @property
    def is_split(self) -> bool:
        return self.head.group is not None

    @property
    def needs_own_clipping(self) -> bool:
        """Whether torch's clipping would not do: for a norm over ranks, or for sparse gradients."""
        return self.is_split or self.head.sample_rate < 1

    def add_to(self, optimizer: torch.optim.Optimizer) -> None:
        """Moves the class centers into parameter groups with their own settings, and splits their state off."""
        settings = {"lr": self.args.head_learning_rate, "weight_decay": self.args.head_weight_decay}
        settings = {name: value for name, value in settings.items() if value is not None}
        own = {id(parameter) for parameter in self.head.parameters()}
        for group in list(optimizer.param_groups):
            moved = [parameter for parameter in group["params"] if id(parameter) in own]
            if moved:
                group["params"] = [parameter for parameter in group["params"] if id(parameter) not in own]
                optimizer.add_param_group({**group, "params": moved, **settings})
        if self.head.sample_rate < 1:
            step_sampled_rows_only(optimizer)
        if self.is_split:
            optimizer.register_state_dict_post_hook(self._leave_out_own_state)

    def clip_grad_norm(self, model: nn.Module, max_norm: float) -> Tensor:
        """As torch's, with the norm over all ranks."""
        shard = self.head.weight if self.is_split else None
        return clip_grad_norm_(model.parameters(), max_norm, shard, self.head.group)

    def save(self, folder: Path, optimizer: torch.optim.Optimizer | None) -> None:
        """Writes this rank's class centers. To be called by every rank."""
        save_head(self.head, folder, optimizer)

    def load(self, folder: Path, optimizer: torch.optim.Optimizer | None) -> None:
        """Reads this rank's class centers, from a split or a whole head, whatever the number of ranks that wrote it."""
        if (folder / INDEX_NAME).is_file():
            load_head(self.head, folder)
            if optimizer is not None:
                load_head_optimizer(self.head, folder, optimizer)
        elif self.is_split and optimizer is not None:
            keep_own_rows(self.head, optimizer)

    def _leave_out_own_state(self, optimizer: torch.optim.Optimizer, state_dict: dict[str, Any]) -> None:
        parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
        position = next(i for i, parameter in enumerate(parameters) if parameter is self.head.weight)
        state_dict["state"].pop(position, None)
