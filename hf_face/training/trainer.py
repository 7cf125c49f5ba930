"""The Trainer for face recognition."""

import math
import operator
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any, Literal

import torch
from datasets import Dataset, IterableDataset
from torch import Tensor, nn
from torch.optim.lr_scheduler import MultiStepLR
from torch.utils.data import DataLoader, SequentialSampler
from transformers import PreTrainedModel, Trainer, TrainingArguments, set_seed
from transformers.trainer_utils import BestRun, PredictionOutput, TrainOutput

from ..data import BatchNormalize, DeviceDecoder, FaceCollator, FaceDataset, build_augmentation
from ..data.workers import spare_workers
from ..evaluation import Evaluator
from ..hub import FaceModelCardData
from ..models import FaceImageProcessor
from ..recognition import FaceRecognitionModel
from .arguments import FaceTrainingArguments, as_face_arguments
from .checks import as_training_data, check_model, check_model_source
from .cuda_graphs import CudaGraphSteps
from .divergence import DivergenceCheck, NumberedCollator, spoil_gradient
from .draws import RepeatableDraws
from .engines import splits_weights, uses_reentrant_checkpoints
from .evaluating import (
    Protocols,
    as_evaluators,
    choose_best_model_metric,
    choose_evaluators,
    embed_dataset,
    run_protocols,
    search_metric,
)
from .further_parts import FurtherParts
from .hub_checkpoint import as_saved
from .losses import LossLog
from .methods import MarginSoftmax, TrainingMethod
from .output_lock import only_training_in
from .publishing import Publisher, check_card
from .publishing_trainer import PublishingTrainer
from .refused import PARAMETERS, check_parameters, check_settings
from .resuming import find_checkpoint
from .stopping import StopOnSignal
from .streaming import StreamedBatches


