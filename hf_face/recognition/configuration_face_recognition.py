"""Configuration of a backbone with its margin head, as it is trained."""

from typing import Any, ClassVar

from huggingface_hub.dataclasses import strict
from transformers import AutoConfig, PreTrainedConfig

from ..models import FaceConfig


@strict
class FaceRecognitionConfig(PreTrainedConfig):
    r"""
    A face backbone and the margin head that trains it.

    Args:
        backbone_config (`FaceConfig` or `dict`):
            Configuration of the backbone, of any family.
        num_identities (`int`, *optional*, defaults to 2):
            People in the training data, one class center each (not `num_labels`, for which transformers would keep a
            dictionary of names).
        margin (`str`, *optional*, defaults to `"arcface"`):
            Name of the margin, see [`hf_face.heads.build_margin`].
        margin_kwargs (`dict[str, Any]`, *optional*):
            Arguments of the margin; its published defaults hold for what is left out.
        scale (`float`, *optional*, defaults to 64.0):
            Factor s on the cosines.
        sub_centers (`int`, *optional*, defaults to 1):
            Class centers an identity.
        chunk_size (`int`, *optional*):
            Identities whose logits are held at a time; all when left out.
        filter_threshold (`float`, *optional*):
            Cosine above which a negative is taken for a mislabeled positive and left out.
    """

    model_type = "face_recognition"
    sub_configs: ClassVar[dict] = {"backbone_config": AutoConfig}

    backbone_config: FaceConfig | dict[str, Any] | None = None
    num_identities: int = 2
    margin: str = "arcface"
    margin_kwargs: dict[str, Any] | None = None
    scale: float | int = 64.0
    sub_centers: int = 1
    chunk_size: int | None = None
    filter_threshold: float | None = None

    def __post_init__(self, **kwargs):
        if not isinstance(self.backbone_config, PreTrainedConfig):
            self.backbone_config = AutoConfig.for_model(**{"model_type": "timm_face", **(self.backbone_config or {})})
        super().__post_init__(**kwargs)

    @property
    def margin_record(self) -> dict[str, Any]:
        """How the backbone was trained, for its own configuration and its model card."""
        record = {"name": self.margin, "scale": self.scale, "sub_centers": self.sub_centers}
        if self.filter_threshold is not None:
            record["filter_threshold"] = self.filter_threshold
        return record | (self.margin_kwargs or {})


__all__ = ["FaceRecognitionConfig"]
