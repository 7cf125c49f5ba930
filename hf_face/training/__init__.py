"""Training: its arguments, its Trainer."""

from .arguments import FaceTrainingArguments
from .trainer import FaceTrainer, last_complete_checkpoint

__all__ = ["FaceTrainer", "FaceTrainingArguments", "last_complete_checkpoint"]
