"""Losses, gradients and weights that are not finite: the run stops, or skips the step."""

import json
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from accelerate import PartialState
from accelerate.optimizer import AcceleratedOptimizer
from accelerate.utils import gather_object
from torch import Tensor
from transformers.utils import logging

from ..data import FaceCollator
from ..data.loading import EncodedRows
from ..recognition import FaceRecognitionModel
from .arguments import FaceTrainingArguments
from .card import Run
from .engine_weights import named_tensors, own_part
from .engines import splits_weights
from .ranks import Underway, on_any_rank

logger = logging.get_logger(__name__)

ROWS_SHOWN = 64
MOST_IN_A_ROW = 100  # steps to skip, after which no better ones are expected
BATCHES_NAME = "not_finite.jsonl"

Batches = list[tuple[Tensor, Tensor | None]]  # losses and rows


class TrainingDivergedError(ValueError):
    """
    Raised at the first loss or gradient that is not finite, before the weights are updated, and instead of saving
    weights that are not finite.

    Attributes:
        step (`int`): The training step, counted from 1.
        rows (`list[int]`): The rows of the training data in its batches on all ranks; empty for streams.
    """

    def __init__(self, message: str, step: int, rows: Sequence[int] = ()):
        super().__init__(message)
        self.step, self.rows = step, list(rows)


class NumberedCollator(FaceCollator):
    """A [`FaceCollator`] whose batches also have their `rows` (B,) in the training data, unless it is streamed."""

    def _values(self, rows: EncodedRows) -> dict[str, Tensor]:
        numbers = {} if rows.numbers is None else {"rows": torch.as_tensor(rows.numbers)}
        return super()._values(rows) | numbers


@dataclass
class Step:
    """A step, and two flags: whether it is not finite, and whether to stop after it."""

    number: int
    batches: Batches
    norm: Tensor
    flags: Underway


class DivergenceCheck:
    """
    Collects the losses of a step, to check them together with its gradient: the device is waited for only once, or not
    at all if the optimizer is fused. Such an optimizer looks on the device whether to update the weights, and the host
    looks a step later.

    The rows of a step that is not finite are written to `not_finite.jsonl` in the output folder. Then the training
    stops, or with `on_divergence="skip"` goes on as if the step had not been: without its gradient, and with the
    buffers (such as batch norm's statistics) from before it.
    """

    def __init__(self, args: FaceTrainingArguments) -> None:
        self.args = args
        self._num_in_a_row = 0  # steps that were not finite
        self._batches: Batches = []
        self._before: list[tuple[Tensor, Tensor]] = []
        self._last: Step | None = None  # still to be looked at

    def start(self, tensors: Iterable[Tensor]) -> None:
        """Remember the buffers and sums that a step's batches change."""
        if self.args.on_divergence == "skip" and not self._batches:
            self._before = [(tensor, tensor.detach().clone()) for tensor in tensors]

    def add(self, loss: Tensor, rows: Tensor | None) -> None:
        """Add one of the step's batches, which are several with gradient accumulation."""
        self._batches.append((loss.detach().float(), rows))

    def check(self, trainer: Run, grad_norm: Tensor | float | None) -> None:
        """
        Check a step of a [`FaceTrainer`], between its gradient and its update, or the step before it if this update
        can be prevented on the device; and agree whether to stop after it. Must be called on every rank.

        Args:
            grad_norm: Norm of the gradient; None where it is not known, or may be infinite as with fp16's loss scaling.

        Raises:
            TrainingDivergedError: if a loss or the norm is not finite on any rank, and the step is not to be skipped or
                no better ones are expected.
        """
        batches, self._batches = self._batches, []
        losses = torch.stack([loss for loss, _ in batches])
        norm = grad_norm.to(losses) if isinstance(grad_norm, Tensor) else losses.new_full((), grad_norm or 0.0)
        bad = ~torch.cat([losses, norm[None]]).isfinite().all()
        flags = on_any_rank(bad, trainer.stopping.requested, device=losses.device)
        step = Step(trainer.state.global_step + 1, batches, norm, Underway(flags))
        if self.args.on_divergence == "raise" and (optimizer := _fused_optimizer(trainer)) is not None:
            optimizer.found_inf = flags[0].float()  # does not update the weights if it is 1
            self.look_at_last(trainer)
            self._last = step
        else:
            self._look_at(step, trainer)

    def look_at_last(self, trainer: Run) -> None:
        """
        Look at the last step if that is still to be done, as before it is logged or saved. Must be called on every
        rank.

        Raises:
            TrainingDivergedError: see `check`.
        """
        if self._last is not None:
            step, self._last = self._last, None
            self._look_at(step, trainer)

    def _look_at(self, step: Step, trainer: Run) -> None:
        bad, trainer.stopping.agreed = step.flags.tolist()
        trainer.losses.end_step(len(step.batches), skipped=bad)
        if not bad:
            self._num_in_a_row = 0
            return
        error = self._describe(step)
        self._num_in_a_row += 1
        if self.args.on_divergence == "raise" or self._num_in_a_row > MOST_IN_A_ROW:
            if (optimizer := _fused_optimizer(trainer)) is not None:
                optimizer.found_inf = None  # or it would hold back whatever is trained with it next
            raise error
        self._undo(trainer)
        if PartialState().is_main_process:
            logger.warning(f"Skipped a step. {error}")

    def _describe(self, step: Step) -> TrainingDivergedError:
        own = [(loss.item(), [] if rows is None else rows.tolist()) for loss, rows in step.batches]
        everywhere = gather_object(own)
        bad = [batch for batch in everywhere if not math.isfinite(batch[0])]
        found = f"the loss is {bad[0][0]}" if bad else f"the norm of the gradient is {step.norm.item()}"
        rows = [row for _, rows in bad or everywhere for row in rows]
        if PartialState().is_main_process:
            self._write(step.number, found, rows)
        where = f" for the batch of rows {_shorten(rows)} of the training data" if rows else ""
        return TrainingDivergedError(
            f"The training diverged: in step {step.number}, {found}{where}. The weights were not updated or saved. "
            "Lower learning_rate, or raise warmup_steps.",
            step.number,
            rows,
        )

    def _write(self, step: int, found: str, rows: list[int]) -> None:
        with Path(self.args.output_dir, BATCHES_NAME).open("a", encoding="utf-8") as file:
            file.write(json.dumps({"step": step, "found": found, "rows": rows}) + "\n")

    @torch.no_grad()
    def _undo(self, trainer: Run) -> None:
        for tensor, before in self._before:
            tensor.copy_(before)
        check_weights(trainer.model, trainer.state.global_step)  # or every step from here on would be skipped
        if trainer.accelerator.scaler is None:  # which skips the step itself, and has to find a gradient
            trainer.model.zero_grad(set_to_none=True)


