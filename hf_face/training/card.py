"""Completing a model card with the data of a training run."""

import dataclasses
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch
from peft import PeftModel
from torch import nn
from transformers import PreTrainedModel

from ..evaluation import Evaluator
from ..hub.card_data import Evaluation, FaceModelCardData, TrainingData, read_emissions
from ..hub.measuring import cpu_name
from ..hub.model_card import is_repo_id
from ..registry import Entry, augmentations, methods, protocols
from .methods import TrainingMethod

Run = Any  # a FaceTrainer, whose module imports this one

# Test-time augmentation by the evaluator's `flip`.
AUGMENTATIONS = {
    "sum": "embeddings of the image and its flipped image summed",
    "concat": "embeddings of the image and its flipped image side by side",
}
# Training arguments in the card, unless they are None or empty.
SETTINGS = (
    "learning_rate",
    "head_learning_rate",
    "lr_scheduler_type",
    "lr_scheduler_kwargs",
    "lr_milestones",
    "warmup_steps",
    "num_train_epochs",
    "optim",
    "optim_args",
    "weight_decay",
    "head_weight_decay",
    "max_grad_norm",
    "per_device_train_batch_size",
    "gradient_accumulation_steps",
    "world_size",
    "ema_decay",
    "freeze_batch_norm",
    "bf16",
    "fp16",
    "tf32",
    "channels_last",
    "seed",
)
ADAM_SETTINGS = ("adam_beta1", "adam_beta2", "adam_epsilon")


@dataclasses.dataclass(frozen=True)
class Measurement:
    """
    The result of one protocol for the trainer's current weights.

    Args:
        evaluator (`Evaluator`): The protocol.
        metrics (`dict[str, float]`): Its metrics.
        figure (`Path`, *optional*): Its most important figure, if it was drawn.
    """

    evaluator: Evaluator
    metrics: dict[str, float]
    figure: Path | None = None

    def evaluation(self) -> Evaluation:
        """Convert to an evaluation for the card."""
        return Evaluation(
            self.evaluator.name,
            {key: float(value) for key, value in self.metrics.items()},
            note=AUGMENTATIONS.get(self.evaluator.flip),
            primary_metric=self.evaluator.primary_metric,
        )


def complete_card(card: FaceModelCardData, trainer: Run) -> FaceModelCardData:
    """
    Add the trainer's data to a card: settings, log, measurements of the current weights, and run time, hardware and
    emissions if all of the training ran in this process. The publisher's statements (licenses, data, description) are
    not changed.

    Args:
        card: The publisher's statements. The images of a single training set are counted if it has no counts.
        trainer (`FaceTrainer`): The trainer after training.
    """
    measured = trainer.publisher.measured.values()
    evaluators = [measurement.evaluator for measurement in measured]
    citations = training_citations(trainer.method, trainer.augment, trainer.model.head.sample_rate, evaluators)
    return dataclasses.replace(
        card,
        base_model=card.base_model or base_model(trainer.model.backbone),
        training_data=count_training_data(card, trainer),
        evaluations=[measurement.evaluation() for measurement in measured] + card.evaluations,
        hyperparameters=training_settings(trainer) | card.hyperparameters,
        log_history=trainer.state.log_history,
        figures=[str(each.figure) for each in measured if each.figure is not None] + card.figures,
        citations=card.citations + citations,
        **training_costs(card, trainer),
    )


def training_citations(
    method: TrainingMethod | None,
    augment: nn.Module | None,
    sample_rate: float | None,
    evaluators: Iterable[Evaluator] = (),
) -> list[str]:
    """Citations of a training besides backbone, margin and data: method, augmentations, protocols, Partial FC."""
    used = [methods.entry_of(method), *map(augmentations.entry_of, augment.modules() if augment else ())]
    used += [protocol_of(evaluator) for evaluator in evaluators]
    found = [bibtex for entry in used if entry is not None for bibtex in entry.citations]
    return found + (["partial_fc"] if sample_rate is not None and sample_rate < 1 else [])


def protocol_of(evaluator: Evaluator) -> Entry | None:
    """The registered protocol of an evaluator: by its name where one class has several, such as LFW and CFP-FP."""
    named = protocols.get(evaluator.name)
    return named if named is not None and named.target is type(evaluator) else protocols.entry_of(evaluator)


def base_model(backbone: nn.Module) -> str | None:
    """The Hub name that a backbone or its inner model was loaded from."""
    names = (module.name_or_path for module in backbone.modules() if isinstance(module, PreTrainedModel))
    return next((name for name in names if "/" in name and is_repo_id(name) and not Path(name).exists()), None)


def count_training_data(card: FaceModelCardData, trainer: Run) -> list[TrainingData]:
    """Count a single training set. The parts of several sets are only known to the publisher."""
    if len(card.training_data) != 1 or not hasattr(trainer.train_dataset, "__len__"):
        return card.training_data
    source = card.training_data[0]
    counts: dict[str, Any] = {"images": len(trainer.train_dataset), "identities": trainer.model.config.num_identities}
    return [dataclasses.replace(source, **{key: getattr(source, key) or value for key, value in counts.items()})]


def training_settings(trainer: Run) -> dict[str, Any]:
    """The settings of the current weights, by the names of their arguments."""
    args = trainer.args
    names = SETTINGS + (ADAM_SETTINGS if "adam" in args.optim else ())
    settings = {name: getattr(args, name) for name in names}
    settings = {
        name: getattr(value, "value", value) for name, value in settings.items() if value not in (None, "", [], {})
    }
    settings |= {"partial_fc_sample_rate": trainer.model.head.sample_rate}
    settings |= {"augmentation": trainer.augmentation, "steps": trainer.publisher.weights_step}
    if args.max_steps > 0:
        settings |= {"max_steps": args.max_steps}
        del settings["num_train_epochs"]
    if args.lr_milestones:
        del settings["lr_scheduler_type"]
    method = methods.entry_of(trainer.method)
    if method is not None and method.name != "margin_softmax":
        settings["method"] = method.name
    if isinstance(trainer.model.backbone, PeftModel):
        lora: Any = trainer.model.backbone.peft_config[trainer.model.backbone.active_adapter]
        targets = lora.target_modules  # a set of names, or a pattern
        targets = targets if isinstance(targets, str) else ", ".join(sorted(targets))
        settings["lora"] = f"r = {lora.r}, alpha = {lora.lora_alpha}, on {targets}"
    return settings


def training_costs(card: FaceModelCardData, trainer: Run) -> dict[str, Any]:
    """Run time, hardware and emissions, unless the training was resumed and only its last part is known."""
    runtimes = [entry["train_runtime"] for entry in trainer.state.log_history if "train_runtime" in entry]
    if not runtimes or trainer.publisher.started_at_step > 0:
        return {"train_runtime": card.train_runtime, "emissions_kg": card.emissions_kg}
    return {
        "train_runtime": runtimes[-1],
        "hardware": card.hardware or hardware_name(trainer.args.device, trainer.args.world_size),
        "emissions_kg": read_emissions(trainer.args.output_dir, since=trainer.publisher.started_at),
    }


def hardware_name(device: torch.device, world_size: int) -> str:
    name = {"cuda": torch.cuda.get_device_name, "cpu": lambda _: cpu_name()}.get(device.type, str)(device)
    return name if world_size == 1 else f"{world_size} x {name}"
