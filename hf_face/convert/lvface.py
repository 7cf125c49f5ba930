"""LVFace."""

from ..registry import sources
from .arcface_torch import ArcFaceTorch
from .checkpoint import Checkpoint
from .vit_layouts import InsightFaceViT

LVFACE = """
@inproceedings{lvface,
  title = {LVFace: Progressive Cluster Optimization for Large Vision Models in Face Recognition},
  author = {You, Jinghan and Li, Shanglin and Sun, Yuanrui and Wei, Jiangchuan and Guo, Mingyu and Feng, Chao
            and Ran, Jiao},
  booktitle = {International Conference on Computer Vision},
  year = {2025}
}
"""


@sources.register("lvface", citation=LVFACE)
class LVFace(ArcFaceTorch):
    """bytedance/LVFace: vision transformers in arcface_torch's files, as which they are recognized."""

    url = "https://github.com/bytedance/LVFace"
    files = "`.pt`"
    license = "non-commercial research only (README.md; the code is MIT)"
    layouts = (InsightFaceViT(),)

    def recognizes(self, checkpoint: Checkpoint) -> bool:
        return False
