"""
Face recognition, native to Hugging Face.

Importing the package makes every face model known to transformers' Auto classes; everything is loaded when it is first
asked for.
"""

import functools
import importlib
from typing import TYPE_CHECKING

from . import models, recognition
from .auto_classes import register_at_first_look, register_pipelines_at_first_look
from .lazy import after_import, lazy_names

__version__ = "0.1.0"

if TYPE_CHECKING:
    from transformers import PreTrainedConfig, PreTrainedModel

    from . import convert, data, embedding, evaluation, heads, hub, pipelines, registry, training
    from .convert import convert_checkpoint as convert_checkpoint
    from .convert import export_checkpoint as export_checkpoint
    from .hub import push_to_hub as push_to_hub
    from .models import *
    from .pipelines import FaceGallery as FaceGallery
    from .recognition import *
    from .training import FaceTrainer as FaceTrainer
    from .training import FaceTrainingArguments as FaceTrainingArguments
else:
    __getattr__, __dir__, __all__ = lazy_names(
        __name__,
        {
            **dict.fromkeys(models.__all__, "models"),
            **dict.fromkeys(recognition.__all__, "recognition"),
            "convert_checkpoint": "convert",
            "export_checkpoint": "convert",
            "push_to_hub": "hub",
            "FaceGallery": "pipelines",
            "FaceTrainer": "training",
            "FaceTrainingArguments": "training",
        },
    )


def _push_to_hub(model, repo_id: str, **kwargs):
    """Publish the model with its image processor, code and card: [`hf_face.hub.push_to_hub`], with its arguments."""
    return importlib.import_module(".hub", __name__).push_to_hub(model, repo_id, **kwargs)


def _save_and_push(save):
    """A class's `save_pretrained` that publishes, with `push_to_hub=True`, as `push_to_hub` does."""

    @functools.wraps(save)
    def save_pretrained(self, save_directory, is_main_process=True, state_dict=None, push_to_hub=False, **kwargs):
        kwargs |= {"is_main_process": is_main_process, "state_dict": state_dict}
        if not push_to_hub or not is_main_process:
            save(self, save_directory, **kwargs)
        else:
            importlib.import_module(".hub.publishing", __name__).save_and_push(save, self, save_directory, **kwargs)

    return save_pretrained


def _publish_with_card(model_class: "type[PreTrainedModel]") -> None:
    # transformers' own send weights alone. Set here, because the models' files travel to where there is no hf_face.
    model_class.push_to_hub = _push_to_hub  # type: ignore[assignment]
    model_class.save_pretrained = _save_and_push(model_class.save_pretrained)  # type: ignore[method-assign]


def _ask_no_trust_for_pipelines(config_class: "type[PreTrainedConfig]") -> None:
    """
    Hide from `pipeline` that a model has code of its own for our tasks, which it would ask to trust: they are here. It
    stays in the configuration's file, for where hf_face is not installed.
    """

    def others(self) -> dict:
        tasks = self.__dict__.get("custom_pipelines", {})
        return {task: code for task, code in tasks.items() if not task.startswith("face-")}

    def keep(self, tasks: dict) -> None:
        self.__dict__["custom_pipelines"] = tasks

    config_class.custom_pipelines = property(others, keep)  # type: ignore[attr-defined]


register_at_first_look("hf_face.models.families", "hf_face.recognition.modeling_face_recognition")
register_pipelines_at_first_look("hf_face.pipelines.tasks")
after_import("hf_face.models.configuration_face", lambda module: _ask_no_trust_for_pipelines(module.FaceConfig))
after_import("hf_face.models.modeling_face", lambda module: _publish_with_card(module.FacePreTrainedModel))
after_import(
    "hf_face.recognition.modeling_face_recognition", lambda module: _publish_with_card(module.FaceRecognitionModel)
)
