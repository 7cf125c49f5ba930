"""AdaFace."""

from ..heads.margins.adaptive import ADAFACE
from ..registry import sources
from .iresnet_layouts import AdaFaceIResNet
from .layout import LayoutSource


@sources.register("adaface", citation=ADAFACE)
class AdaFace(LayoutSource):
    """mk-minchul/AdaFace: Lightning checkpoints of `ir_18` to `ir_200` and `ir_se_50` to `ir_se_200`, BGR input."""

    url = "https://github.com/mk-minchul/AdaFace"
    files = "`.ckpt`"
    license = "not stated; ask the authors (issue #174); the code is MIT"
    exported_under = "state_dict"
    prefixes = ("model.", "")
    layouts = (AdaFaceIResNet(),)
    class_centers = {"head.kernel": True}  # noqa: RUF012
    ignored = ("head.",)  # the margin's running statistics
    preprocessing = {"channel_order": "bgr"}  # noqa: RUF012
