"""Exponential moving average of the backbone's weights."""

from collections.abc import Collection, Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.optim.swa_utils import get_ema_multi_avg_fn
from transformers import TrainerCallback

from ..recognition import FaceRecognitionModel
from .engine_weights import load_weights, own_part, split_again, whole_state_dict

RAW_BACKBONE_FILE = "raw_backbone.safetensors"
PREFIX = "backbone."


class WeightAverage(TrainerCallback):
    """
    Averages the backbone's weights and buffers after every step, but for those that are frozen. If they are split over
    ranks, each averages its parts.

    A checkpoint's `model.safetensors` contains the average, which is evaluated and published. The weights to resume
    training from are saved separately.

    Args:
        model ([`FaceRecognitionModel`]): The model that is trained.
        decay (`float`): Weight of the previous average, in (0, 1).
        frozen (`Collection[str]`): Names of the model's weights that are not trained, and not saved.
    """

    def __init__(self, model: FaceRecognitionModel, decay: float, frozen: Collection[str] = ()):
        self.model, self.frozen = model, frozen
        self.average: list[Tensor] | None = None  # before the first step, the weights themselves
        self._update = get_ema_multi_avg_fn(decay)

    def on_step_end(self, args, state, control, **kwargs):
        if self.average is None:
            self._start()
            return
        pairs = list(zip(self.average, self._own_parts(), strict=True))
        floats = [(average, part) for average, part in pairs if average.is_floating_point()]
        self._update(*map(list, zip(*floats, strict=True)), None)
        for average, count in pairs:
            if not average.is_floating_point():
                average.copy_(count)

    @contextmanager
    def in_place_of_the_weights(self) -> Iterator[None]:
        """Put the average into the trained backbone temporarily."""
        self._swap()
        try:
            yield
        finally:
            self._swap()

    def save(self, folder: Path, keep: bool) -> None:
        """Save the weights that are averaged, on one rank (`keep`). Must be called on every rank."""
        weights = whole_state_dict(self.model, keep, without=self.frozen)
        if keep:
            backbone = {name: weight for name, weight in weights.items() if name.startswith(PREFIX)}
            trained = {name.removeprefix(PREFIX): weight.contiguous() for name, weight in backbone.items()}
            save_file(trained, folder / RAW_BACKBONE_FILE)

    def load(self, folder: Path, engine: nn.Module) -> None:
        """Restore the average from the backbone, which has loaded the checkpoint, and the raw weights from disk."""
        self._start()
        load_raw_weights(self.model, folder, engine)

    def _start(self) -> None:
        self.average = [part.clone() for part in self._own_parts()]

    def _own_parts(self) -> list[Tensor]:
        split_again(self.model)
        backbone = self.model.backbone
        named = (*backbone.named_parameters(prefix="backbone"), *backbone.named_buffers(prefix="backbone"))
        return [own_part(tensor) for name, tensor in named if name not in self.frozen]

    @torch.no_grad()
    def _swap(self) -> None:
        if self.average is None:
            return
        for average, part in zip(self.average, self._own_parts(), strict=True):
            # Not by exchanging the tensors, into which engines keep views.
            raw = part.clone()
            part.copy_(average)
            average.copy_(raw)


def load_raw_weights(model: FaceRecognitionModel, folder: Path, engine: nn.Module) -> None:
    """Load the weights that training goes on from, if a checkpoint has them besides their average."""
    if (folder / RAW_BACKBONE_FILE).is_file():
        raw = load_file(folder / RAW_BACKBONE_FILE)
        load_weights(model, {PREFIX + name: weight for name, weight in raw.items()}, engine)
