"""
Face recognition, native to Hugging Face.

Importing the package registers every face model with transformers' Auto classes; everything else is loaded when it is
first asked for.
"""

import importlib

from . import models, recognition
from .models import *  # noqa: F403
from .recognition import *  # noqa: F403

__version__ = "0.1.0"

# Where each further public name lives. The modules are imported at first use: data, training and evaluation bring
# datasets, scikit-learn and matplotlib along, which nobody needs who only embeds faces.
_PUBLIC = {
    "convert": ["convert_checkpoint", "export_checkpoint"],
    "hub": ["push_to_hub"],
    "training": ["FaceTrainer", "FaceTrainingArguments"],
}
_HOME = {name: module for module, names in _PUBLIC.items() for name in names}
_SUBPACKAGES = ("convert", "data", "evaluation", "heads", "hub", "training")

__all__ = [*models.__all__, *recognition.__all__, *_HOME]


def _push_to_hub(model, repo_id: str, **kwargs):
    """Publish the model with its image processor, code and card: [`hf_face.hub.push_to_hub`], with its arguments."""
    return importlib.import_module(".hub", __name__).push_to_hub(model, repo_id, **kwargs)


# transformers' own sends weights alone. Set here, because the models' files travel to where there is no hf_face.
models.FacePreTrainedModel.push_to_hub = recognition.FaceRecognitionModel.push_to_hub = _push_to_hub


def __getattr__(name: str):
    if name in _SUBPACKAGES:
        return importlib.import_module(f".{name}", __name__)
    if name in _HOME:
        return getattr(importlib.import_module(f".{_HOME[name]}", __name__), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__():
    return sorted([*globals(), *_HOME, *_SUBPACKAGES])
