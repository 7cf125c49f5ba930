"""
Photographs in, answers out: finds faces, aligns and embeds them, and compares people.

Importing the package registers the pipelines "face-embedding" and "face-verification" with transformers. Those parts
that travel to the Hub with a model are in `hf_face.models`, which transformers copies.
"""

from typing import TYPE_CHECKING

from ..lazy import lazy_names, names_of_files

if TYPE_CHECKING:
    from ..models.alignment import align_faces as align_faces
    from ..models.face_detection import YuNetDetector as YuNetDetector
    from ..models.pipeline_face_embedding import FaceEmbeddingPipeline as FaceEmbeddingPipeline
    from ..models.pipeline_face_verification import FaceVerificationPipeline as FaceVerificationPipeline
    from ..models.pixels import read_photograph as read_photograph
    from .contact_sheets import *
    from .crops import *
    from .drawing import *
    from .gallery import *
    from .grouping import *
    from .sface import *
else:
    __getattr__, __dir__, __all__ = lazy_names(
        __name__,
        {
            "FaceEmbeddingPipeline": ".models.pipeline_face_embedding",
            "FaceVerificationPipeline": ".models.pipeline_face_verification",
            "YuNetDetector": ".models.face_detection",
            "align_faces": ".models.alignment",
            "read_photograph": ".models.pixels",
            **names_of_files(__name__),
        },
    )
