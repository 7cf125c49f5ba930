"""Backbones that turn aligned face crops into embeddings, registered with transformers' Auto classes."""

from transformers import AutoConfig, AutoImageProcessor, AutoModel
from transformers.models.auto.video_processing_auto import VIDEO_PROCESSOR_MAPPING

from .configuration_face import FaceConfig
from .configuration_foundation_face import FoundationFaceConfig
from .configuration_timm_face import TimmFaceConfig
from .image_processing_face import FaceImageProcessor
from .modeling_face import FaceEmbeddingOutput, FacePreTrainedModel
from .modeling_foundation_face import FoundationFaceModel
from .modeling_timm_face import TimmFaceModel

FAMILIES: dict[type[FaceConfig], type[FacePreTrainedModel]] = {
    FoundationFaceConfig: FoundationFaceModel,
    TimmFaceConfig: TimmFaceModel,
}

FaceImageProcessor.register_for_auto_class("AutoImageProcessor")
for _config, _model in FAMILIES.items():
    _config.register_for_auto_class()
    _model.register_for_auto_class("AutoModel")
    AutoConfig.register(_config.model_type, _config)
    AutoModel.register(_config, _model)
    AutoImageProcessor.register(_config, image_processor_classes={"torchvision": FaceImageProcessor})
    # pipeline() also looks for a video processor, takes ours for remote code and asks the user whether to run it, unless
    # the configuration is known to have none.
    VIDEO_PROCESSOR_MAPPING.register(_config, {})

__all__ = [
    "FAMILIES",
    "FaceConfig",
    "FaceEmbeddingOutput",
    "FaceImageProcessor",
    "FacePreTrainedModel",
    "FoundationFaceConfig",
    "FoundationFaceModel",
    "TimmFaceConfig",
    "TimmFaceModel",
]