class FaceTrainer(PublishingTrainer):
    """
    transformers' `Trainer` for a [`FaceRecognitionModel`].

    Batches are uint8, and are augmented and normalized on the device. A [`TrainingMethod`] computes the losses, the
    class centers have their own learning rate, and evaluation runs face recognition protocols.

    Args:
        model ([`FaceRecognitionModel`]):
            Backbone and margin head.
        args ([`FaceTrainingArguments`], *optional*):
            Settings of the run. transformers' `TrainingArguments` are converted.
        train_dataset (`datasets.Dataset` or `datasets.IterableDataset`):
            Identity data, with columns as [`hf_face.data.load_identities`] takes them. A stream is read completely in
            each pass (every rank and worker reads its own part), in full batches; `shuffle` it with a seed.
        eval_dataset ([`VerificationPairs`], [`Evaluator`], `str`, or a sequence or `dict` of these, *optional*):
            Evaluation protocols; the keys of a `dict` become their names, and text names a protocol or its data as in a
            recipe. Their metrics are logged as `eval_<name>_<metric>`, and any of them can be `metric_for_best_model`;
            the default is the primary metric of the first protocol.
        image_processor ([`FaceImageProcessor`], *optional*):
            Size and normalization of the crops, saved with the model. The default is the backbone's `preprocessing`.
            `Trainer`'s name for it, `processing_class`, works too.
        augmentation (`str` or list, *optional*, defaults to `"flip"`):
            Augmentation of the training crops, see [`hf_face.data.build_augmentation`]; None to disable it.
        on_bad_image (`str`, *optional*, defaults to `"raise"`):
            `"skip"` to replace images that cannot be decoded, with a warning, instead of raising an error.
        card ([`FaceModelCardData`], *optional*):
            The publisher's statements: licenses, data, description. The trainer adds its settings and measurements.
        method ([`TrainingMethod`], *optional*):
            The losses to minimize. The default is the loss of the margin head, [`MarginSoftmax`].
        model_init (`Callable`, *optional*):
            Creates the model instead of `model`, anew for each call of `train`, as in `Trainer`.
        kwargs:
            Further arguments of `Trainer`; those without a meaning for face recognition are refused.

    Example:
    ```python
    >>> trainer = FaceTrainer(model, FaceTrainingArguments("out"), train_dataset=people, eval_dataset=pairs)
    >>> trainer.train()
    >>> trainer.save_model()  # the backbone, for AutoModel.from_pretrained("out")
    ```
    """

    eval_dataset: list[Evaluator]
    data_collator: FaceCollator
    method: TrainingMethod
    hp_search_backend: Any = None  # while `hyperparameter_search` runs

    def __init__(
        self,
        model: FaceRecognitionModel | None = None,
        args: TrainingArguments | None = None,
        train_dataset: Dataset | IterableDataset | None = None,
        eval_dataset: Protocols | None = None,
        image_processor: FaceImageProcessor | None = None,
        augmentation: str | Sequence | None = "flip",
        on_bad_image: Literal["raise", "skip"] = "raise",
        card: FaceModelCardData | None = None,
        method: TrainingMethod | None = None,
        processing_class: FaceImageProcessor | None = None,
        model_init: Callable[..., FaceRecognitionModel] | None = None,
        **kwargs,
    ):
        check_parameters(**{name: kwargs.pop(name) for name in PARAMETERS if name in kwargs})
        self.args = args = as_face_arguments(args)
        self.model_init = model_init
        check_model_source(model, model_init, kwargs.get("optimizers"))
        if model is None:
            set_seed(args.seed)
            model = super().call_model_init()  # type: ignore[assignment]
        model = check_model(model, train_dataset)
        if args.push_to_hub:
            check_card(card)
        train_dataset = as_training_data(train_dataset, model, args)
        if image_processor is not None and processing_class is not None:
            raise ValueError("image_processor= and processing_class= are the same: pass one of them.")
        image_processor = image_processor or processing_class
        image_processor = image_processor or FaceImageProcessor(**model.config.backbone_config.preprocessing)
        evaluators = as_evaluators(eval_dataset)
        choose_best_model_metric(args, evaluators)
        self.publisher = Publisher(self, card)
        self.divergence = DivergenceCheck(args)
        self.stopping = StopOnSignal()
        self.further_parts = FurtherParts(self, method or MarginSoftmax())
        self.further_parts.adopt(model)
        super().__init__(
            model=model,
            args=args,
            train_dataset=FaceDataset(train_dataset) if isinstance(train_dataset, Dataset) else train_dataset,
            eval_dataset=evaluators,
            processing_class=image_processor,
            data_collator=NumberedCollator(
                image_processor.size["height"],
                model.config.num_identities,
                on_bad_image,
                keep_jpeg=args.decode_on_device and args.device.type == "cuda",
            ),
            **kwargs,
        )
        self.model_init = model_init
        self.decode = DeviceDecoder(self.data_collator, args.device)
        self.augmentation = augmentation
        self.augment = build_augmentation(augmentation, image_processor.size["height"]) if augmentation else None
        self.normalize = BatchNormalize.from_image_processor(image_processor).to(args.device)
        self._draws = RepeatableDraws(args)
        self.losses = LossLog()
        self._streamed: StreamedBatches | None = None
        self._resumed_from: Path | None = None
        for callback in (self.further_parts, self.publisher, self.stopping, CudaGraphSteps()):
            self.add_callback(callback)
        self.further_parts.set_up()
        if self.optimizer is not None:
            self.class_centers.check_optimizer(self.optimizer)
            self.class_centers.prepare(self.optimizer)

    # The model

    def call_model_init(self, trial: Any = None) -> FaceRecognitionModel:
        self.model = super().call_model_init(trial)  # type: ignore[assignment]
        self.further_parts.adopt(self.model)
        if not splits_weights(self.accelerator):
            self.model.to(self.args.device)  # type: ignore[arg-type]  # the wrapper hides what it takes
        self.further_parts.set_up()
        return self.model

    def create_accelerator_and_postprocess(self) -> None:
        super().create_accelerator_and_postprocess()
        if self.hp_search_backend is not None:  # a trial has just set its arguments
            check_settings(self.args)
            self.further_parts.adopt(self.model)
            self.further_parts.set_up()

    def train(
        self,
        resume_from_checkpoint: str | Path | bool | None = None,
        trial: Any = None,
        ignore_keys_for_eval: list[str] | None = None,
    ) -> TrainOutput:
        """
        Train the model; see `Trainer.train`. With `max_steps=0`, nothing is trained.

        Args:
            resume_from_checkpoint: A checkpoint, the folder of a run, `True` or `"auto"`; see
                [`hf_face.training.find_checkpoint`]. A checkpoint from the last step of the run is only loaded (or the
                best one of that run, with `load_best_model_at_end`), and the returned `metrics` are empty.
            trial: A trial of a hyperparameter search, passed by `Trainer`.
            ignore_keys_for_eval: Not supported.

        Raises:
            TrainingDivergedError: at the first loss or gradient that is not finite, unless it is to be skipped.
            TrainingInterrupted: after SIGTERM or SIGUSR1, with a checkpoint.
            ValueError: if there is no complete checkpoint to resume from, another training runs in `output_dir`, or the
                card could not be published.
        """
        check_parameters(ignore_keys_for_eval=ignore_keys_for_eval)
        if trial is None:
            self.publisher.check_card()
        with only_training_in(self.args.output_dir), self.stopping.listening():
            checkpoint = find_checkpoint(resume_from_checkpoint, self.args.output_dir)
            self.publisher.remove_leftovers()
            if checkpoint is not None and self._load_finished(checkpoint):
                return TrainOutput(self.state.global_step, math.nan, {})
            if self.args.max_steps == 0:  # of which Trainer would train one
                return TrainOutput(0, math.nan, {})
            self._resumed_from = checkpoint
            self.divergence = DivergenceCheck(self.args)
            with nullcontext() if checkpoint is None else as_saved(checkpoint) as source:
                output = super().train(None if source is None else str(source), trial)
            self.publisher.report_failures()
            return output

    def hyperparameter_search(
        self,
        hp_space: Callable[[Any], dict[str, Any]] | None = None,
        compute_objective: Callable[[dict[str, float]], float] | None = None,
        n_trials: int = 20,
        direction: str | list[str] | None = None,
        **kwargs,
    ) -> BestRun | list[BestRun]:
        """
        Search for the best settings; see `Trainer.hyperparameter_search`. By default, the objective is
        `metric_for_best_model` or the first protocol's primary metric, in the direction in which it is better.
        """
        if compute_objective is None:
            metric, is_greater_better = search_metric(self.args, self.eval_dataset)
            compute_objective = operator.itemgetter(metric)
            direction = direction or ("maximize" if is_greater_better else "minimize")
        return super().hyperparameter_search(hp_space, compute_objective, n_trials, direction or "minimize", **kwargs)

    # Batches and losses

    def get_train_dataloader(self) -> DataLoader:
        """As in `Trainer`, but streams return numbered batches, which each rank's workers read and decode."""
        if not isinstance(self.train_dataset, IterableDataset):
            return spare_workers(super().get_train_dataloader())
        self._streamed = StreamedBatches(self.train_dataset, self.args, self._train_batch_size)
        stream, sampler = self._streamed.stream, SequentialSampler
        return spare_workers(self._get_dataloader(stream, "Training", 1, sampler, is_training=True))  # type: ignore[arg-type]

    def prepare_batch(self, inputs: dict[str, Tensor]) -> dict[str, Tensor]:
        """Augment (in training) and normalize a batch of the collator for a [`TrainingMethod`]."""
        inputs = self.decode(inputs)
        images = inputs["pixel_values"].contiguous()  # augmentation is faster on planes
        self.method.generator = self._draws.generator(self.state.global_step)
        with torch.autocast(images.device.type, enabled=False):  # coordinates do not fit half precision
            if self.augment is not None and self.model.training:
                images = self.augment(images, self.method.generator)
            pixel_values = self.normalize(images)
        if self.model.training and uses_reentrant_checkpoints(self.args):
            pixel_values.requires_grad_()  # without which layers of frozen weights would pass no gradient on
        if self.args.channels_last:
            pixel_values = pixel_values.contiguous(memory_format=torch.channels_last)
        return {**inputs, "images": images, "pixel_values": pixel_values}

    def compute_loss(self, model, inputs, return_outputs: bool = False, num_items_in_batch=None):
        batch = self.prepare_batch(inputs)
        with self.accelerator.autocast():  # accelerate does not use autocast with FSDP
            loss, logged = self.method.compute(model, batch)
        if self.is_deepspeed_enabled:
            loss = spoil_gradient(loss)
        self.losses.add(logged)
        return (loss, logged) if return_outputs else loss

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        self.losses.complete(logs, self.accelerator)
        super().log(logs, start_time)

    def floating_point_ops(self, inputs: dict[str, Any]) -> int:
        """Not counted: `Trainer` would take pixels for tokens, and count all weights in every step."""
        return 0

    # Optimizer

    @staticmethod
    def get_optimizer_cls_and_kwargs(args: FaceTrainingArguments, model: PreTrainedModel | None = None):
        """As in `Trainer`, but with fused SGD on GPUs, which decays weights without copying the gradient."""
        optimizer_cls, kwargs = Trainer.get_optimizer_cls_and_kwargs(args, model)
        if optimizer_cls is torch.optim.SGD and args.device.type == "cuda":
            kwargs["fused"] = True
        return optimizer_cls, kwargs

    def create_scheduler(self, num_training_steps: int, optimizer: torch.optim.Optimizer | None = None):
        if self.lr_scheduler is None and self.args.lr_milestones:
            steps = [round(share * num_training_steps) for share in self.args.lr_milestones]
            self.lr_scheduler = MultiStepLR(optimizer or self.optimizer, steps)  # type: ignore[assignment]
            self._created_lr_scheduler = True
        return super().create_scheduler(num_training_steps, optimizer)

    # Evaluation

    def evaluate(
        self,
        eval_dataset: Protocols | None = None,
        ignore_keys: list[str] | None = None,
        metric_key_prefix: str = "eval",
        figures_dir: str | Path | None = None,
    ) -> dict[str, float]:
        """
        Run the protocols. Images that several of them share are embedded once.

        Args:
            eval_dataset: Protocols as for the constructor, or the name of one passed there; defaults to all of those.
            ignore_keys: Not supported.
            metric_key_prefix: Prefix of the metrics.
            figures_dir: Folder to save the protocols' figures to; no figures are drawn if left out.

        Raises:
            ValueError: if there are no protocols.
        """
        check_parameters(ignore_keys=ignore_keys)
        self._memory_tracker.start()
        evaluators = choose_evaluators(eval_dataset, self.eval_dataset)
        with self.averaged_weights():
            metrics = run_protocols(self, evaluators, metric_key_prefix, figures_dir)
        self.log(metrics)
        self.control = self.callback_handler.on_evaluate(self.args, self.state, self.control, metrics)
        self._memory_tracker.stop_and_update_metrics(metrics)
        return metrics

    def predict(
        self, test_dataset: Dataset, ignore_keys: list[str] | None = None, metric_key_prefix: str = "test"
    ) -> PredictionOutput:
        """
        Embed the images of a dataset.

        Args:
            test_dataset (`datasets.Dataset`): Images in the column `image`.
            ignore_keys: Not supported.
            metric_key_prefix: Prefix of the metrics.

        Returns:
            `PredictionOutput`: `predictions`, the embeddings (images, embedding size); `label_ids`, the column `label`
            or None; `metrics`, the run time.

        Raises:
            ValueError: if it is not a dataset, such as a protocol, which `evaluate` runs.
        """
        check_parameters(ignore_keys=ignore_keys)
        with self.averaged_weights():
            output = embed_dataset(self, test_dataset, metric_key_prefix)
        self.control = self.callback_handler.on_predict(self.args, self.state, self.control, output.metrics)
        return output

    @property
    def evaluated_model(self) -> nn.Module:
        """The model to evaluate: the backbone, or the whole model if its weights are split."""
        if not splits_weights(self.accelerator):
            return self.model.backbone
        if not self.has_engine:  # which moves the model to the device
            self.model.to(self.args.device)  # type: ignore[arg-type]  # the wrapper hides what it takes
        return self.model_wrapped  # the parts of a split model cannot be called separately
