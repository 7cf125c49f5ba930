"""Exponential moving average of the backbone's weights."""

from collections.abc import Collection, Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn
from transformers import TrainerCallback

RAW_BACKBONE_FILE = "raw_backbone.safetensors"


class WeightAverage(TrainerCallback):
    """
    Averages the backbone's weights and buffers after every step.

    A checkpoint's `model.safetensors` contains the average, which is evaluated and published. The weights to resume
    training from are saved separately.

    Args:
        backbone (`nn.Module`): The backbone that is trained.
        decay (`float`): Weight of the previous average, in (0, 1).
        frozen (`Collection[str]`): Names of weights that are not trained, and not saved.
    """

    def __init__(self, backbone: nn.Module, decay: float, frozen: Collection[str] = ()):
        self.backbone, self.frozen = backbone, frozen
        self.averaged = AveragedModel(backbone, multi_avg_fn=get_ema_multi_avg_fn(decay), use_buffers=True)

    @property
    def module(self) -> nn.Module:
        """The averaged backbone."""
        return self.averaged.module

    def on_step_end(self, args, state, control, **kwargs):
        self.averaged.update_parameters(self.backbone)

    @contextmanager
    def in_place_of_the_weights(self) -> Iterator[None]:
        """Put the average into the trained backbone temporarily."""
        self._swap()
        try:
            yield
        finally:
            self._swap()

    def save(self, folder: Path) -> None:
        """Save the weights that are averaged. Must be called by only one process."""
        weights = self.backbone.state_dict()
        trained = {name: weights[name].contiguous() for name in weights if name not in self.frozen}
        save_file(trained, folder / RAW_BACKBONE_FILE)

    def load(self, folder: Path) -> None:
        """Restore the average from the backbone, which has loaded the checkpoint, and the raw weights from disk."""
        self.averaged.module.load_state_dict(self.backbone.state_dict())
        self.averaged.n_averaged.fill_(1)  # with 0, the next update would copy the weights
        self.backbone.load_state_dict(self.backbone.state_dict() | load_file(folder / RAW_BACKBONE_FILE))

    @torch.no_grad()
    def _swap(self) -> None:
        parameters = zip(self.backbone.parameters(), self.module.parameters(), strict=True)
        buffers = zip(self.backbone.buffers(), self.module.buffers(), strict=True)
        for trained, averaged in [*parameters, *buffers]:
            trained.data, averaged.data = averaged.data, trained.data
