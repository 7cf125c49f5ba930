"""Configuration of face models whose backbone is a vision model of transformers."""

import math
from typing import Any, Literal

import transformers
from huggingface_hub.dataclasses import strict
from transformers import AutoConfig, AutoImageProcessor, PreTrainedConfig
from transformers.image_utils import (
    IMAGENET_DEFAULT_MEAN,
    IMAGENET_DEFAULT_STD,
    IMAGENET_STANDARD_MEAN,
    IMAGENET_STANDARD_STD,
    OPENAI_CLIP_MEAN,
    OPENAI_CLIP_STD,
    PILImageResampling,
)
from transformers.utils import IMAGE_PROCESSOR_NAME, PROCESSOR_NAME, cached_file

from .configuration_face import FaceConfig

# Published models that expect pixels in [-1, 1], or normalized as OpenAI's CLIP. All others: by ImageNet's statistics.
SCALED_TO_ONE = {"beit", "data2vec-vision", "siglip", "siglip2", "vit"}
NORMALIZED_AS_CLIP = {"altclip", "blip", "blip_2", "chinese_clip", "clip", "flava", "metaclip_2", "owlv2", "owlvit"}


@strict
class FoundationFaceConfig(FaceConfig):
    r"""
    Any vision model of transformers (CLIP, DINOv2, DINOv3, SigLIP, ViT, ...) as a face backbone: its pooled output is
    the embedding (as in FRoundation).

    Args:
        backbone_config (`PreTrainedConfig`, `dict` or `str`, *optional*, defaults to DINOv2 base):
            The vision model: its config, that config's dict (with `model_type`), or a Hub name or folder to read it
            from. Of a model with several towers the vision tower is taken.
        pooling (`str`, *optional*):
            What becomes the embedding: `"image_embeds"`, the vision tower's projection into the space shared with text;
            `"pooler"`, the backbone's `pooler_output`; `"cls"`, the first token of the last hidden state; `"mean"`, the
            mean of its patch tokens. Defaults to `"image_embeds"` for a tower that has it (CLIP), else to `"pooler"`.
        embedding_size (`int`, *optional*):
            Length of the embedding. Defaults to that of the pooled output; any other length adds a linear projection.
        image_size (`int`, *optional*):
            Side of the square crop, in pixels. Defaults to the size the backbone was made for; for any other size its
            position embeddings are interpolated.
        image_mean, image_std (`list[float]`, *optional*):
            What the backbone was pretrained with. Default to those of the image processor beside a `backbone_config`
            given by name, else to those of the model's first publication.
        resample (`int`, *optional*):
            The same for the filter that resizes (`PILImageResampling`), else bicubic.

    Example:
    ```python
    >>> from hf_face import FoundationFaceConfig

    >>> small = {"model_type": "dinov2", "hidden_size": 384, "num_attention_heads": 6}
    >>> FoundationFaceConfig(backbone_config=small, image_size=112).embedding_size
    384
    ```
    """

    model_type = "foundation_face"
    sub_configs = {"backbone_config": AutoConfig}  # noqa: RUF012

    backbone_config: PreTrainedConfig | dict[str, Any] | str | None = None
    pooling: Literal["image_embeds", "pooler", "cls", "mean"] | None = None
    embedding_size: int | None = None
    image_size: int | None = None
    image_mean: list[float] | None = None
    image_std: list[float] | None = None
    resample: int | None = None

    def __post_init__(self, **kwargs):
        if isinstance(self.backbone_config, str):
            for option, value in _published_preprocessing(self.backbone_config).items():
                if getattr(self, option) is None:
                    setattr(self, option, value)
        self.backbone_config = _vision_config(self.backbone_config)
        if self.pooling is None:
            self.pooling = "image_embeds"
            if not hasattr(transformers, self.backbone_class_name):
                self.pooling = "pooler"
        self._check_pooling()
        if self.embedding_size is None:
            self.embedding_size = self.pooled_size
        if self.image_size is None:
            self.image_size = _native_image_size(self.backbone_config)
        super().__post_init__(**kwargs)

    @property
    def backbone_class_name(self) -> str:
        """Name of the model class in transformers that `pooling` needs."""
        name = type(self.backbone_config).__name__.removesuffix("Config") + "Model"
        return f"{name}WithProjection" if self.pooling == "image_embeds" else name

    @property
    def pooled_size(self) -> int:
        """Length of the pooled output, before any projection of ours."""
        if self.pooling == "image_embeds":
            return self.backbone_config.projection_dim
        if hasattr(self.backbone_config, "hidden_size"):
            return self.backbone_config.hidden_size
        return self.backbone_config.hidden_sizes[-1]  # convolutional pyramids

    @property
    def preprocessing(self) -> dict[str, Any]:
        """Arguments of `FaceImageProcessor` for the pixels the backbone was pretrained on."""
        kind = self.backbone_config.model_type.removesuffix("_vision_model").removesuffix("_image_model")
        mean, std = IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD
        if kind in SCALED_TO_ONE:
            mean, std = IMAGENET_STANDARD_MEAN, IMAGENET_STANDARD_STD
        elif kind in NORMALIZED_AS_CLIP:
            mean, std = OPENAI_CLIP_MEAN, OPENAI_CLIP_STD
        return {
            "size": {"height": self.image_size, "width": self.image_size},
            "resample": PILImageResampling.BICUBIC if self.resample is None else self.resample,
            "image_mean": self.image_mean or list(mean),
            "image_std": self.image_std or list(std),
        }

    def _check_pooling(self):
        kind = self.backbone_config.model_type
        if not hasattr(transformers, self.backbone_class_name):
            raise ValueError(
                f"pooling={self.pooling!r} needs {self.backbone_class_name}, which transformers does not have. "
                f"A {kind!r} backbone offers 'pooler', 'cls' and 'mean'."
            )
        if self.pooling == "mean" and not hasattr(self.backbone_config, "patch_size"):
            raise ValueError(
                f"pooling='mean' tells patch tokens from other tokens by the backbone's patch_size; {kind!r} has none. "
                "Choose 'pooler'."
            )