def spoil_gradient(loss: Tensor) -> Tensor:
    """
    Make the gradient of a loss that is not finite not finite either: DeepSpeed updates the weights in the backward
    pass, and looks at the gradient alone.
    """
    return loss * (1 + 0 * loss.detach())


def _fused_optimizer(trainer: Run) -> Any:
    """The optimizer if its kernels can be told on the device not to update the weights, as `GradScaler` does."""
    optimizer = trainer.optimizer
    while isinstance(optimizer, AcceleratedOptimizer):
        optimizer = optimizer.optimizer
    told_otherwise = splits_weights(trainer.accelerator) or trainer.accelerator.scaler is not None
    return None if told_otherwise or not getattr(optimizer, "_step_supports_amp_scaling", False) else optimizer


def check_weights(model: FaceRecognitionModel, step: int) -> None:
    """
    Must be called on every rank.

    Raises:
        TrainingDivergedError: if a weight or buffer is not finite, on any rank.
    """
    own = {name: own_part(tensor) for name, tensor in named_tensors(model)}
    own = {name: tensor for name, tensor in own.items() if tensor.is_floating_point() and tensor.numel()}
    largest = [torch.linalg.vector_norm(tensor, torch.inf).float() for tensor in own.values()]  # without copies
    finite = torch.stack([value.cpu() for value in largest]).isfinite().tolist()
    first = next((name for name, good in zip(own, finite, strict=True) if not good), None)
    if found := [name for name in gather_object([first]) if name is not None]:
        raise TrainingDivergedError(
            f"The training diverged: after step {step}, {found[0]} has values that are not finite, so the weights are "
            "not saved. Lower learning_rate, or raise warmup_steps.",
            step,
        )


def _shorten(rows: Sequence[int]) -> str:
    shown = ", ".join(map(str, rows[:ROWS_SHOWN]))
    return shown if len(rows) <= ROWS_SHOWN else f"{shown} ... ({len(rows)} rows)"
