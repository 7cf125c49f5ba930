"""A signal ends a training at the same step on all ranks, with a checkpoint."""

import os
import signal
import threading
import time
from pathlib import Path
from types import SimpleNamespace

import pytest

import hf_face.cli.train
from hf_face.data.workers import SIGNALS
from hf_face.training import TrainingInterrupted
from hf_face.training.stopping import StopOnSignal, exiting_on_signals


def control(**flags) -> SimpleNamespace:
    return SimpleNamespace(**{"should_training_stop": False, "should_evaluate": True, "should_save": True, **flags})


@pytest.mark.parametrize(
    ("agreed", "before", "after"), [(False, False, False), (True, False, True), (False, True, True)]
)
def test_a_step_is_the_last_when_all_agree(agreed, before, after):
    stopping, flags = StopOnSignal(), control(should_training_stop=before)
    assert not stopping.requested and not stopping.agreed
    stopping.agreed = agreed
    stopping.on_step_end(None, None, flags)
    assert flags.should_training_stop == after


@pytest.mark.parametrize(
    ("agreed", "epoch", "ends"), [(True, 1.5, False), (True, 2.0, True), (False, 1.5, True), (False, 2.0, True)]
)
def test_an_epoch_that_is_broken_off_has_no_end(agreed, epoch, ends):
    stopping, flags = StopOnSignal(), control()
    stopping.agreed = agreed
    stopping.on_epoch_end(None, SimpleNamespace(epoch=epoch), flags)
    assert flags.should_evaluate == flags.should_save == ends


@pytest.mark.parametrize("only_model", [False, True])
@pytest.mark.parametrize("saved_at", [None, 0, 1, 3])
def test_leaving_saves_a_checkpoint_unless_this_step_has_one(saved_at, only_model):
    """One to go on from: with `save_only_model`, those before are not."""
    saved = []
    trainer = SimpleNamespace(
        args=SimpleNamespace(save_only_model=only_model),
        state=SimpleNamespace(global_step=1),
        model="model",
        accelerator=SimpleNamespace(wait_for_everyone=lambda: None),
        is_world_process_zero=lambda: True,
        _save_checkpoint=lambda model, trial: saved.append((trial, trainer.args.save_only_model)),
        _get_output_dir=lambda trial: "run",
    )
    stopping = StopOnSignal()
    stopping.leave(trainer, "trial")
    stopping.agreed = True
    if saved_at is not None:
        stopping.on_save(None, SimpleNamespace(global_step=saved_at), None)
    stopping.leave(trainer, "trial")  # not before the end of the epoch
    stopping.on_epoch_end(None, SimpleNamespace(epoch=0.5), control())
    with pytest.raises(TrainingInterrupted) as stopped:
        stopping.leave(trainer, "trial")
    assert stopped.value.checkpoint == Path("run/checkpoint-1") and stopped.value.code == 75
    assert saved == ([] if saved_at == 1 and not only_model else [("trial", False)])
    assert trainer.args.save_only_model == only_model


def test_signals_are_heard_while_it_listens():
    stopping = StopOnSignal()
    stopping.requested = True  # of an earlier training
    before = signal.getsignal(signal.SIGUSR1)
    with stopping.listening():
        assert not stopping.requested
        os.kill(os.getpid(), signal.SIGUSR1)
        assert stopping.requested
    assert signal.getsignal(signal.SIGUSR1) is before


def test_an_error_after_a_signal_is_the_end_of_another_process():
    stopping = StopOnSignal()
    with pytest.raises(RuntimeError, match="an error"), stopping.listening():
        raise RuntimeError("an error")
    with pytest.raises(TrainingInterrupted) as stopped, stopping.listening():
        os.kill(os.getpid(), signal.SIGTERM)
        raise RuntimeError("DataLoader worker exited")
    assert stopped.value.checkpoint is None


@pytest.mark.parametrize("number", SIGNALS)
def test_a_signal_before_or_after_the_training_says_to_start_again(number):
    before = signal.getsignal(number)
    with pytest.raises(TrainingInterrupted) as stopped, exiting_on_signals():
        with StopOnSignal().listening():
            os.kill(os.getpid(), number)
        os.kill(os.getpid(), number)
        time.sleep(5)
    assert stopped.value.code == 75 and stopped.value.checkpoint is None
    assert signal.getsignal(number) is before


def test_the_command_says_so_from_its_start_to_its_end(monkeypatch):
    def end(argv):
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(5)

    monkeypatch.setattr(hf_face.cli.train, "train_recipe", end)
    with pytest.raises(TrainingInterrupted):
        hf_face.cli.train.main(["demo/orl"])


def test_other_threads_leave_signals_alone():
    before, seen = signal.getsignal(signal.SIGTERM), []

    def listen():
        with StopOnSignal().listening():
            seen.append(signal.getsignal(signal.SIGTERM))

    thread = threading.Thread(target=listen)
    thread.start()
    thread.join()
    assert seen == [before]
