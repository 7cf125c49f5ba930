"""Base configuration shared by all face model families."""

from dataclasses import fields
from typing import Any, ClassVar

from huggingface_hub.dataclasses import strict
from transformers import PreTrainedConfig
from transformers.utils import logging

# transformers writes them, but does not declare them
IN_ANY_FILE = {"auto_map", "custom_pipelines", "quantization_config"}

logger = logging.get_logger(__name__)


@strict
class StrictConfig(PreTrainedConfig):
    """
    A configuration whose constructor rejects settings it does not have: a misspelled one would otherwise be stored and
    silently ignored. What is read from files may have more, with a warning, because transformers and later versions of
    a family add settings.
    """

    way_out: ClassVar[str] = "Load it with `AutoModel.from_pretrained`."  # for the configuration of another model

    def __post_init__(self, **kwargs):
        if unknown := sorted(name for name in kwargs if not self._has_setting(name)):
            known = sorted(field.name for field in fields(self))
            raise ValueError(
                f"{type(self).__name__} has no setting {', '.join(unknown)}. Its settings are: {', '.join(known)}."
            )
        super().__post_init__(**kwargs)

    @classmethod
    def _has_setting(cls, name: str) -> bool:
        """Whether a setting is a field of the class, or transformers' own: a field, property, or private."""
        theirs = hasattr(PreTrainedConfig, name) and not callable(getattr(PreTrainedConfig, name))
        if theirs or name.startswith("_") or hasattr(PreTrainedConfig, f"_{name}") or name in IN_ANY_FILE:
            return True
        return name in {field.name for field in fields(cls)}

    @classmethod
    def from_dict(cls, config_dict: dict[str, Any], **kwargs):
        """
        As in `PreTrainedConfig`, for what a file says: unknown settings are kept, with a warning.

        Raises:
            ValueError: if the file describes another model, or asks for code from the Hub
                (`attn_implementation="somebody/kernel"`).
        """
        found = config_dict.get("model_type", cls.model_type)
        if cls.model_type and found != cls.model_type:
            raise ValueError(f"The configuration is of a {found} model, not of a {cls.model_type}. {cls.way_out}")
        for name in ("attn_implementation", "experts_implementation"):
            if "/" in str(config_dict.get(name)):
                raise ValueError(
                    f"The configuration asks for {name}={config_dict[name]!r}, code from the Hub. If you trust it, "
                    f"remove it from config.json and pass {name} to `from_pretrained`."
                )
        public = {name: value for name, value in config_dict.items() if not name.startswith("_")}
        unknown = {name: kwargs.pop(name, public[name]) for name in public if not cls._has_setting(name)}
        loaded = super().from_dict({name: public[name] for name in public if name not in unknown}, **kwargs)
        config = loaded[0] if isinstance(loaded, tuple) else loaded
        for name, value in unknown.items():
            setattr(config, name, value)
        if unknown:
            logger.warning(
                f"{cls.__name__} does not know {', '.join(sorted(unknown))}, found in its configuration file."
            )
        return loaded

    @classmethod
    def from_json_file(cls, json_file):
        return cls.from_dict(cls._dict_from_json_file(json_file))


@strict
class FaceConfig(StrictConfig):
    r"""
    Base configuration of all face models. Unlike most transformers configs, its constructor rejects unknown settings.

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
