"""MagFace."""

from ..heads.margins.adaptive import MAGFACE
from ..registry import sources
from .checkpoint import Checkpoint
from .iresnet_layouts import InsightFaceIResNet
from .layout import LayoutSource


@sources.register("magface", citation=MAGFACE)
class MagFace(LayoutSource):
    """IrvingMeng/MagFace: iresnets with BGR input in [0, 1]; the norm of the embedding is the quality of the image."""

    url = "https://github.com/IrvingMeng/MagFace"
    files = "`.pth`"
    license = "not stated; the code is Apache-2.0"
    exported_under = "state_dict"
    prefixes = ("features.module.", "features.", "")
    layouts = (InsightFaceIResNet(),)
    settings = {"batch_norm_eps": 2e-5, "embedding_norm": "affine", "dropout": 0.4}  # noqa: RUF012
    # The trainer with DataParallel, and the one with parallel classifiers.
    class_centers = {"fc.weight": True, "parallel_fc.weight": False}  # noqa: RUF012
    preprocessing = {"channel_order": "bgr", "image_mean": [0.0] * 3, "image_std": [1.0] * 3}  # noqa: RUF012

    def recognizes(self, checkpoint: Checkpoint) -> bool:
        return bool(self.find_prefix(checkpoint.tensors(self.nested_under)))
