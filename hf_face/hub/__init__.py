"""Publishing models, datasets, metrics and Spaces with their cards on the Hub."""

from .card_data import (
    ARCFACE_ALIGNMENT,
    Evaluation,
    FaceModelCardData,
    TrainingData,
    evaluations_from_metrics,
    read_emissions,
)
from .datasets_and_metrics import push_dataset, push_metric, push_space
from .measuring import ModelMeasurements, measure_model
from .model_card import create_model_card
from .model_folder import write_model_card, write_model_folder
from .published import Published
from .publishing import push_to_hub

__all__ = [
    "ARCFACE_ALIGNMENT",
    "Evaluation",
    "FaceModelCardData",
    "ModelMeasurements",
    "Published",
    "TrainingData",
    "create_model_card",
    "evaluations_from_metrics",
    "measure_model",
    "push_dataset",
    "push_metric",
    "push_space",
    "push_to_hub",
    "read_emissions",
    "write_model_card",
    "write_model_folder",
]
