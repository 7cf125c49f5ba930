"""Training: arguments, Trainer and methods."""

from .arguments import FaceTrainingArguments
from .methods import MarginSoftmax, TrainingMethod
from .resuming import find_checkpoint, last_complete_checkpoint
from .trainer import FaceTrainer

__all__ = [
    "FaceTrainer",
    "FaceTrainingArguments",
    "MarginSoftmax",
    "TrainingMethod",
    "find_checkpoint",
    "last_complete_checkpoint",
]
