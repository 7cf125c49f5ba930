"""Configuration of face models whose backbone is a timm model."""

from typing import Any

from huggingface_hub.dataclasses import strict

from .configuration_face import FaceConfig


@strict
class TimmFaceConfig(FaceConfig):
    r"""
    Any timm model as a face backbone: its classifier, widened to `embedding_size` outputs, gives the embedding
    (as in gau-nernst/timm-face).

    Args:
        architecture (`str`, *optional*, defaults to `"vit_tiny_patch16_224"`):
            Name that `timm.create_model` knows.
        model_args (`dict[str, Any]`, *optional*):
            Further arguments of `timm.create_model`, such as `{"img_size": 112, "patch_size": 8}` for a vision
            transformer or `{"patch_size": 2}` for a ConvNeXt.
        reduce_first_conv_stride (`bool`, *optional*, defaults to `False`):
            Halve the stride of the first convolution. Nets made for 224-pixel images keep twice the resolution on
            112-pixel crops that way.

    Example:
    ```python
    >>> from hf_face import TimmFaceConfig, TimmFaceModel

    >>> config = TimmFaceConfig(architecture="vit_tiny_patch16_224", model_args={"img_size": 112, "patch_size": 8})
    >>> model = TimmFaceModel(config)
    ```
    """

    model_type = "timm_face"

    architecture: str = "vit_tiny_patch16_224"
    model_args: dict[str, Any] | None = None
    reduce_first_conv_stride: bool = False

    @classmethod
    def get_config_dict(cls, pretrained_model_name_or_path, **kwargs):
        config_dict, kwargs = super().get_config_dict(pretrained_model_name_or_path, **kwargs)
        if is_timm_config(config_dict):
            config_dict = translate_timm_config(config_dict)
        return config_dict, kwargs


def is_timm_config(config: dict[str, Any]) -> bool:
    """Whether timm wrote this `config.json`; older versions of it put into one mapping what is now nested."""
    return "architecture" in config and "input_size" in config.get("pretrained_cfg", config)


def translate_timm_config(timm_config: dict[str, Any]) -> dict[str, Any]:
    """Our settings from the `config.json` that timm writes (`architecture`, `model_args`, `pretrained_cfg`)."""
    pretrained_cfg = timm_config.get("pretrained_cfg", timm_config)
    channels, _, image_size = pretrained_cfg["input_size"]
    num_classes = timm_config.get("num_classes", pretrained_cfg.get("num_classes"))
    model_args = dict(timm_config.get("model_args") or {})  # newer files hold the two counts here as well
    return {
        "model_type": TimmFaceConfig.model_type,
        "architecture": timm_config["architecture"],
        "embedding_size": model_args.pop("num_classes", num_classes),
        "num_channels": model_args.pop("in_chans", channels),
        "image_size": image_size,
        "model_args": model_args,
    }


__all__ = ["TimmFaceConfig"]
