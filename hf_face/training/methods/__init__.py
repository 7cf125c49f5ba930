"""Training methods, one file each: what a training step minimizes."""

import importlib
import pkgutil

from .base import TrainingMethod
from .margin_softmax import MarginSoftmax

for _module in pkgutil.iter_modules(__path__, f"{__name__}."):  # each registers the methods that it holds
    importlib.import_module(_module.name)

__all__ = ["MarginSoftmax", "TrainingMethod"]
