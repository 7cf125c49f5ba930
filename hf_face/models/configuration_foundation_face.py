"""Configuration of face models with a transformers vision model as backbone."""

import math
from typing import TYPE_CHECKING, Any, Literal

import transformers
from huggingface_hub.dataclasses import strict
from transformers import (
    CONFIG_MAPPING,
    AutoConfig,
    AutoImageProcessor,
    PreTrainedConfig,
    TimmBackboneConfig,
    TimmWrapperConfig,
)
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

# Published models that expect pixels in [-1, 1], or CLIP's mean and std. All others use ImageNet's mean and std.
SCALED_TO_ONE = {"beit", "data2vec-vision", "siglip", "siglip2", "vit"}
NORMALIZED_AS_CLIP = {"altclip", "blip", "blip_2", "chinese_clip", "clip", "flava", "metaclip_2", "owlv2", "owlvit"}

FROUNDATION = """
@misc{froundation,
  title = {FRoundation: Are Foundation Models Ready for Face Recognition?},
  author = {Chettaoui, Tahar and Damer, Naser and Boutros, Fadi},
  year = {2024},
  eprint = {2410.23831},
  archivePrefix = {arXiv}
}
"""

DINOV2 = r"""
@article{dinov2,
  title = {DINOv2: Learning Robust Visual Features without Supervision},
  author = {Oquab, Maxime and Darcet, Timoth{\'e}e and Moutakanni, Th{\'e}o and others},
  journal = {Transactions on Machine Learning Research},
  year = {2024}
}
"""

CLIP = """
@inproceedings{clip,
  title = {Learning Transferable Visual Models From Natural Language Supervision},
  author = {Radford, Alec and Kim, Jong Wook and Hallacy, Chris and Ramesh, Aditya and Goh, Gabriel
            and Agarwal, Sandhini and Sastry, Girish and Askell, Amanda and Mishkin, Pamela and Clark, Jack
            and Krueger, Gretchen and Sutskever, Ilya},
  booktitle = {International Conference on Machine Learning},
  year = {2021}
}
"""

SIGLIP = """
@inproceedings{siglip,
  title = {Sigmoid Loss for Language Image Pre-Training},
  author = {Zhai, Xiaohua and Mustafa, Basil and Kolesnikov, Alexander and Beyer, Lucas},
  booktitle = {International Conference on Computer Vision},
  year = {2023}
}
"""

# Citations by the backbone's model_type.
BACKBONE_CITATIONS = {
    "dinov2": (DINOV2,),
    "dinov2_with_registers": (DINOV2,),
    "clip_vision_model": (CLIP,),
    "siglip_vision_model": (SIGLIP,),
}

if TYPE_CHECKING:
    BackboneConfig = Any  # a `PreTrainedConfig`, whatever it was made from
else:
    BackboneConfig = PreTrainedConfig | dict[str, Any] | str | None


