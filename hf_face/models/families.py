"""
Backbone families: a config and its model, available to transformers' Auto classes and to recipes.

Built-in families are found by their files, `configuration_<family>.py` and `modeling_<family>.py` in this folder. Your
own family can be defined anywhere:

    from hf_face.models import FaceConfig, FacePreTrainedModel, register_family

    @strict
    class TinyConfig(FaceConfig):
        model_type = "tiny"

    class TinyModel(FacePreTrainedModel):
        config_class = TinyConfig
        ...

    register_family(TinyConfig, TinyModel)
"""

import importlib
from collections.abc import Iterator
from pathlib import Path

from transformers import AutoConfig, AutoImageProcessor, AutoModel, PreTrainedConfig, PreTrainedModel
from transformers.models.auto.video_processing_auto import VIDEO_PROCESSOR_MAPPING

from ..registry import families, is_remote_code
from .configuration_face import FaceConfig
from .image_processing_face import FaceImageProcessor
from .modeling_face import FacePreTrainedModel

FAMILIES: dict[type[FaceConfig], type[FacePreTrainedModel]] = {}


def register_family(config_class: type[FaceConfig], model_class: type[FacePreTrainedModel]) -> None:
    """
    Register a backbone family with `AutoConfig`, `AutoModel`, `AutoImageProcessor` and `pipeline`, and make it
    available to recipes by its `model_type` (`backbone: {model_type: tiny}`). Its files are uploaded to the Hub with
    the weights.

    Args:
        config_class (`type[FaceConfig]`): The configuration, with its own `model_type` and `citations`.
        model_class (`type[FacePreTrainedModel]`): The model, with this `config_class`.

    Raises:
        ValueError: if the configuration has no `model_type`, its `model_type` is already used by transformers or
            another family, or the model has a different `config_class`.
    """
    if not config_class.model_type:
        raise ValueError(
            f"{config_class.__name__} has no model_type. Set it to the family's name in recipes and config.json."
        )
    if config_class.model_type in families and is_remote_code(config_class):
        return  # a copy that travels with published weights; the family itself is here
    families.register(config_class.model_type)(config_class)
    register_with_auto_classes(config_class, model_class)
    FAMILIES[config_class] = model_class


def register_with_auto_classes(config_class: type[PreTrainedConfig], model_class: type[PreTrainedModel]) -> None:
    """Register a model that takes images with `AutoConfig`, `AutoModel`, `AutoImageProcessor` and `pipeline`."""
    AutoConfig.register(config_class.model_type, config_class)
    AutoModel.register(config_class, model_class)
    AutoImageProcessor.register(config_class, image_processor_classes={"torchvision": FaceImageProcessor})
    # pipeline() also looks for a video processor and, unless the configuration is known to have none, asks the user
    # whether to trust remote code for it.
    VIDEO_PROCESSOR_MAPPING.register(config_class, {})  # type: ignore[arg-type]  # typed as other mappings are


def built_in_models() -> Iterator[tuple[type[PreTrainedConfig], type[PreTrainedModel]]]:
    for file in sorted(Path(__file__).parent.glob("configuration_*.py")):
        family = file.stem.removeprefix("configuration_")
        if family == "face":  # the base of all families
            continue
        configuration = importlib.import_module(f".configuration_{family}", __package__)
        modeling = importlib.import_module(f".modeling_{family}", __package__)
        (name,) = configuration.__all__
        yield getattr(configuration, name), getattr(modeling, name.removesuffix("Config") + "Model")


for _config_class, _model_class in built_in_models():
    if issubclass(_config_class, FaceConfig) and issubclass(_model_class, FacePreTrainedModel):
        register_family(_config_class, _model_class)
    else:  # finds faces rather than embedding them
        register_with_auto_classes(_config_class, _model_class)

__all__ = ["FAMILIES", "register_family"]
