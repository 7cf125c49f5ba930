"""Configuration of the training model, a backbone with its margin head."""

from typing import TYPE_CHECKING, Any, ClassVar

from huggingface_hub.dataclasses import strict
from transformers import CONFIG_MAPPING, AutoConfig, PreTrainedConfig

from ..models import FaceConfig
from ..models.configuration_face import StrictConfig

if TYPE_CHECKING:
    BackboneConfig = Any  # a `FaceConfig`, whatever it was made from
else:
    BackboneConfig = FaceConfig | dict[str, Any] | None


@strict
class FaceRecognitionConfig(StrictConfig):
    r"""
    Configuration of a face backbone and the margin head it is trained with.

    Args:
        backbone_config (`FaceConfig` or `dict`):
            Configuration of the backbone, of any family.
        num_identities (`int`, *optional*, defaults to 2):
            Number of people in the training data (not `num_labels`, for which transformers would store a dictionary of
            names).
        margin (`str`, *optional*, defaults to `"arcface"`):
            Name of the margin, see [`hf_face.heads.build_margin`].
        margin_kwargs (`dict[str, Any]`, *optional*):
            Arguments of the margin; default to the published values.
        scale (`float`, *optional*, defaults to 64.0):
            Scale s of the cosines.
        sub_centers (`int`, *optional*, defaults to 1):
            Number of class centers per identity.
        chunk_size (`int`, *optional*):
            Number of identities to hold logits of at a time; defaults to all.
        filter_threshold (`float`, *optional*):
            Cosine above which a negative is considered a mislabeled positive and ignored.
    """

    model_type = "face_recognition"
    way_out = "Load a backbone with `AutoModel` and put a head on it with `FaceRecognitionModel.from_backbone`."
    sub_configs: ClassVar[dict] = {"backbone_config": AutoConfig}

    backbone_config: BackboneConfig = None
    num_identities: int = 2
    margin: str = "arcface"
    margin_kwargs: dict[str, Any] | None = None
    scale: float | int = 64.0
    sub_centers: int = 1
    chunk_size: int | None = None
    filter_threshold: float | None = None

    def __post_init__(self, **kwargs):
        if not isinstance(self.backbone_config, PreTrainedConfig):
            settings = dict(self.backbone_config or {})
            self.backbone_config = _family(settings)(**settings)
        super().__post_init__(**kwargs)

    @classmethod
    def from_dict(cls, config_dict: dict[str, Any], **kwargs):
        """As in `PreTrainedConfig`, for what a file says of both: unknown settings are kept, with a warning."""
        backbone = config_dict.get("backbone_config")
        if isinstance(backbone, dict):
            config_dict = {**config_dict, "backbone_config": _family(backbone).from_dict(backbone)}
        return super().from_dict(config_dict, **kwargs)

    @property
    def margin_record(self) -> dict[str, Any]:
        """The margin head's settings, for the backbone's configuration and model card."""
        record = {"name": self.margin, "scale": self.scale, "sub_centers": self.sub_centers}
        if self.filter_threshold is not None:
            record["filter_threshold"] = self.filter_threshold
        return record | (self.margin_kwargs or {})


def _family(settings: dict[str, Any]) -> type[FaceConfig]:
    """The configuration class of a backbone's settings; `model_type` defaults to timm_face."""
    model_type = settings.get("model_type", "timm_face")
    family = CONFIG_MAPPING[model_type] if model_type in CONFIG_MAPPING else None  # noqa: SIM401  lazy, without get()
    if family is None or not issubclass(family, FaceConfig):
        raise ValueError(f"backbone_config has model_type {model_type!r}, which is not a family of face backbones.")
    return family


def settings_of_record(record: dict[str, Any] | None) -> dict[str, Any]:
    """The settings of a `FaceRecognitionConfig` that [`FaceRecognitionConfig.margin_record`] has recorded."""
    if record is None:
        return {}
    settings = {name: value for name, value in record.items() if name in ("scale", "sub_centers", "filter_threshold")}
    margin_kwargs = {name: value for name, value in record.items() if name not in {"name", *settings}}
    return {"margin": record["name"], "margin_kwargs": margin_kwargs or None, **settings}


__all__ = ["FaceRecognitionConfig"]
