"""Training methods, which define the losses of a training step, one file each."""

import importlib
import pkgutil

from .base import TrainingMethod
from .distillation import Distillation, add_teacher_embeddings
from .lvface import LVFace
from .margin_softmax import MarginSoftmax
from .text_image_header import TextImageHeader
from .transface import TransFace
from .unitsface import UniTSFace

for _module in pkgutil.iter_modules(__path__, f"{__name__}."):  # each module registers its methods
    importlib.import_module(_module.name)

__all__ = [
    "Distillation",
    "LVFace",
    "MarginSoftmax",
    "TextImageHeader",
    "TrainingMethod",
    "TransFace",
    "UniTSFace",
    "add_teacher_embeddings",
]
