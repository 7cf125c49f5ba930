"""Backbones that turn aligned face crops into embeddings, and their image processor."""

from typing import TYPE_CHECKING

from ..lazy import lazy_names, names_of_files

if TYPE_CHECKING:  # one line per file; at run time its names are imported on first use
    from .configuration_face import *
    from .configuration_face_aligner import *
    from .configuration_foundation_face import *
    from .configuration_ghostfacenet import *
    from .configuration_inception_resnet import *
    from .configuration_iresnet import *
    from .configuration_mobilefacenet import *
    from .configuration_mobilenet_face import *
    from .configuration_timm_face import *
    from .configuration_vit_face import *
    from .families import *
    from .image_processing_face import *
    from .layers import *
    from .modeling_face import *
    from .modeling_face_aligner import *
    from .modeling_foundation_face import *
    from .modeling_ghostfacenet import *
    from .modeling_inception_resnet import *
    from .modeling_iresnet import *
    from .modeling_mobilefacenet import *
    from .modeling_mobilenet_face import *
    from .modeling_timm_face import *
    from .modeling_vit_face import *
else:
    __getattr__, __dir__, __all__ = lazy_names(__name__, names_of_files(__name__))
