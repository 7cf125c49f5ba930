"""The Trainer for face recognition."""

import copy
import math
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from accelerate.utils import broadcast
from datasets import Dataset, IterableDataset
from huggingface_hub import CommitInfo
from peft import PeftModel
from torch import Tensor, nn
from torch.utils.data import DataLoader, SequentialSampler
from transformers import PreTrainedModel, Trainer, TrainerCallback, TrainerState
from transformers.trainer import TRAINER_STATE_NAME
from transformers.trainer_utils import TrainOutput, speed_metrics
from transformers.utils import logging

from ..data import BatchNormalize, FaceCollator, FaceDataset, build_augmentation
from ..embedding import Embedder
from ..evaluation import Evaluator
from ..hub import FaceModelCardData
from ..models import FaceImageProcessor
from ..recognition import FaceRecognitionModel
from .arguments import FaceTrainingArguments
from .checks import Protocols, as_evaluators, check_training_data, choose_best_model_metric
from .class_centers import ClassCenters
from .ema import WeightAverage
from .engines import prepare_engine, splits_weights, whole_state_dict
from .methods import MarginSoftmax, TrainingMethod
from .publishing import Publisher, check_card
from .resuming import find_checkpoint, is_finished
from .streaming import StreamedBatches

logger = logging.get_logger(__name__)


