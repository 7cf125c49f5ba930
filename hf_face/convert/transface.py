"""TransFace."""

from ..registry import sources
from .arcface_torch import ArcFaceTorch
from .checkpoint import Checkpoint
from .layout import LayoutSource
from .vit_layouts import TransFaceViT

TRANSFACE = """
@inproceedings{transface,
  title = {TransFace: Calibrating Transformer Training for Face Recognition from a Data-Centric Perspective},
  author = {Dan, Jun and Liu, Yang and Xie, Haoyu and Deng, Jiankang
            and Xie, Haoran and Xie, Xuansong and Sun, Baigui},
  booktitle = {International Conference on Computer Vision},
  year = {2023}
}
"""


@sources.register("transface", citation=TRANSFACE)
class TransFace(ArcFaceTorch):
    """DanJun6737/TransFace: vision transformers with patch weighting, in arcface_torch's files."""

    url = "https://github.com/DanJun6737/TransFace"
    files = "`.pt`"
    license = "not stated; the code has no license"
    layouts = (TransFaceViT(),)

    def recognizes(self, checkpoint: Checkpoint) -> bool:
        return LayoutSource.recognizes(self, checkpoint)
