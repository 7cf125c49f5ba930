"""LVFace."""

from ..models.configuration_vit_face import LVFACE
from ..registry import sources
from .arcface_torch import ArcFaceTorch
from .checkpoint import Checkpoint
from .vit_layouts import InsightFaceViT


@sources.register("lvface", citation=LVFACE)
class LVFace(ArcFaceTorch):
    """bytedance/LVFace: vision transformers in arcface_torch's files, which `auto` takes for arcface_torch's own."""

    url = "https://github.com/bytedance/LVFace"
    files = "`.pt`"
    license = "non-commercial research only (README.md; the code is MIT)"
    layouts = (InsightFaceViT(),)

    def recognizes(self, checkpoint: Checkpoint) -> bool:
        return False
