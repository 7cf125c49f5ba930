"""A `Trainer` that loses no work when something breaks."""

from itertools import chain
from pathlib import Path
from typing import Any

from torch import Tensor, nn
from transformers import TrainerState
from transformers.trainer import TRAINER_STATE_NAME
from transformers.utils import logging

from .checkpoint_files import find_weights_defect, saved_whole
from .divergence import DivergenceCheck
from .engine_trainer import EngineTrainer
from .further_parts import FurtherParts
from .publishing import Publisher
from .resuming import final_weights
from .stopping import StopOnSignal

logger = logging.get_logger(__name__)


class SafeTrainer(EngineTrainer):
    """
    An [`EngineTrainer`] that updates no weights with a loss or gradient that is not finite, stops at a signal, and has
    either a whole checkpoint or none.
    """

    divergence: DivergenceCheck
    stopping: StopOnSignal
    further_parts: FurtherParts
    publisher: Publisher

    def training_step(self, model, inputs, num_items_in_batch=None) -> Tensor:
        buffers = chain(self.model.buffers(), self.model.head.buffers())  # which may be kept apart
        self.divergence.start(chain(buffers, [self._tr_loss]))
        loss = super().training_step(model, inputs, num_items_in_batch)
        self.divergence.add(loss, inputs.get("rows"))
        return loss

    def _get_grad_norm(self, model: nn.Module, grad_norm=None):
        # Not public, but called in every step with the norm, between the gradient and the optimizer.
        grad_norm = super()._get_grad_norm(model, grad_norm)
        scaled = self.accelerator.scaler is not None  # fp16 skips a step whose scaled gradient is infinite
        self.divergence.check(self, None if scaled else grad_norm)
        return grad_norm

    def _save_checkpoint(self, model: nn.Module, trial: Any) -> None:
        # Not public, but the only place that is before the first file of a checkpoint and after the last.
        with saved_whole(self, Path(self._get_output_dir(trial))):
            super()._save_checkpoint(model, trial)

    def _maybe_log_save_evaluate(
        self, tr_loss, grad_norm, model, trial, epoch, ignore_keys_for_eval, start_time, learning_rate=None
    ) -> None:
        # Not public, but nothing may be logged or saved of a step that is not finite, and nothing may follow after a
        # signal: Trainer would end the training as if it were over.
        if any(getattr(self.control, f"should_{what}") for what in ("log", "evaluate", "save", "training_stop")):
            self.divergence.look_at_last(self)
        further = epoch, ignore_keys_for_eval, start_time, learning_rate
        super()._maybe_log_save_evaluate(tr_loss, grad_norm, model, trial, *further)
        self.stopping.leave(self, trial)

    def _save_rng_state(self, output_dir: str) -> None:
        # Not public, but the checkpoint's last files are written next, so all ranks must have finished theirs.
        super()._save_rng_state(output_dir)
        self.accelerator.wait_for_everyone()

    def _load_best_model(self) -> None:
        # Not public, but a damaged checkpoint must not take the trained model with it.
        best = Path(self.state.best_model_checkpoint)
        if defect := find_weights_defect(best):
            logger.error(f"The best weights cannot be loaded, the last ones are kept: in {best}, {defect}.")
            self.state.best_model_checkpoint = None
            return
        super()._load_best_model()

    def _load_finished(self, checkpoint: Path) -> bool:
        """Load the model of a run whose training is over, and return whether it is."""
        state = TrainerState.load_from_json(str(checkpoint / TRAINER_STATE_NAME))
        *_, last_step = self.set_initial_training_values(self.args, self.get_train_dataloader())
        if state.global_step < last_step:
            return False
        source, step = final_weights(state, checkpoint, self.args)
        self._load_from_checkpoint(str(source))
        self.further_parts.load(source)
        self.state = state
        self.publisher.weights_changed(step)
        return True
