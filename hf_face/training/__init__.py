"""Training: its arguments, its Trainer, its methods."""

from typing import TYPE_CHECKING

from ..lazy import lazy_names

if TYPE_CHECKING:
    from .arguments import FaceTrainingArguments as FaceTrainingArguments
    from .divergence import TrainingDivergedError as TrainingDivergedError
    from .mean_centers import start_from_means as start_from_means
    from .methods import Distillation as Distillation
    from .methods import LVFace as LVFace
    from .methods import MarginSoftmax as MarginSoftmax
    from .methods import TextImageHeader as TextImageHeader
    from .methods import TrainingMethod as TrainingMethod
    from .methods import TransFace as TransFace
    from .methods import UniTSFace as UniTSFace
    from .methods import add_teacher_embeddings as add_teacher_embeddings
    from .resuming import find_checkpoint as find_checkpoint
    from .resuming import last_complete_checkpoint as last_complete_checkpoint
    from .stopping import TrainingInterrupted as TrainingInterrupted
    from .trainer import FaceTrainer as FaceTrainer
else:
    __getattr__, __dir__, __all__ = lazy_names(
        __name__,
        {
            "Distillation": "methods",
            "FaceTrainer": "trainer",
            "FaceTrainingArguments": "arguments",
            "LVFace": "methods",
            "MarginSoftmax": "methods",
            "TextImageHeader": "methods",
            "TrainingDivergedError": "divergence",
            "TrainingInterrupted": "stopping",
            "TrainingMethod": "methods",
            "TransFace": "methods",
            "UniTSFace": "methods",
            "add_teacher_embeddings": "methods",
            "find_checkpoint": "resuming",
            "last_complete_checkpoint": "resuming",
            "start_from_means": "mean_centers",
        },
    )
