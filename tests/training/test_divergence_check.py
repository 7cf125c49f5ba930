"""The check of a step by itself: what it finds, says and undoes."""

import math
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from hf_face import FaceRecognitionConfig, FaceRecognitionModel, IResNetConfig
from hf_face.data import FaceDataset
from hf_face.training import TrainingDivergedError
from hf_face.training.divergence import (
    DivergenceCheck,
    NumberedCollator,
    _fused_optimizer,
    _shorten,
    check_weights,
    spoil_gradient,
)


def test_batches_know_their_rows_but_for_those_of_a_stream(orl):
    collate = NumberedCollator(32)
    assert collate(FaceDataset(orl.select(range(5))).__getitems__([3, 1]))["rows"].tolist() == [3, 1]
    rows = orl.select(range(2)).with_format(None)
    assert set(collate([rows[0], rows[1]])) == {"pixel_values", "labels"}


def test_many_rows_are_shortened():
    assert _shorten([3, 5]) == "3, 5"
    shown = ", ".join(map(str, range(64)))
    assert _shorten(range(64)) == shown
    assert _shorten(range(65)) == f"{shown} ... (65 rows)"


class Steps:
    """Checks of a trainer's steps, one after the other."""

    def __init__(self, folder: Path, on_divergence: str, scaler=None):
        self.check = DivergenceCheck(SimpleNamespace(on_divergence=on_divergence, output_dir=str(folder)))
        self.counted: list[tuple[int, bool]] = []
        self.trainer = SimpleNamespace(
            state=SimpleNamespace(global_step=0),
            stopping=SimpleNamespace(requested=False, agreed=None),
            losses=SimpleNamespace(end_step=lambda number, skipped: self.counted.append((number, skipped))),
            optimizer=None,
            accelerator=SimpleNamespace(scaler=scaler, distributed_type="NO"),
            model=FaceRecognitionModel(
                FaceRecognitionConfig(backbone_config=IResNetConfig(depths=[1], hidden_sizes=[4], stem_size=4))
            ),
        )

    def step(self, *losses: float, norm: torch.Tensor | float | None = 1.0) -> None:
        self.check.start(self.trainer.model.buffers())
        for row, loss in enumerate(losses):
            self.check.add(torch.tensor(loss), torch.tensor([row]))
        self.check.check(self.trainer, norm)
        self.trainer.state.global_step += 1


NAN = float("nan")


@pytest.mark.parametrize("norm", [NAN, torch.tensor(NAN)])
def test_a_norm_that_is_not_finite_is_noticed_however_it_is_told(tmp_path, norm):
    steps = Steps(tmp_path, "raise")
    steps.step(1.0, norm=None)
    steps.step(1.0, norm=0.0)
    with pytest.raises(TrainingDivergedError, match=r"in step 3, the norm of the gradient is nan .* rows 0, 1 of"):
        steps.step(1.0, 2.0, norm=norm)
    with pytest.raises(TrainingDivergedError, match=r"in step 3, the loss is nan .* rows 1 of"):
        steps.step(1.0, NAN, norm=None)
    assert steps.counted == [(1, False), (1, False), (2, True), (2, True)]
    assert steps.trainer.stopping.agreed is False


def test_steps_are_skipped_unless_too_many_in_a_row(tmp_path, monkeypatch):
    monkeypatch.setattr("hf_face.training.divergence.MOST_IN_A_ROW", 2)
    steps = Steps(tmp_path, "skip")
    for loss in (NAN, NAN, 1.0, NAN, NAN):
        steps.step(loss)
    with pytest.raises(TrainingDivergedError, match="in step 6, the loss is nan"):
        steps.step(NAN)


@pytest.mark.parametrize("scaler", [None, "a scaler"])
def test_a_skipped_step_leaves_no_gradient_but_for_a_scaler_and_the_buffers_of_before(tmp_path, scaler):
    steps = Steps(tmp_path, "skip", scaler)
    weight, buffers = steps.trainer.model.head.weight, list(steps.trainer.model.buffers())
    before = [buffer.clone() for buffer in buffers]
    weight.grad = torch.full_like(weight, NAN)
    for loss in (1.0, NAN):  # two batches
        steps.check.start(buffers)
        for buffer in buffers:
            buffer += 1
        steps.check.add(torch.tensor(loss), None)
    steps.check.check(steps.trainer, 1.0)
    assert (weight.grad is None) == (scaler is None)
    assert all(map(torch.equal, buffers, before))


def fused_adam(**settings) -> torch.optim.Optimizer:
    return torch.optim.AdamW([torch.nn.Parameter(torch.ones(1))], **settings)


@pytest.mark.parametrize(
    ("fused", "engine", "scaler", "expected"),
    [
        (True, "NO", None, True),
        (False, "NO", None, False),
        (True, "FSDP", None, False),
        (True, "NO", "a scaler", False),
    ],
)
def test_which_optimizers_hold_an_update_back(fused, engine, scaler, expected):
    optimizer = fused_adam(fused=fused)
    accelerator = SimpleNamespace(distributed_type=engine, scaler=scaler)
    found = _fused_optimizer(SimpleNamespace(optimizer=optimizer, accelerator=accelerator))
    assert found is (optimizer if expected else None)


def test_a_step_that_is_held_back_is_looked_at_with_the_next_one(tmp_path):
    steps = Steps(tmp_path, "raise")
    steps.trainer.optimizer = fused_adam(fused=True)
    steps.trainer.stopping.requested = True
    steps.step(1.0)
    assert steps.trainer.optimizer.found_inf == 0 and steps.counted == []
    steps.check.look_at_last(steps.trainer)
    assert steps.counted == [(1, False)] and steps.trainer.stopping.agreed is True
    steps.check.look_at_last(steps.trainer)
    steps.trainer.stopping.requested = False
    steps.step(NAN)
    assert steps.trainer.optimizer.found_inf == 1 and steps.counted == [(1, False)]
    with pytest.raises(TrainingDivergedError, match="in step 2, the loss is nan"):
        steps.step(2.0)
    assert steps.trainer.optimizer.found_inf is None and steps.counted == [(1, False), (1, True)]


@pytest.mark.parametrize(("loss", "finite"), [(3.0, True), (math.inf, False), (-math.inf, False), (math.nan, False)])
def test_a_loss_that_is_not_finite_has_such_a_gradient(loss, finite):
    weight = torch.ones(2, requires_grad=True)
    spoiled = spoil_gradient(weight.sum() * 0.5 + loss)
    spoiled.backward()
    assert weight.grad.tolist() == [0.5, 0.5] if finite else not weight.grad.isfinite().any()
    assert spoiled.item() == loss + 1 if finite else not spoiled.isfinite()


def test_a_weight_that_is_not_finite_is_named():
    model = torch.nn.Sequential(torch.nn.BatchNorm1d(2), torch.nn.Linear(2, 0))
    model.head = torch.nn.Identity()
    check_weights(model, 3)
    model[0].running_var[1] = float("inf")
    with pytest.raises(TrainingDivergedError, match=r"after step 3, 0.running_var has values that are not finite"):
        check_weights(model, 3)
