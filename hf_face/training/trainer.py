"""The Trainer for margin losses over face embeddings."""

import copy
import math
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from datasets import Dataset, IterableDataset
from peft import PeftModel
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn
from transformers import PreTrainedModel, Trainer, TrainerCallback, TrainerState
from transformers.trainer import TRAINER_STATE_NAME
from transformers.trainer_utils import TrainOutput, speed_metrics
from transformers.utils import logging

from ..data import BatchNormalize, FaceCollator, FaceDataset, VerificationPairs, build_augmentation, check_identities
from ..evaluation import Embedder, Evaluator, VerificationEvaluator
from ..heads import clip_grad_norm_, load_head, load_head_optimizer, save_head, step_sampled_rows_only
from ..heads.head_files import INDEX_NAME as HEAD_INDEX_NAME
from ..heads.head_files import keep_own_rows
from ..hub import FaceModelCardData
from ..models import FaceImageProcessor
from ..recognition import FaceRecognitionModel
from .arguments import FaceTrainingArguments
from .engines import EnginesMixin
from .publishing import PublishingMixin, check_card
from .streaming import StreamingMixin

logger = logging.get_logger(__name__)

RAW_BACKBONE_FILE = "raw_backbone.safetensors"


class FaceTrainer(PublishingMixin, StreamingMixin, EnginesMixin, Trainer):
    """
    transformers' `Trainer` for a [`FaceRecognitionModel`]: batches travel as uint8 and are augmented and normalized on
    the device, the class centers have a learning rate of their own, evaluation is face verification.

    Args:
        model ([`FaceRecognitionModel`]):
            Backbone and margin head.
        args ([`FaceTrainingArguments`]):
            Settings of the run.
        train_dataset (`datasets.Dataset` or `datasets.IterableDataset`):
            Identity data: columns `image` and `label`. A stream is read pass after pass, whole (every rank and worker
            takes its own part) and in full batches; `shuffle` it with a seed.
        eval_dataset ([`VerificationPairs`], [`Evaluator`], or a sequence of these, *optional*):
            Protocols that evaluation runs. Their metrics come as `eval_<name>_accuracy` and so on; any of them can be
            `metric_for_best_model`.
        image_processor ([`FaceImageProcessor`], *optional*):
            Size and normalization of the crops, saved with the model. The default is the backbone's `preprocessing`.
        augmentation (`str` or list, *optional*, defaults to `"flip"`):
            What is done to the crops in training, see [`hf_face.data.build_augmentation`]; None for nothing.
        on_bad_image (`str`, *optional*, defaults to `"raise"`):
            `"skip"` to go on, with a warning, when an image cannot be decoded.
        card ([`FaceModelCardData`], *optional*):
            What the model's publisher states: licenses, data, description. The rest of the card is what was measured.
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

    def __init__(
        self,
        model: FaceRecognitionModel,
        args: FaceTrainingArguments,
        train_dataset: Dataset | IterableDataset | None = None,
        eval_dataset: VerificationPairs | Evaluator | Sequence[VerificationPairs | Evaluator] | None = None,
        image_processor: FaceImageProcessor | None = None,
        augmentation: str | Sequence | None = "flip",
        on_bad_image: str = "raise",
        card: FaceModelCardData | None = None,
        **kwargs,
    ):
        if args.push_to_hub:
            check_card(card)
        self.card, self.augmentation = card, augmentation
        self.weights_changed(step=0)
        image_processor = image_processor or FaceImageProcessor(**model.config.backbone_config.preprocessing)
        if isinstance(train_dataset, Dataset):
            _check_training_data(train_dataset, model, args)
        model.head.sample_rate = args.partial_fc_sample_rate
        if args.head_group is not None:
            if model.head.group is None:
                model.head.shard(args.head_group)  # before the model goes to a device, which may not hold all of it
            model._ddp_params_and_buffers_to_ignore = ["head.weight"]
        super().__init__(
            model=model,
            args=args,
            data_collator=FaceCollator(image_processor.size["height"], model.config.num_identities, on_bad_image),
            train_dataset=FaceDataset(train_dataset) if isinstance(train_dataset, Dataset) else train_dataset,
            eval_dataset=_as_evaluators(eval_dataset),
            processing_class=image_processor,
            **kwargs,
        )
        self.augment = build_augmentation(augmentation, image_processor.size["height"]) if augmentation else None
        self.normalize = BatchNormalize(
            image_processor.image_mean, image_processor.image_std, image_processor.channel_order
        ).to(args.device)
        self._last_draw = (-1, 0)  # step and batch within it
        self._observed: list[Tensor] = []
        if args.channels_last:
            model.to(memory_format=torch.channels_last)
        self.add_callback(_TrainerSteps(self))
        self.ema = None
        if args.ema_decay is not None:
            self.ema = AveragedModel(
                model.backbone, multi_avg_fn=get_ema_multi_avg_fn(args.ema_decay), use_buffers=True
            )

    def train(self, resume_from_checkpoint: str | bool | None = None, **kwargs) -> TrainOutput:
        """As `Trainer.train`; but a checkpoint of the run's last step is loaded, where `Trainer` would add a step."""
        if isinstance(resume_from_checkpoint, str):
            state = TrainerState.load_from_json(Path(resume_from_checkpoint, TRAINER_STATE_NAME))
            last_step = self.args.max_steps
            if last_step <= 0:
                last_step = math.ceil(state.global_step * self.args.num_train_epochs / state.epoch)
            if state.global_step >= last_step:
                self._load_from_checkpoint(resume_from_checkpoint)
                self.state = state
                self.weights_changed(state.global_step)
                return TrainOutput(state.global_step, math.nan, {})
        return super().train(resume_from_checkpoint=resume_from_checkpoint, **kwargs)

    # Batches

    def _prepare_inputs(self, inputs: dict[str, Tensor]) -> dict[str, Tensor]:
        inputs = super()._prepare_inputs(inputs)
        pixels = inputs["pixel_values"].contiguous()  # planes, of which augmentation is faster
        if self.augment is not None and self.model.training:
            pixels = self.augment(pixels, self._generator())
        pixels = self.normalize(pixels)
        if self.args.channels_last:
            pixels = pixels.contiguous(memory_format=torch.channels_last)
        return {**inputs, "pixel_values": pixels}

    def _generator(self) -> torch.Generator:
        """Draws that depend on seed, step, batch within the step and rank alone, so that a resumed run repeats them."""
        step, batch = self.state.global_step, 0
        if self._last_draw[0] == step:
            batch = self._last_draw[1] + 1
        self._last_draw = (step, batch)
        numbers = (self.args.seed, step, batch, self.args.process_index)
        return torch.Generator().manual_seed(int(np.random.SeedSequence(numbers).generate_state(1, np.uint64)[0]))

    # Loss

    def compute_loss(self, model, inputs, return_outputs: bool = False, num_items_in_batch=None):
        with self.accelerator.autocast():  # which accelerate leaves out under FSDP
            outputs = model(**inputs)
        with torch.no_grad():
            self._observed.append(torch.stack([outputs.norm.mean(), outputs.target_cosine.mean()]).float())
        return (outputs.loss, outputs) if return_outputs else outputs.loss

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        if "loss" in logs and self._observed:
            observed = self.accelerator.reduce(torch.stack(self._observed).mean(0), "mean")
            logs["embedding_norm"], logs["target_cosine"] = observed.tolist()
            self._observed.clear()
        super().log(logs, start_time)

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
            self._split_off_head(self.model if model is None else model)
            if self.args.partial_fc_sample_rate < 1:
                step_sampled_rows_only(self.optimizer)
        return self.optimizer

    def _split_off_head(self, model: nn.Module) -> None:
        """Gives the class centers parameter groups of their own, with their own learning rate and weight decay."""
        head = {id(p) for p in self.accelerator.unwrap_model(model, keep_torch_compile=False).head.parameters()}
        own = {
            "lr": self.args.head_learning_rate,
            "weight_decay": self.args.head_weight_decay,
        }
        own = {name: value for name, value in own.items() if value is not None}
        for group in list(self.optimizer.param_groups):
            mine = [parameter for parameter in group["params"] if id(parameter) in head]
            if mine:
                group["params"] = [parameter for parameter in group["params"] if id(parameter) not in head]
                self.optimizer.add_param_group({**group, "params": mine, **own})

    def _clip_grad_norm(self, model: nn.Module, max_norm: float | None = None):
        head = self.model.head
        if head.group is None and head.sample_rate == 1:
            return super()._clip_grad_norm(model)
        self.accelerator.unscale_gradients()
        shard = head.weight if head.group is not None else None
        return clip_grad_norm_(model.parameters(), max_norm or self.args.max_grad_norm, shard, head.group)

    def _get_grad_norm(self, model: nn.Module, grad_norm=None):
        if grad_norm is None and (self.model.head.group is not None or self.model.head.sample_rate < 1):
            grad_norm = self._clip_grad_norm(model, float("inf"))
        return super()._get_grad_norm(model, grad_norm)

    # Evaluation

    def evaluate(
        self,
        eval_dataset: VerificationPairs | Evaluator | Sequence[VerificationPairs | Evaluator] | None = None,
        ignore_keys: list[str] | None = None,
        metric_key_prefix: str = "eval",
        figures_dir: str | Path | None = None,
    ) -> dict[str, float]:
        """
        Run the protocols; images that several of them share are embedded once.

        Args:
            eval_dataset: as in the constructor, whose protocols are the default.
            ignore_keys: not used; `Trainer` passes it.
            metric_key_prefix: first part of every metric's name.
            figures_dir: where to draw the protocols' figures; none are drawn if left out.

        Raises:
            ValueError: when there is no protocol to run.
        """
        evaluators = self.eval_dataset if eval_dataset is None else _as_evaluators(eval_dataset)
        if not evaluators:
            raise ValueError("There is nothing to evaluate on: pass verification pairs as eval_dataset.")
        start_time = time.time()
        self.share_buffers()
        embedder = Embedder(
            self.evaluated_model,
            self.processing_class,
            batch_size=self.args.per_device_eval_batch_size,
            flip=any(evaluator.needs_flip for evaluator in evaluators),
            dtype={"bf16": torch.bfloat16, "fp16": torch.float16}.get(self.accelerator.mixed_precision),
            num_workers=self.args.dataloader_num_workers,
            progress=not self.args.disable_tqdm,
        )
        metrics = {}
        for evaluator in evaluators:
            found = evaluator.evaluate(embedder, figures_dir)
            self.remember(evaluator, found, figures_dir)
            metrics |= found
        metrics = {f"{metric_key_prefix}_{name}": value for name, value in metrics.items()}
        metrics |= speed_metrics(metric_key_prefix, start_time)
        self.log(metrics)
        self.control = self.callback_handler.on_evaluate(self.args, self.state, self.control, metrics)
        return metrics

    @property
    def backbone(self) -> PreTrainedModel:
        """The backbone as it is to be published: averaged when `ema_decay` is set, with LoRA adapters merged."""
        if self.ema is not None:
            backbone = self.ema.module
        else:
            backbone = self.accelerator.unwrap_model(self.model, keep_torch_compile=False).backbone
        return copy.deepcopy(backbone).merge_and_unload() if isinstance(backbone, PeftModel) else backbone

    # Saving and resuming

    def save_model(self, output_dir: str | None = None, _internal_call: bool = False) -> None:
        """
        Save the backbone and its image processor, to be loaded with `AutoModel.from_pretrained(output_dir)`.

        Checkpoints hold the training model instead, margin head included.
        """
        if _internal_call:
            super().save_model(output_dir, _internal_call=True)
            if self.model.head.group is not None:  # each rank has a part of it to write, and gets here
                save_head(self.model.head, output_dir, None if self.args.save_only_model else self.optimizer)
            return
        output_dir = output_dir or self.args.output_dir
        state_dict = self.whole_state_dict("backbone") if self.splits_weights else None
        if self.args.should_save:
            self.backbone.save_pretrained(output_dir, state_dict=state_dict)
            self.processing_class.save_pretrained(output_dir)

    def _save(self, output_dir: str | None = None, state_dict: dict | None = None) -> None:
        if self.ema is not None:
            averaged = {f"backbone.{name}": weight for name, weight in self.ema.module.state_dict().items()}
            state_dict = {**self.model.state_dict(), **averaged}
        super()._save(output_dir, state_dict)

    def _save_optimizer_and_scheduler(self, output_dir: str) -> None:
        head = self.model.head
        of_shard = None if head.group is None else self.optimizer.state.pop(head.weight, None)  # save_head has it
        super()._save_optimizer_and_scheduler(output_dir)
        if of_shard is not None:
            self.optimizer.state[head.weight] = of_shard
        if self.ema is not None and self.args.should_save:
            save_file(self.model.backbone.state_dict(), Path(output_dir, RAW_BACKBONE_FILE))

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: nn.Module | None = None) -> None:
        super()._load_from_checkpoint(resume_from_checkpoint, model)
        if Path(resume_from_checkpoint, HEAD_INDEX_NAME).exists():
            load_head(self.model.head, resume_from_checkpoint)
        if self.ema is not None:
            self.ema.update_parameters(self.model.backbone)  # the first update copies
            self.model.backbone.load_state_dict(load_file(Path(resume_from_checkpoint, RAW_BACKBONE_FILE)))

    def _load_optimizer_and_scheduler(self, checkpoint: str | None) -> None:
        super()._load_optimizer_and_scheduler(checkpoint)
        if checkpoint is not None and Path(checkpoint, HEAD_INDEX_NAME).exists():
            load_head_optimizer(self.model.head, checkpoint, self.optimizer)
        elif checkpoint is not None and self.model.head.group is not None:
            keep_own_rows(self.model.head, self.optimizer)

    def _load_best_model(self) -> None:
        super()._load_best_model()
        self.weights_changed(self.state.best_global_step)
        if Path(self.state.best_model_checkpoint, HEAD_INDEX_NAME).exists():
            load_head(self.model.head, self.state.best_model_checkpoint)
        if self.ema is not None:
            self.ema.module.load_state_dict(self.model.backbone.state_dict())

    def _save_rng_state(self, output_dir: str) -> None:
        super()._save_rng_state(output_dir)
        # trainer_state.json comes next and says that a checkpoint is complete: no rank may still be writing then.
        self.accelerator.wait_for_everyone()


