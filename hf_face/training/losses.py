"""The losses that a training logs."""

import torch
from accelerate import Accelerator
from torch import Tensor


class LossLog:
    """Collects the losses of a method's batches until they are logged, without those of steps that were skipped."""

    def __init__(self) -> None:
        self._values: dict[str, list[Tensor]] = {}
        self._num_steps = self._num_skipped = 0  # since the last log
        self._all_skipped = 0

    def add(self, losses: dict[str, Tensor]) -> None:
        """Add the losses of one of a step's batches. They are copied: CUDA graphs overwrite them in the next step."""
        for name, value in losses.items():
            self._values.setdefault(name, []).append(value.detach().to(torch.float32, copy=True))

    def end_step(self, num_batches: int, skipped: bool) -> None:
        """Count a step of `num_batches` batches, whose losses are dropped if it was skipped."""
        self._num_steps += 1
        if skipped:
            self._num_skipped += 1
            self._all_skipped += 1
            self._values = {name: kept for name, all_ in self._values.items() if (kept := all_[:-num_batches])}

    def complete(self, logs: dict[str, float], accelerator: Accelerator) -> None:
        """
        Add the means over batches and ranks and the number of steps skipped so far, and make `loss` the mean over the
        steps that were not.
        """
        if "loss" not in logs:
            return
        if self._values:
            means = torch.stack([torch.stack(values).mean() for values in self._values.values()])
            logs |= zip(self._values, accelerator.reduce(means, "mean").tolist(), strict=True)
        if self._num_skipped == self._num_steps > 0:
            del logs["loss"]
        elif self._num_skipped:
            logs["loss"] *= self._num_steps / (self._num_steps - self._num_skipped)
        if self._all_skipped:
            logs["skipped_steps"] = self._all_skipped
        self._values.clear()
        self._num_steps = self._num_skipped = 0
