"""Configuration of face models with a timm model as backbone."""

from typing import Any

from huggingface_hub.dataclasses import strict

from .configuration_face import FaceConfig

TIMM = """
@misc{timm,
  title = {PyTorch Image Models},
  author = {Wightman, Ross},
  year = {2019},
  publisher = {GitHub},
  doi = {10.5281/zenodo.4414861},
  url = {https://github.com/huggingface/pytorch-image-models}
}
"""


@strict
class TimmFaceConfig(FaceConfig):
    r"""
    Configuration of a face backbone built on any timm model: its classifier, resized to `embedding_size` outputs,
    computes the embedding (as in gau-nernst/timm-face).

    Args:
        architecture (`str`, *optional*, defaults to `"vit_tiny_patch16_224"`):
            Model name as in `timm.create_model`.
        model_args (`dict[str, Any]`, *optional*):
            Additional arguments of `timm.create_model`, such as `{"img_size": 112, "patch_size": 8}` for a vision
            transformer or `{"patch_size": 2}` for a ConvNeXt.
        reduce_first_conv_stride (`bool`, *optional*, defaults to `False`):
            Whether to halve the stride of the first convolution, so that networks designed for 224-pixel images keep
            their feature map size on 112-pixel crops.
        low_rank_ratio (`float`, *optional*):
            Replace each linear layer by two of a lower rank, this ratio of its smaller side, as EdgeFace does (George
            et al. 2024). A layer that timm calls `head` is left out.

    Example:
    ```python
    >>> from hf_face import TimmFaceConfig, TimmFaceModel

    >>> config = TimmFaceConfig(architecture="vit_tiny_patch16_224", model_args={"img_size": 112, "patch_size": 8})
    >>> model = TimmFaceModel(config)
    ```
    """

    model_type = "timm_face"
    citations = (TIMM,)

    architecture: str = "vit_tiny_patch16_224"
    model_args: dict[str, Any] | None = None
    reduce_first_conv_stride: bool = False
    low_rank_ratio: float | None = None

    @classmethod
    def get_config_dict(cls, pretrained_model_name_or_path, **kwargs):
        config_dict, kwargs = super().get_config_dict(pretrained_model_name_or_path, **kwargs)
        if is_timm_config(config_dict):
            config_dict = translate_timm_config(config_dict)
        return config_dict, kwargs


def is_timm_config(config: dict[str, Any]) -> bool:
    """Whether timm wrote this `config.json`; older timm versions did not nest `pretrained_cfg`."""
    return "architecture" in config and "input_size" in config.get("pretrained_cfg", config)


def translate_timm_config(timm_config: dict[str, Any]) -> dict[str, Any]:
    """Convert a `config.json` written by timm (`architecture`, `model_args`, `pretrained_cfg`) to our settings."""
    pretrained_cfg = timm_config.get("pretrained_cfg", timm_config)
    channels, _, image_size = pretrained_cfg["input_size"]
    num_classes = timm_config.get("num_classes", pretrained_cfg.get("num_classes"))
    model_args = dict(timm_config.get("model_args") or {})  # newer files repeat num_classes and in_chans here
    return {
        "model_type": TimmFaceConfig.model_type,
        "architecture": timm_config["architecture"],
        "embedding_size": model_args.pop("num_classes", num_classes),
        "num_channels": model_args.pop("in_chans", channels),
        "image_size": image_size,
        "model_args": model_args,
    }


__all__ = ["TimmFaceConfig"]
