"""The losses that are logged: means over the steps that count."""

from types import SimpleNamespace

import pytest
import torch

from hf_face.training.losses import LossLog

ALONE = SimpleNamespace(reduce=lambda values, how: values)


def logged(log: LossLog, **logs: float) -> dict[str, float]:
    log.complete(logs, ALONE)
    return logs


def step(log: LossLog, *values: float, skipped: bool = False) -> None:
    for value in values:
        log.add({"part": torch.tensor(value)})
    log.end_step(len(values), skipped)


def test_a_loss_is_the_mean_over_batches_since_the_last_log():
    log = LossLog()
    step(log, 1.0, 2.0)
    step(log, 6.0)
    assert logged(log, eval_accuracy=1.0) == {"eval_accuracy": 1.0}, "not a step's log"
    assert logged(log, loss=5.0) == {"loss": 5.0, "part": 3.0}
    assert logged(log, loss=4.0) == {"loss": 4.0}
    step(log, 7.0)
    assert logged(log, loss=1.0) == {"loss": 1.0, "part": 7.0}


def test_a_loss_is_kept_although_the_next_step_overwrites_it():
    log, part = LossLog(), torch.tensor(1.0)
    for value in (1.0, 2.0):  # as CUDA graphs do
        log.add({"part": part.fill_(value)})
    assert logged(log, loss=0.0)["part"] == 1.5


def test_steps_that_were_skipped_leave_the_means_and_are_counted():
    log = LossLog()
    step(log, 1.0, 3.0)
    step(log, 100.0, 200.0, skipped=True)
    step(log, 5.0, 7.0)
    step(log, 300.0, skipped=True)
    assert logged(log, loss=6.0) == {"loss": 12.0, "part": 4.0, "skipped_steps": 2}  # Trainer divides by all four
    step(log, 9.0, skipped=True)
    assert logged(log, loss=0.0) == {"skipped_steps": 3}
    step(log, 2.0)
    assert logged(log, loss=2.0) == {"loss": 2.0, "part": 2.0, "skipped_steps": 3}


@pytest.mark.parametrize("skipped", [1, 2])
def test_without_a_step_that_counts_there_is_no_loss(skipped):
    log = LossLog()
    for _ in range(skipped):
        step(log, 9.0, skipped=True)
    assert logged(log, loss=0.0) == {"skipped_steps": skipped}