@strict
class FoundationFaceConfig(FaceConfig):
    r"""
    Configuration of a face backbone built on any transformers vision model (CLIP, DINOv2, DINOv3, SigLIP, ViT, ...).
    Its pooled output is the embedding, as in FRoundation.

    Args:
        backbone_config (`PreTrainedConfig`, `dict` or `str`, *optional*, defaults to DINOv2 base):
            The vision model: its config, its config as a dict (with `model_type`), or a Hub name or folder to load the
            config from. For a model with several towers, the vision tower is used.
        pooling (`str`, *optional*):
            Source of the embedding: `"image_embeds"`, the vision tower's projection into the space shared with text;
            `"pooler"`, the backbone's `pooler_output`; `"cls"`, the first token of the last hidden state; `"mean"`, the
            mean of its patch tokens. Defaults to `"image_embeds"` for towers that have it (CLIP), else to `"pooler"`.
        embedding_size (`int`, *optional*):
            Length of the embedding. Defaults to that of the pooled output; any other length adds a linear projection.
        image_size (`int`, *optional*):
            Side of the square crop, in pixels. Defaults to the backbone's native size; for any other size, position
            embeddings are interpolated.
        image_mean, image_std (`float` or `list[float]`, *optional*):
            Mean and standard deviation used in pretraining. Default to those of the image processor saved with a
            `backbone_config` given by name, else to those of the original release.
        resample (`int`, *optional*):
            Resizing filter (`PILImageResampling`) used in pretraining. Defaults to the saved image processor's, else to
            bicubic.

    Example:
    ```python
    >>> from hf_face import FoundationFaceConfig

    >>> small = {"model_type": "dinov2", "hidden_size": 384, "num_attention_heads": 6}
    >>> FoundationFaceConfig(backbone_config=small, image_size=112).embedding_size
    384
    ```
    """

    model_type = "foundation_face"
    way_out = "`FoundationFaceModel.from_backbone` makes a face model from a vision model's folder or Hub name."
    sub_configs = {"backbone_config": AutoConfig}  # noqa: RUF012

    backbone_config: BackboneConfig = None
    pooling: Literal["image_embeds", "pooler", "cls", "mean"] | None = None
    embedding_size: int | None = None
    image_size: int | None = None
    image_mean: float | list[float] | None = None
    image_std: float | list[float] | None = None
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

    @classmethod
    def from_dict(cls, config_dict: dict[str, Any], **kwargs):
        """As in `FaceConfig`. Raises `ValueError` for a `backbone_config` that would have to be looked up elsewhere."""
        source = config_dict.get("backbone_config")
        if isinstance(source, str):
            raise ValueError(
                f"The configuration names its backbone_config ({source!r}), so it would be read from elsewhere. Load "
                "models whose configuration holds it, or create one with `FoundationFaceModel.from_backbone`."
            )
        if isinstance(source, dict) and source.get("model_type") in CONFIG_MAPPING:
            # before it is created: a nested one may download
            _check_vision_config(CONFIG_MAPPING[source["model_type"]])
        return super().from_dict(config_dict, **kwargs)

    @property
    def citations(self) -> tuple[str, ...]:
        """BibTeX entries of FRoundation and, where known, of the backbone."""
        return (FROUNDATION, *BACKBONE_CITATIONS.get(self.backbone_config.model_type, ()))

    @property
    def backbone_class_name(self) -> str:
        """Name of the transformers model class that `pooling` requires."""
        name = type(self.backbone_config).__name__.removesuffix("Config") + "Model"
        return f"{name}WithProjection" if self.pooling == "image_embeds" else name

    @property
    def pooled_size(self) -> int:
        """Length of the pooled output, before `projection`."""
        if self.pooling == "image_embeds":
            return self.backbone_config.projection_dim
        if hasattr(self.backbone_config, "hidden_size"):
            return self.backbone_config.hidden_size
        return self.backbone_config.hidden_sizes[-1]  # convolutional pyramids

    @property
    def preprocessing(self) -> dict[str, Any]:
        """`FaceImageProcessor` arguments that match the backbone's pretraining."""
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
                f"pooling={self.pooling!r} requires {self.backbone_class_name}, which transformers does not have. "
                f"A {kind!r} backbone supports 'pooler', 'cls' and 'mean'."
            )
        if self.pooling == "mean" and not hasattr(self.backbone_config, "patch_size"):
            raise ValueError(
                f"pooling='mean' requires the backbone's patch_size to identify patch tokens, but {kind!r} has none. "
                "Use 'pooler'."
            )


def _published_preprocessing(name_or_path: str) -> dict[str, Any]:
    """Mean, std and resampling of the image processor saved with a published model; empty if there is none."""
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
    config = getattr(source, "vision_config", source)
    _check_vision_config(type(config))
    return config


def _check_vision_config(config_class: type[PreTrainedConfig]) -> None:
    """Raise `ValueError` unless the class describes a model by itself, without another that it would load."""
    if issubclass(config_class, TimmBackboneConfig | TimmWrapperConfig):
        raise ValueError(f"backbone_config is a {config_class.model_type}. Use `TimmFaceConfig` for models from timm.")
    if config_class.sub_configs:
        raise ValueError(
            f"backbone_config is a {config_class.model_type}, a model made of others "
            f"({', '.join(config_class.sub_configs)}). Use the configuration of its vision model."
        )


def _native_image_size(backbone_config: PreTrainedConfig) -> int:
    if hasattr(backbone_config, "num_patches"):  # SigLIP 2 states its number of positions instead
        return math.isqrt(backbone_config.num_patches) * backbone_config.patch_size
    size = getattr(backbone_config, "image_size", 224)
    if isinstance(size, int):
        return size
    height, width = size
    if height != width:
        raise ValueError(
            f"The backbone's native size of {height} x {width} pixels is not square. Set image_size for the crop."
        )
    return height


__all__ = ["FoundationFaceConfig"]
