"""Checks of the trainer's model and data."""

from typing import Any

from datasets import Dataset, IterableDataset
from torch import nn

from ..data import check_identities
from ..data.identities import as_identities
from ..recognition import FaceRecognitionModel
from .arguments import FaceTrainingArguments
from .streaming import check_stream_settings

TRAINING_DATA = "the training data"


def check_model(model: nn.Module, train_dataset: Any) -> FaceRecognitionModel:
    """
    Return the model, if the trainer can train it.

    Raises:
        ValueError: if the model has no margin head, such as a backbone alone.
    """
    if isinstance(model, FaceRecognitionModel):
        return model
    known = isinstance(train_dataset, Dataset) and hasattr(train_dataset.features.get("label"), "num_classes")
    number = train_dataset.features["label"].num_classes if known else "..."
    raise ValueError(
        f"FaceTrainer trains a FaceRecognitionModel, a backbone with a margin head, found {type(model).__name__}: pass "
        f"FaceRecognitionModel.from_backbone(backbone, num_identities={number})."
    )


def check_model_source(model: Any, model_init: Any, optimizers: tuple | None) -> None:
    """
    Raises:
        ValueError: unless there is one of `model` and `model_init`, or if optimizers hold weights of another model.
    """
    if (model is None) == (model_init is None):
        raise ValueError("FaceTrainer requires either model= or model_init=, which creates one, and not both.")
    if model_init is not None and optimizers not in (None, (None, None)):
        raise ValueError("optimizers= hold the weights of one model: with model_init=, use optimizer_cls_and_kwargs=.")


def as_training_data(dataset: Any, model: FaceRecognitionModel, args: FaceTrainingArguments) -> Any:
    """
    Convert a dataset, streamed or not, to the columns `image` and `label`, as `load_identities` does, and check it.

    Raises:
        ValueError: if it has several splits, a column is missing, or it does not fit the model or the settings.
    """
    if isinstance(dataset, dict):
        raise ValueError(
            f"train_dataset has the splits {', '.join(map(str, dataset))}: pass one of them, such as "
            f"dataset[{next(iter(dataset), 'train')!r}]."
        )
    if isinstance(dataset, IterableDataset):
        check_stream_settings(args)
        return as_identities(dataset, TRAINING_DATA)
    if isinstance(dataset, Dataset):
        dataset = as_identities(dataset, TRAINING_DATA)
        check_training_data(dataset, model, args)
    return dataset


def check_training_data(dataset: Dataset, model: FaceRecognitionModel, args: FaceTrainingArguments) -> None:
    """
    Raises:
        ValueError: if labels do not fit the head, an identity has no images, there are fewer images than in a batch, or
            the last batch has one image, which batch norm cannot train on.
    """
    check_identities(dataset, TRAINING_DATA, min_identities=2)
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
    last = 0 if args.dataloader_drop_last or args.world_size > 1 else len(dataset) % batch_size  # ranks fill theirs
    if (last == 1 or batch_size == 1) and any(isinstance(module, nn.BatchNorm1d) for module in model.modules()):
        raise ValueError(
            f"With {len(dataset)} images, per_device_train_batch_size={args.per_device_train_batch_size} makes a batch "
            "of one image, which batch norm cannot train on: set dataloader_drop_last=True, or another batch size."
        )
