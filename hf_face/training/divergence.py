"""Stopping a run with a loss, a gradient or weights that are not finite."""

from collections.abc import Sequence

import torch
from accelerate.utils import gather_object
from torch import Tensor

from ..data import FaceCollator
from ..data.loading import EncodedRows
from ..recognition import FaceRecognitionModel
from .engine_weights import named_tensors, own_part

ROWS_SHOWN = 64


class TrainingDivergedError(ValueError):
    """
    Raised at the first loss or gradient that is not finite, before the weights are updated, and instead of saving
    weights that are not finite.

    Attributes:
        step (`int`): The training step, counted from 1.
        rows (`list[int]`): The rows of the training data in its batches on this rank; empty for streams.
    """

    def __init__(self, message: str, step: int, rows: Sequence[int] = ()):
        super().__init__(message)
        self.step, self.rows = step, list(rows)


class NumberedCollator(FaceCollator):
    """A [`FaceCollator`] whose batches also have their `rows` (B,) in the training data, unless it is streamed."""

    def _values(self, rows: EncodedRows) -> dict[str, Tensor]:
        numbers = {} if rows.numbers is None else {"rows": torch.as_tensor(rows.numbers)}
        return super()._values(rows) | numbers


class DivergenceCheck:
    """Collects the losses of a step, to check them together with its gradient: the device is waited for only once."""

    def __init__(self) -> None:
        self._batches: list[tuple[Tensor, Tensor | None]] = []

    def add(self, loss: Tensor, rows: Tensor | None) -> None:
        """Add one of the step's batches, which are several with gradient accumulation."""
        self._batches.append((loss, rows))

    def check(self, step: int, grad_norm: Tensor | float | None) -> None:
        """
        Check a step, whose number counts from 1.

        Args:
            grad_norm: Norm of the gradient; None where it is not known, or may be infinite as with fp16's loss scaling.

        Raises:
            TrainingDivergedError: if a loss or the norm is not finite.
        """
        batches, self._batches = self._batches, []
        losses = torch.stack([loss.detach().float() for loss, _ in batches])
        norm = torch.as_tensor(0.0 if grad_norm is None else grad_norm, device=losses.device).float()
        if torch.cat([losses, norm[None]]).isfinite().all():
            return
        bad = [i for i, finite in enumerate(losses.isfinite().tolist()) if not finite]
        found = f"the loss is {losses[bad[0]].item()}" if bad else f"the norm of the gradient is {norm.item()}"
        rows = [row for i in bad or range(len(batches)) for row in _as_list(batches[i][1])]
        where = f" for the batch of rows {_shorten(rows)} of the training data" if rows else ""
        raise TrainingDivergedError(
            f"The training diverged: in step {step}, {found}{where}. The weights were not updated or saved. Lower "
            "learning_rate, or raise warmup_steps.",
            step,
            rows,
        )


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


def _as_list(rows: Tensor | None) -> list[int]:
    return [] if rows is None else rows.tolist()


def _shorten(rows: Sequence[int]) -> str:
    shown = ", ".join(map(str, rows[:ROWS_SHOWN]))
    return shown if len(rows) <= ROWS_SHOWN else f"{shown} ... ({len(rows)} rows)"
