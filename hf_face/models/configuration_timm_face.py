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


__all__ = ["TimmFaceConfig"]
