"""Base configuration shared by all face model families."""

from dataclasses import fields
from typing import Any, ClassVar

from huggingface_hub.dataclasses import strict
from transformers import PreTrainedConfig

# Keys that transformers itself writes to config.json or passes to a config, in addition to the declared fields.
_TRANSFORMERS_KEYS = {
    "_attn_implementation_internal",
    "_commit_hash",
    "_experts_implementation_internal",
    "_name_or_path",
    "attn_implementation",
    "auto_map",
    "experts_implementation",
    "model_type",
    "name_or_path",
    "num_labels",
    "output_attentions",
    "per_layer_config",
    "quantization_config",
    "torch_dtype",
}


@strict
class FaceConfig(PreTrainedConfig):
    r"""
    Base configuration of all face models. Unlike most transformers configs, it rejects unknown keys: a misspelled
    setting would otherwise be stored and silently ignored.

    Args:
        embedding_size (`int`, *optional*, defaults to 512):
            Length of the embedding.
        image_size (`int`, *optional*, defaults to 112):
            Side of the square aligned crop, in pixels.
        num_channels (`int`, *optional*, defaults to 3):
            Color channels of the crop.
        initializer_range (`float`, *optional*, defaults to 0.02):
            Standard deviation of newly initialized weights, unless the family has its own initialization.
        margin (`dict`, *optional*):
            The margin head the backbone was trained with (`{"name": "arcface", "scale": 64.0, "m": 0.5}`). For the
            record only: not needed to embed a face.
        similarity_thresholds (`dict[str, float]`, *optional*):
            Minimum cosine similarity at which two faces count as the same person, keyed by the false accept rate it
            was calibrated for (`{"1e-3": 0.31}`).
    """

    citations: ClassVar[tuple[str, ...]] = ()  # BibTeX entries of the papers behind a family, for model cards

    embedding_size: int = 512
    image_size: int = 112
    num_channels: int = 3
    initializer_range: float = 0.02
    margin: dict[str, Any] | None = None
    similarity_thresholds: dict[str, float] | None = None

    def __post_init__(self, **kwargs):
        if unknown := sorted(kwargs.keys() - _TRANSFORMERS_KEYS):
            known = sorted(field.name for field in fields(self))
            raise ValueError(
                f"{type(self).__name__} has no setting {', '.join(unknown)}. Its settings are: {', '.join(known)}."
            )
        super().__post_init__(**kwargs)

    @property
    def preprocessing(self) -> dict[str, Any]:
        """`FaceImageProcessor` arguments for the pixels that a new backbone with this configuration expects."""
        return {"size": {"height": self.image_size, "width": self.image_size}}

    def validate_sizes(self):
        """Raise `ValueError` for a size that is not a positive number."""
        for name in ("embedding_size", "image_size", "num_channels"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ValueError(f"{name} must be at least 1, found {value}.")


FaceConfig.register_for_auto_class()  # save_pretrained copies the code of this class and its subclasses

__all__ = ["FaceConfig"]
