"""What a model in training and its checkpoints have beyond what `Trainer` knows."""

import copy
from pathlib import Path

import torch
from transformers import TrainerCallback
from transformers.utils import logging

from ..recognition import FaceRecognitionModel
from .card import Run
from .class_centers import ClassCenters
from .ema import WeightAverage, load_raw_weights
from .engine_weights import num_trained, without_weights
from .engines import check_shapes, layers_to_gather, splits_weights
from .lora import BaseOfAdapter, frozen_names, leave_out_frozen, save_statistics
from .methods import TrainingMethod
from .resuming import keep_best_checkpoint

logger = logging.get_logger(__name__)


class FurtherParts(TrainerCallback):
    """
    Sets a trainer's `method`, `class_centers` and `ema` for its model, and anew for each model of `model_init`; saves
    and loads their files in checkpoints, and the position in a stream.

    Args:
        trainer ([`FaceTrainer`]): The trainer.
        method ([`TrainingMethod`]): The method, of which each model of `model_init` has a copy.
    """

    def __init__(self, trainer: Run, method: TrainingMethod):
        self.trainer, self.method = trainer, method
        trainer.ema = None

    def adopt(self, model: FaceRecognitionModel) -> None:
        """Add the method to a model, and prepare its class centers before it moves to the device."""
        trainer = self.trainer
        model.is_in_training = True
        model.freeze_batch_norm = trainer.args.freeze_batch_norm
        trainer.method = self.method if trainer.model_init is None else copy.deepcopy(self.method)
        model.method = trainer.method  # its modules are trained, wrapped and checkpointed with the model
        model.head.requires_grad_(trainer.method.uses_head)
        trainer.class_centers = ClassCenters(model.head, trainer.args)
        own = ["head.weight"] if trainer.class_centers.is_apart else []
        model._ddp_params_and_buffers_to_ignore = own  # type: ignore[assignment]
        save_statistics(model)
        self.base = BaseOfAdapter(model)

    def set_up(self) -> None:
        """
        Set up memory format, averaging and method of the model on its device.

        Raises:
            ValueError: if an engine cannot split the model.
        """
        trainer, args = self.trainer, self.trainer.args
        if args.channels_last and not splits_weights(trainer.accelerator):  # engines split only usual layouts
            trainer.model.to(memory_format=torch.channels_last)
        trainer.method.setup(trainer)
        trainer.method.to(args.device)  # including modules created in setup
        leave_out_frozen(trainer.model)
        if splits_weights(trainer.accelerator):
            check_shapes(trainer.model)
            self.base.digest()
            trainer.blueprint = without_weights(trainer.model.backbone)
            trainer.model._no_split_modules = layers_to_gather(trainer.model)
            if trainer.class_centers.is_apart:
                trainer.model.head.to(args.device)  # an engine moves what it wraps
        if trainer.ema is not None:
            trainer.remove_callback(trainer.ema)
        trainer.ema = None
        if args.ema_decay is not None:
            trainer.ema = WeightAverage(trainer.model, args.ema_decay, frozen_names(trainer.model))
            trainer.add_callback(trainer.ema)

    def save(self, folder: Path) -> None:
        """Add their files to a checkpoint. Must be called on every rank."""
        trainer, args = self.trainer, self.trainer.args
        if args.should_save:
            self.base.save(folder)
        if trainer.ema is not None:
            trainer.ema.save(folder, keep=args.should_save)
        if trainer.class_centers.is_split:
            trainer.class_centers.save(folder, None if args.save_only_model else trainer.optimizer)
        if trainer._streamed is not None and not args.save_only_model:
            trainer._streamed.save(folder, trainer.state.global_step)

    def load(self, checkpoint: Path) -> None:
        """Load split class centers with their optimizer state, and the averaged weights; check those of an adapter."""
        trainer = self.trainer
        self.base.check(checkpoint)
        if trainer.class_centers.is_split or not splits_weights(trainer.accelerator):  # an engine has loaded the others
            trainer.class_centers.load(checkpoint, trainer.optimizer)
        if trainer.ema is not None:
            trainer.ema.load(checkpoint, trainer.model_wrapped)

    def on_train_begin(self, args, state, control, **kwargs):
        trainer = self.trainer
        if frozen_names(trainer.model):
            trainer.log({"trainable_parameters": num_trained(trainer.model)})
        if trainer._resumed_from is not None:
            self.load(trainer._resumed_from)
            if trainer.ema is None:  # now, but maybe not when the checkpoint was saved
                load_raw_weights(trainer.model, trainer._resumed_from, trainer.model_wrapped)
            if args.load_best_model_at_end and state.best_global_step:
                keep_best_checkpoint(state, trainer._resumed_from, args.output_dir)
            if trainer._streamed is not None:
                trainer._streamed.load(trainer._resumed_from)

    def on_train_end(self, args, state, control, **kwargs):
        if args.load_best_model_at_end and state.best_model_checkpoint is not None:
            self.load(Path(state.best_model_checkpoint))
        if skipped := self.trainer.data_collator.num_skipped:
            logger.warning(f"Replaced {skipped} images that could not be decoded with other images.")
