"""Training: its arguments, its Trainer."""

from .arguments import FaceTrainingArguments
from .resuming import last_complete_checkpoint
from .trainer import FaceTrainer

__all__ = ["FaceTrainer", "FaceTrainingArguments", "last_complete_checkpoint"]
