"""Training methods, which define the losses of a training step, one file each."""

import importlib
import pkgutil

from .base import TrainingMethod
from .distillation import Distillation, add_teacher_embeddings
from .margin_softmax import MarginSoftmax
from .text_image_header import TextImageHeader
from .transface import TransFace

for _module in pkgutil.iter_modules(__path__, f"{__name__}."):  # each module registers its methods
    importlib.import_module(_module.name)

__all__ = ["Distillation", "MarginSoftmax", "TextImageHeader", "TrainingMethod", "TransFace", "add_teacher_embeddings"]
