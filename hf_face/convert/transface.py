"""DanJun6737/TransFace: vision transformers that weigh their patches."""

from .arcface_torch import ArcFaceTorch
from .checkpoint import Checkpoint
from .layout import LayoutSource
from .vit_layouts import TransFaceViT


class TransFace(ArcFaceTorch):
    """arcface_torch's files with TransFace's network in them."""

    name = "transface"
    layouts = (TransFaceViT(),)

    def recognizes(self, checkpoint: Checkpoint) -> bool:
        return LayoutSource.recognizes(self, checkpoint)
