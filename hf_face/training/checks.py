"""Checks of the trainer's arguments."""

from collections.abc import Sequence

from datasets import Dataset

from ..data import VerificationPairs, check_identities
from ..evaluation import Evaluator, VerificationEvaluator
from ..evaluation.protocols import check_names
from ..recognition import FaceRecognitionModel
from .arguments import FaceTrainingArguments

Protocols = VerificationPairs | Evaluator | Sequence[VerificationPairs | Evaluator]


def as_evaluators(protocols: Protocols | None) -> list[Evaluator] | None:
    """
    Convert protocols to a list of evaluators, using [`VerificationEvaluator`] for pairs.

    Raises:
        ValueError: if two of them have the same name, and would log the same metrics.
    """
    if protocols is None:
        return None
    if isinstance(protocols, VerificationPairs | Evaluator):
        protocols = [protocols]
    evaluators = [VerificationEvaluator(each) if isinstance(each, VerificationPairs) else each for each in protocols]
    check_names(evaluators)
    return evaluators


def choose_best_model_metric(args: FaceTrainingArguments, evaluators: list[Evaluator] | None) -> None:
    """Use the first protocol's primary metric instead of the loss, transformers' default, which no protocol has."""
    if evaluators and args.metric_for_best_model == "loss":
        first = evaluators[0]
        args.metric_for_best_model = f"eval_{first.name}_{first.primary_metric}"
        args.greater_is_better = first.greater_is_better


def check_training_data(dataset: Dataset, model: FaceRecognitionModel, args: FaceTrainingArguments) -> None:
    """
    Raises:
        ValueError: if labels do not fit the head, an identity has no images, or there are fewer images than in a batch.
    """
    check_identities(dataset, "the training data", min_identities=2)
    identities = dataset.features["label"].num_classes
    if identities > model.config.num_identities:
        raise ValueError(
            f"The training data has {identities} identities, but the model's head has {model.config.num_identities}: "
            f"build the model with num_identities={identities}."
        )
    batch_size = args.train_batch_size * args.world_size
    if args.dataloader_drop_last and len(dataset) < batch_size:
        raise ValueError(
            f"The training data has {len(dataset)} images, fewer than one batch of {batch_size}: choose a smaller "
            "per_device_train_batch_size."
        )
