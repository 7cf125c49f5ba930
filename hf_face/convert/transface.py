"""TransFace."""

from ..models.configuration_vit_face import TRANSFACE
from ..registry import sources
from .arcface_torch import ArcFaceTorch
from .checkpoint import Checkpoint
from .layout import LayoutSource
from .vit_layouts import TransFaceViT


@sources.register("transface", citation=TRANSFACE)
class TransFace(ArcFaceTorch):
    """DanJun6737/TransFace: vision transformers with patch weighting, in arcface_torch's files."""

    url = "https://github.com/DanJun6737/TransFace"
    files = "`.pt`"
    license = "not stated; the code has no license"
    layouts = (TransFaceViT(),)

    def recognizes(self, checkpoint: Checkpoint) -> bool:
        return LayoutSource.recognizes(self, checkpoint)