class FaceTrainer(Trainer):
    """
    transformers' `Trainer` for a [`FaceRecognitionModel`].

    Batches travel as uint8 and are augmented and normalized on the device, a [`TrainingMethod`] turns them into losses,
    the class centers have a learning rate of their own, and evaluation runs the field's protocols.

    Args:
        model ([`FaceRecognitionModel`]):
            Backbone and margin head.
        args ([`FaceTrainingArguments`]):
            Settings of the run.
        train_dataset (`datasets.Dataset` or `datasets.IterableDataset`):
            Identity data: columns `image` and `label`. A stream is read pass after pass, whole (every rank and worker
            takes its own part) and in full batches; `shuffle` it with a seed.
        eval_dataset ([`VerificationPairs`], [`Evaluator`], or a sequence of these, *optional*):
            Protocols that evaluation runs. Their metrics are logged as `eval_<name>_<metric>`, and any of them can be
            `metric_for_best_model`; the default is the primary metric of the first protocol.
        image_processor ([`FaceImageProcessor`], *optional*):
            Size and normalization of the crops, saved with the model. The default is the backbone's `preprocessing`.
        augmentation (`str` or list, *optional*, defaults to `"flip"`):
            What is done to the crops in training, see [`hf_face.data.build_augmentation`]; None for nothing.
        on_bad_image (`str`, *optional*, defaults to `"raise"`):
            `"skip"` to go on, with a warning, when an image cannot be decoded.
        card ([`FaceModelCardData`], *optional*):
            What the model's publisher states: licenses, data, description. The rest of the card is what was measured.
        method ([`TrainingMethod`], *optional*):
            What a step minimizes. The default is the loss of the margin head, [`MarginSoftmax`].
        kwargs:
            Further arguments of `Trainer`.

    Example:
    ```python
    >>> trainer = FaceTrainer(model, FaceTrainingArguments("out"), train_dataset=people, eval_dataset=pairs)
    >>> trainer.train()
    >>> trainer.save_model()  # the backbone, for AutoModel.from_pretrained("out")
    ```
    """

    args: FaceTrainingArguments
    model: FaceRecognitionModel
    eval_dataset: list[Evaluator]
    processing_class: FaceImageProcessor
    data_collator: FaceCollator
    hub_model_id: str | None  # type: ignore[assignment]
    push_in_progress: Any = None  # a `PushInProgress`

    def __init__(
        self,
        model: FaceRecognitionModel,
        args: FaceTrainingArguments,
        train_dataset: Dataset | IterableDataset | None = None,
        eval_dataset: Protocols | None = None,
        image_processor: FaceImageProcessor | None = None,
        augmentation: str | Sequence | None = "flip",
        on_bad_image: Literal["raise", "skip"] = "raise",
        card: FaceModelCardData | None = None,
        method: TrainingMethod | None = None,
        **kwargs,
    ):
        if args.push_to_hub:
            check_card(card)
        image_processor = image_processor or FaceImageProcessor(**model.config.backbone_config.preprocessing)
        if isinstance(train_dataset, Dataset):
            check_training_data(train_dataset, model, args)
        evaluators = as_evaluators(eval_dataset)
        choose_best_model_metric(args, evaluators)
        self.publisher = Publisher(self, card)
        self.method = method or MarginSoftmax()
        model.method = self.method  # whose modules are trained, wrapped and checkpointed with the model
        model.head.requires_grad_(self.method.uses_head)
        self.class_centers = ClassCenters(model.head, args)
        if self.class_centers.is_split:
            model._ddp_params_and_buffers_to_ignore = ["head.weight"]  # type: ignore[assignment]
        if self.class_centers.needs_own_clipping and args.max_grad_norm == 0:
            args.max_grad_norm = math.inf  # clips nothing, but has Trainer ask us for the norm
        super().__init__(
            model=model,
            args=args,
            data_collator=FaceCollator(image_processor.size["height"], model.config.num_identities, on_bad_image),
            train_dataset=FaceDataset(train_dataset) if isinstance(train_dataset, Dataset) else train_dataset,
            eval_dataset=evaluators,
            processing_class=image_processor,
            **kwargs,
        )
        self.augmentation = augmentation
        self.augment = build_augmentation(augmentation, image_processor.size["height"]) if augmentation else None
        self.normalize = BatchNormalize(
            image_processor.image_mean, image_processor.image_std, image_processor.channel_order
        ).to(args.device)
        self._last_draw = (-1, 0)  # step and batch within it
        self._logged: dict[str, list[Tensor]] = {}
        self._streamed: StreamedBatches | None = None
        self._resumed_from: Path | None = None
        if args.channels_last:
            model.to(memory_format=torch.channels_last)  # type: ignore[call-arg]  # the wrapper hides what it takes
        self.ema = None if args.ema_decay is None else WeightAverage(model.backbone, args.ema_decay)
        for callback in filter(None, (_FurtherParts(self), self.ema, self.publisher)):
            self.add_callback(callback)
        self.method.setup(self)
        self.method.to(args.device)  # with the modules that it made just now

    def create_accelerator_and_postprocess(self) -> None:
        super().create_accelerator_and_postprocess()
        prepare_engine(self.accelerator)

    def train(self, resume_from_checkpoint: str | Path | bool | None = None, **kwargs) -> TrainOutput:
        """
        As `Trainer.train`.

        Args:
            resume_from_checkpoint: A checkpoint, a run's folder, `True` or `"auto"`; see
                [`hf_face.training.find_checkpoint`]. A checkpoint of the run's last step is loaded and not trained
                further: `metrics` of the answer are then empty.
            kwargs: Further arguments of `Trainer.train`.
        """
        self._resumed_from = checkpoint = find_checkpoint(resume_from_checkpoint, self.args.output_dir)
        if checkpoint is not None and is_finished(checkpoint, self.args):
            self._load_from_checkpoint(str(checkpoint))
            self.load_further_weights(checkpoint)
            self.state = TrainerState.load_from_json(str(checkpoint / TRAINER_STATE_NAME))
            self.publisher.weights_changed(self.state.global_step)
            return TrainOutput(self.state.global_step, math.nan, {})
        output = super().train(resume_from_checkpoint=None if checkpoint is None else str(checkpoint), **kwargs)
        self.publisher.report_failures()
        return output

    # Batches and losses

    def get_train_dataloader(self) -> DataLoader:
        """As `Trainer`'s; a stream comes as numbered batches, which each rank's workers read and decode themselves."""
        if not isinstance(self.train_dataset, IterableDataset):
            return super().get_train_dataloader()
        self._streamed = StreamedBatches(self.train_dataset, self.args, self._train_batch_size)
        return self._get_dataloader(
            self._streamed.stream,
            "Training",
            batch_size=1,
            sampler_fn=SequentialSampler,  # type: ignore[arg-type]
            is_training=True,
        )

    def prepare_batch(self, inputs: dict[str, Tensor]) -> dict[str, Tensor]:
        """What a [`TrainingMethod`] is given, from a batch of the collator: augmented (in training) and normalized."""
        images = inputs["pixel_values"].contiguous()  # planes, which augmentation is faster on
        if self.augment is not None and self.model.training:
            images = self.augment(images, self._generator())
        pixel_values = self.normalize(images)
        if self.args.channels_last:
            pixel_values = pixel_values.contiguous(memory_format=torch.channels_last)
        return {**inputs, "images": images, "pixel_values": pixel_values}

    def compute_loss(self, model, inputs, return_outputs: bool = False, num_items_in_batch=None):
        batch = self.prepare_batch(inputs)
        with self.accelerator.autocast():  # which accelerate leaves out under FSDP
            loss, logged = self.method.compute(model, batch)
        for name, value in logged.items():
            self._logged.setdefault(name, []).append(value.float())
        return (loss, logged) if return_outputs else loss

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        if "loss" in logs and self._logged:
            means = torch.stack([torch.stack(values).mean() for values in self._logged.values()])
            logs |= zip(self._logged, self.accelerator.reduce(means, "mean").tolist(), strict=True)
            self._logged.clear()
        super().log(logs, start_time)

    def _generator(self) -> torch.Generator:
        """Draws that depend on seed, step, batch within the step and rank alone, so that a resumed run repeats them."""
        step, batch = self.state.global_step, 0
        if self._last_draw[0] == step:
            batch = self._last_draw[1] + 1
        self._last_draw = (step, batch)
        numbers = (self.args.seed, step, batch, self.args.process_index)
        return torch.Generator().manual_seed(int(np.random.SeedSequence(numbers).generate_state(1, np.uint64)[0]))

    # Optimizer

    @staticmethod
    def get_optimizer_cls_and_kwargs(args: FaceTrainingArguments, model: PreTrainedModel | None = None):
        """As `Trainer`'s; but SGD on a GPU is the fused one, which decays weights without a copy of the gradient."""
        optimizer_cls, kwargs = Trainer.get_optimizer_cls_and_kwargs(args, model)
        if optimizer_cls is torch.optim.SGD and args.device.type == "cuda":
            kwargs["fused"] = True
        return optimizer_cls, kwargs

    def create_optimizer(self, model: nn.Module | None = None) -> torch.optim.Optimizer:
        if self.optimizer is None:
            super().create_optimizer(model)
            self.class_centers.add_to(self.optimizer)
        return self.optimizer

    def _clip_grad_norm(self, model: nn.Module):
        # No public way: accelerate's clipping knows neither gradients of which each rank has a part nor sparse ones.
        if not self.class_centers.needs_own_clipping:
            return super()._clip_grad_norm(model)
        self.accelerator.unscale_gradients()
        return self.class_centers.clip_grad_norm(model, self.args.max_grad_norm)

    # Evaluation

    def evaluate(
        self,
        eval_dataset: Protocols | None = None,
        ignore_keys: list[str] | None = None,
        metric_key_prefix: str = "eval",
        figures_dir: str | Path | None = None,
    ) -> dict[str, float]:
        """
        Runs the protocols. Images that several of them share are embedded once.

        Args:
            eval_dataset: As in the constructor, whose protocols are the default.
            ignore_keys: Not used; `Trainer` passes it.
            metric_key_prefix: First part of every metric's name.
            figures_dir: Where to draw the protocols' figures; none are drawn if left out.

        Raises:
            ValueError: if there is no protocol to run.
        """
        evaluators = self.eval_dataset if eval_dataset is None else as_evaluators(eval_dataset)
        if not evaluators:
            raise ValueError("There is nothing to evaluate on: pass verification pairs or a protocol as eval_dataset.")
        start_time = time.time()
        # All ranks take the first one's batch norm statistics, which are those that are saved.
        broadcast(list(self.evaluated_model.buffers()))
        embedder = Embedder(
            self.evaluated_model,
            self.processing_class,
            batch_size=self.args.per_device_eval_batch_size,
            flip=any(evaluator.needs_flip for evaluator in evaluators),
            dtype={"bf16": torch.bfloat16, "fp16": torch.float16}.get(self.accelerator.mixed_precision),
            num_workers=self.args.dataloader_num_workers,
            progress=not self.args.disable_tqdm,
        )
        metrics: dict[str, float] = {}
        for evaluator in evaluators:
            found = evaluator.evaluate(embedder, figures_dir)
            self.publisher.remember(evaluator, found, figures_dir)
            metrics |= {f"{metric_key_prefix}_{name}": value for name, value in evaluator.prefixed(found).items()}
        metrics |= speed_metrics(metric_key_prefix, start_time)
        self.log(metrics)
        self.control = self.callback_handler.on_evaluate(self.args, self.state, self.control, metrics)
        return metrics

    @property
    def evaluated_model(self) -> nn.Module:
        """What evaluation embeds faces with: the averaged backbone, or the backbone, or all of a split model."""
        if splits_weights(self.accelerator):
            return self.model_wrapped  # its parts cannot be called alone
        return self.model.backbone if self.ema is None else self.ema.module

    @property
    def backbone(self) -> PreTrainedModel:
        """The backbone as it is published: averaged when `ema_decay` is set, with LoRA adapters merged."""
        if self.ema is not None:
            backbone: Any = self.ema.module
        else:
            backbone = self.accelerator.unwrap_model(self.model, keep_torch_compile=False).backbone
        return copy.deepcopy(backbone).merge_and_unload() if isinstance(backbone, PeftModel) else backbone

    def whole_state_dict(self, part: str) -> dict[str, Tensor]:
        """Weights of the backbone or the head, whole on the first rank whoever splits them over the ranks."""
        if splits_weights(self.accelerator):
            return whole_state_dict(self.accelerator, self.model_wrapped, part)
        return getattr(self.model, part).state_dict()

    # Saving and resuming

    def save_model(self, output_dir: str | Path | None = None, _internal_call: bool = False) -> None:
        """
        Saves the backbone and its image processor, to be loaded with `AutoModel.from_pretrained(output_dir)`.

        Checkpoints hold the training model instead, margin head included.
        """
        output_dir = str(output_dir or self.args.output_dir)
        if _internal_call:
            self._save_training_model(output_dir)
            return
        state_dict = self.whole_state_dict("backbone") if splits_weights(self.accelerator) else None
        if self.args.should_save:
            self.backbone.save_pretrained(output_dir, state_dict=state_dict)
            self.processing_class.save_pretrained(output_dir)

    def _save_training_model(self, output_dir: str) -> None:
        if self.ema is None:
            super().save_model(output_dir, _internal_call=True)
        else:
            with self.ema.in_place_of_the_weights():
                super().save_model(output_dir, _internal_call=True)
            if self.args.should_save:
                self.ema.save(Path(output_dir))
        if self.class_centers.is_split:
            self.class_centers.save(Path(output_dir), None if self.args.save_only_model else self.optimizer)
        if self._streamed is not None and not self.args.save_only_model:
            self._streamed.save(Path(output_dir), self.state.global_step)

    def load_further_weights(self, checkpoint: Path) -> None:
        """Loads what `Trainer` does not know of: split class centers, with their optimizer state, and the average."""
        self.class_centers.load(checkpoint, self.optimizer)
        if self.ema is not None:
            self.ema.load(checkpoint)

    def _save_rng_state(self, output_dir: str) -> None:
        # No public way: trainer_state.json comes next and says that a checkpoint is complete. No rank may still be
        # writing then.
        super()._save_rng_state(output_dir)
        self.accelerator.wait_for_everyone()

    # Publishing

    @property
    def card(self) -> FaceModelCardData | None:
        """What the publisher states."""
        return self.publisher.card

    def create_model_card(self, *args, **kwargs) -> None:
        """Saves the model into `output_dir` with its card, evaluated with these weights. To be called on every rank."""
        self.publisher.write_card()

    def push_to_hub(
        self,
        commit_message: str | None = "End of training",
        blocking: bool = True,
        token: str | None = None,
        revision: str | None = None,
        private: bool | None = None,
        include_head: bool = False,
        **kwargs,
    ) -> CommitInfo | None:
        """
        Publishes the backbone, its card and figures as `hub_model_id`, in one commit; see [`hf_face.hub.push_to_hub`],
        which takes the further arguments. To be called on every rank. Always blocks: a failed push raises.
        """
        return self.publisher.push(
            include_head,
            commit_message=commit_message,
            token=token or self.args.hub_token,
            revision=revision or self.args.hub_revision,
            private=self.args.hub_private_repo if private is None else private,
            **kwargs,
        )

    def init_hf_repo(self, token: str | None = None, private: bool | None = None) -> None:
        """Makes the repository and branch. `Trainer` calls it before training."""
        self.publisher.make_repository(token, private)

    def _push_from_checkpoint(self, checkpoint_folder: str) -> None:
        # No public way: Trainer would upload the training model, and in several commits.
        self.publisher.push_checkpoint(checkpoint_folder)


class _FurtherParts(TrainerCallback):
    """Loads a checkpoint's further parts once `Trainer` has loaded what it knows of."""

    def __init__(self, trainer: FaceTrainer):
        self.trainer = trainer

    def on_train_begin(self, args, state, control, **kwargs):
        trainer = self.trainer
        if trainer._resumed_from is not None:
            trainer.load_further_weights(trainer._resumed_from)
            if trainer._streamed is not None:
                trainer._streamed.load(trainer._resumed_from)

    def on_train_end(self, args, state, control, **kwargs):
        if args.load_best_model_at_end and state.best_model_checkpoint is not None:
            self.trainer.load_further_weights(Path(state.best_model_checkpoint))
        if skipped := self.trainer.data_collator.num_skipped:
            logger.warning(f"Skipped {skipped} images that could not be decoded, and took another in place of each.")
