"""Stopping when a scheduler asks for it: a checkpoint, and an exit status that says to resume."""

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from transformers import TrainerCallback
from transformers.trainer_utils import PREFIX_CHECKPOINT_DIR
from transformers.utils import logging

from ..data.workers import SIGNALS
from .card import Run

logger = logging.get_logger(__name__)

EXIT_STATUS = 75  # EX_TEMPFAIL of sysexits.h: "temporary failure, the user is invited to retry"


class TrainingInterrupted(SystemExit):
    """
    Raised when a training has stopped because of SIGTERM or SIGUSR1, with a checkpoint to resume from. A program that
    does not catch it exits with status 75 (`EX_TEMPFAIL`), for the scheduler to start it again.

    Attributes:
        checkpoint (`Path`, *optional*): The checkpoint; None if the signal had ended a process that was needed to save
            one, so that the training goes on from the one before.
    """

    def __init__(self, checkpoint: Path | None):
        super().__init__(EXIT_STATUS)
        self.checkpoint = checkpoint


@contextmanager
def exiting_on_signals() -> Iterator[None]:
    """
    Exit with that status when a signal arrives before or after the training itself. Started again, a run whose training
    is over is evaluated, saved and published.
    """

    def leave(number: int, frame: Any) -> None:
        raise TrainingInterrupted(None)

    with handling_signals(leave):
        yield


@contextmanager
def handling_signals(handler: Callable[[int, Any], None]) -> Iterator[None]:
    """Handle signals in the main thread, as only it can."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {number: signal.signal(number, handler) for number in SIGNALS}
    try:
        yield
    finally:
        for number, former in before.items():
            signal.signal(number, former)


class StopOnSignal(TrainerCallback):
    """
    Ends a training with a checkpoint after the step in which a signal arrives, or the next one. Instead of
    transformers' callback of the same purpose, whose ranks may stop at different steps, and which goes on as if the
    training were over.

    Attributes:
        requested (`bool`): Whether a signal has arrived at this process.
        agreed (`bool`): Whether all ranks stop after this step, set in every step by the trainer.
    """

    def __init__(self) -> None:
        self.requested = self.agreed = self._leaving = False
        self._saved_step = 0

    @contextmanager
    def listening(self) -> Iterator[None]:
        """Note signals, to stop after the step."""
        self.requested = False
        with handling_signals(self._request):
            try:
                yield
            except RuntimeError as error:  # of another rank, or a data worker that has just started
                if not self.requested:
                    raise
                logger.warning(f"Stopped by a signal without saving, with exit status {EXIT_STATUS}: {error}")
                raise TrainingInterrupted(None) from error

    def _request(self, number: int, frame: Any) -> None:
        self.requested = True

    def on_step_end(self, args, state, control, **kwargs):
        control.should_training_stop |= self.agreed

    def on_epoch_end(self, args, state, control, **kwargs):
        self._leaving = self.agreed
        if self.agreed and state.epoch != round(state.epoch):  # not over, as the settings for its end suppose
            control.should_evaluate = control.should_save = False

    def on_save(self, args, state, control, **kwargs):
        self._saved_step = state.global_step

    def leave(self, trainer: Run, trial: Any) -> None:
        """
        Raises:
            TrainingInterrupted: if the training is to stop, and is ready to; with a checkpoint.
        """
        if not self._leaving:
            return
        step = trainer.state.global_step
        only_model = trainer.args.save_only_model
        if self._saved_step != step or only_model:
            trainer.args.save_only_model = False  # from which the training could not go on
            trainer._save_checkpoint(trainer.model, trial)
            trainer.args.save_only_model = only_model
        checkpoint = Path(trainer._get_output_dir(trial), f"{PREFIX_CHECKPOINT_DIR}-{step}")
        trainer.accelerator.wait_for_everyone()  # a rank that leaves another one talking to it can abort it
        if trainer.is_world_process_zero():
            logger.warning(
                f"Stopped by a signal after step {step}, with exit status {EXIT_STATUS}. To go on from {checkpoint}, "
                "run again with resume_from_checkpoint='auto'."
            )
        raise TrainingInterrupted(checkpoint)
