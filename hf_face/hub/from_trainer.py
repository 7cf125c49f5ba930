"""What a training run adds to the card of its model."""

import dataclasses
from pathlib import Path

import torch
from transformers import Trainer
from transformers.modelcard import extract_hyperparameters_from_trainer

from .card_data import FaceModelCardData, evaluations_from_metrics, read_emissions
from .measuring import cpu_name

# What an embedding is made of when faces are compared, by the evaluator's `flip`.
AUGMENTATIONS = {
    "sum": "embeddings of the image and its mirror image summed",
    "concat": "embeddings of the image and its mirror image side by side",
}


def complete_card(card: FaceModelCardData, trainer: Trainer) -> FaceModelCardData:
    """
    The card with everything the trainer saw: settings, log, run time, hardware, the figures of the last evaluation, and
    emissions where codecarbon ran. What the publisher states (licences, data, description) stays as it is.

    Args:
        card: What the publisher states. A single training set without counts is counted.
        trainer: After training; its `eval_dataset` are evaluators, and their figures lie in `<output_dir>/figures`.
    """
    log = trainer.state.log_history
    last_evaluation = next((entry for entry in reversed(log) if any(key.startswith("eval_") for key in entry)), {})
    evaluators = {evaluator.name: evaluator for evaluator in trainer.eval_dataset or []}
    measured = evaluations_from_metrics(last_evaluation, {name: name for name in evaluators})
    for evaluation in measured:
        evaluation.note = AUGMENTATIONS.get(getattr(evaluators[evaluation.name], "flip", None))
    return dataclasses.replace(
        card,
        training_data=count_training_data(card, trainer),
        evaluations=measured + card.evaluations,
        hyperparameters=extract_hyperparameters_from_trainer(trainer) | card.hyperparameters,
        log_history=log,
        figures=[str(path) for path in sorted(Path(trainer.args.output_dir, "figures").glob("*_roc.png"))]
        + card.figures,
        train_runtime=next((entry["train_runtime"] for entry in reversed(log) if "train_runtime" in entry), None),
        hardware=card.hardware or hardware_name(trainer.args.world_size),
        emissions_kg=read_emissions(trainer.args.output_dir),
    )


def count_training_data(card: FaceModelCardData, trainer: Trainer) -> list:
    """A single training set is counted; of several only their publisher knows which image came from where."""
    if len(card.training_data) != 1 or not hasattr(trainer.train_dataset, "__len__"):
        return card.training_data
    source = card.training_data[0]
    counts = {"images": len(trainer.train_dataset), "identities": trainer.model.config.num_identities}
    return [dataclasses.replace(source, **{key: getattr(source, key) or value for key, value in counts.items()})]


def hardware_name(world_size: int) -> str:
    device = torch.cuda.get_device_name() if torch.cuda.is_available() else cpu_name()
    return device if world_size == 1 else f"{world_size} x {device}"
