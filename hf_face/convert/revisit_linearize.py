"""abhatta1234/revisit-linearize-SoTA-FR: iresnets with a pooled neck, in an ArcFace and an AdaFace version."""

from ..models import FaceConfig, FaceImageProcessor
from .checkpoint import Checkpoint
from .iresnet_layouts import InsightFaceIResNet, is_pooled
from .layout import LayoutSource


class RevisitLinearize(LayoutSource):
    name = "revisit_linearize"
    prefixes = ("", "model.")
    layouts = (InsightFaceIResNet(),)
    asks = {"neck": ("gwp", "gap")}  # noqa: RUF012
    class_centers = {"head.kernel": True}  # noqa: RUF012
    ignored = ("head.",)

    def recognises(self, checkpoint: Checkpoint) -> bool:
        tensors = checkpoint.tensors(self.nested_under)
        prefix = self.find_prefix(tensors)
        return prefix is not None and is_pooled(tensors, prefix)

    def image_processor(self, config: FaceConfig, **options) -> FaceImageProcessor:
        # The version with a 3 x 3 stem is made to be trained by AdaFace's code, which reads BGR.
        channel_order = "bgr" if config.stem_kernel_size == 3 else "rgb"
        return super().image_processor(config, **{"channel_order": channel_order, **options})