class _TrainerSteps(TrainerCallback):
    """What the trainer does besides, at steps that `Trainer` has callbacks for."""

    def __init__(self, trainer: FaceTrainer):
        self.trainer = trainer

    def on_train_begin(self, args, state, control, **kwargs):
        self.trainer.training_starts(state.global_step)

    def on_step_end(self, args, state, control, **kwargs):
        self.trainer.weights_changed(state.global_step)
        if self.trainer.ema is not None:
            self.trainer.ema.update_parameters(self.trainer.model.backbone)

    def on_train_end(self, args, state, control, **kwargs):
        if skipped := self.trainer.data_collator.num_skipped:
            logger.warning(f"{skipped} times an image could not be decoded and another took its place (see above).")


def _as_evaluators(protocols) -> list[Evaluator] | None:
    if protocols is None:
        return None
    if isinstance(protocols, VerificationPairs | Evaluator):
        protocols = [protocols]
    return [VerificationEvaluator(each) if isinstance(each, VerificationPairs) else each for each in protocols]


def _check_training_data(dataset: Dataset, model: FaceRecognitionModel, args: FaceTrainingArguments) -> None:
    check_identities(dataset, "the training data", min_identities=2)
    identities = dataset.features["label"].num_classes
    if identities > model.config.num_identities:
        raise ValueError(
            f"The training data has {identities} identities, the model's head {model.config.num_identities}: build it "
            f"with num_identities={identities}."
        )
    batch_size = args.train_batch_size * args.world_size
    if args.dataloader_drop_last and len(dataset) < batch_size:
        raise ValueError(
            f"The training data has {len(dataset)} images, fewer than one batch of {batch_size}: choose a smaller "
            "per_device_train_batch_size."
        )