def _published_preprocessing(name_or_path: str) -> dict[str, Any]:
    """What the image processor beside a published model says of its pixels; nothing where there is none."""
    files = (IMAGE_PROCESSOR_NAME, PROCESSOR_NAME)
    if not any(cached_file(name_or_path, file, _raise_exceptions_for_missing_entries=False) for file in files):
        return {}
    published = AutoImageProcessor.from_pretrained(name_or_path)
    mean, std = (published.image_mean, published.image_std) if published.do_normalize else ([0] * 3, [1] * 3)
    return {
        "image_mean": [float(value) for value in mean],
        "image_std": [float(value) for value in std],
        "resample": int(published.resample),
    }


def _vision_config(source: PreTrainedConfig | dict[str, Any] | str | None) -> PreTrainedConfig:
    if source is None:
        source = {"model_type": "dinov2"}
    if isinstance(source, str):
        source = AutoConfig.from_pretrained(source)
    elif isinstance(source, dict):
        source = AutoConfig.for_model(**source)
    return getattr(source, "vision_config", source)


def _native_image_size(backbone_config: PreTrainedConfig) -> int:
    if hasattr(backbone_config, "num_patches"):  # SigLIP 2 states its number of positions instead
        return math.isqrt(backbone_config.num_patches) * backbone_config.patch_size
    size = getattr(backbone_config, "image_size", 224)
    if isinstance(size, int):
        return size
    if len(set(size)) > 1:
        raise ValueError(f"The backbone was made for {size[0]} x {size[1]} pixels. Say image_size= of the square crop.")
    return size[0]


__all__ = ["FoundationFaceConfig"]
