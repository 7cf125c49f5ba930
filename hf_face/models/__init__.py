"""Backbones that turn aligned face crops into embeddings, registered with transformers' Auto classes."""

from transformers import AutoConfig, AutoImageProcessor, AutoModel
from transformers.models.auto.video_processing_auto import VIDEO_PROCESSOR_MAPPING

from .configuration_face import FaceConfig
from .configuration_foundation_face import FoundationFaceConfig
from .configuration_iresnet import IResNetConfig
from .configuration_mobilefacenet import MobileFaceNetConfig
from .configuration_timm_face import TimmFaceConfig
from .configuration_vit_face import ViTFaceConfig
from .image_processing_face import FaceImageProcessor
from .modeling_face import FaceEmbeddingOutput, FacePreTrainedModel
from .modeling_foundation_face import FoundationFaceModel
from .modeling_iresnet import IResNetModel
from .modeling_mobilefacenet import MobileFaceNetModel
from .modeling_timm_face import TimmFaceModel
from .modeling_vit_face import ViTFaceModel, ViTFaceOutput

FAMILIES: dict[type[FaceConfig], type[FacePreTrainedModel]] = {
    FoundationFaceConfig: FoundationFaceModel,
    IResNetConfig: IResNetModel,
    MobileFaceNetConfig: MobileFaceNetModel,
    TimmFaceConfig: TimmFaceModel,
    ViTFaceConfig: ViTFaceModel,
}

FaceImageProcessor.register_for_auto_class("AutoImageProcessor")
for _config, _model in FAMILIES.items():
    _config.register_for_auto_class()
    _model.register_for_auto_class("AutoModel")
    AutoConfig.register(_config.model_type, _config)
    AutoModel.register(_config, _model)
    AutoImageProcessor.register(_config, image_processor_classes={"torchvision": FaceImageProcessor})
    # pipeline() also looks for a video processor, takes ours for remote code and asks the user whether to run it,
    # unless the configuration is known to have none.
    VIDEO_PROCESSOR_MAPPING.register(_config, {})

__all__ = [
    "FAMILIES",
    "FaceConfig",
    "FaceEmbeddingOutput",
    "FaceImageProcessor",
    "FacePreTrainedModel",
    "FoundationFaceConfig",
    "FoundationFaceModel",
    "IResNetConfig",
    "IResNetModel",
    "MobileFaceNetConfig",
    "MobileFaceNetModel",
    "TimmFaceConfig",
    "TimmFaceModel",
    "ViTFaceConfig",
    "ViTFaceModel",
    "ViTFaceOutput",
]
