"""Revisit-linearize."""

from ..models import FaceConfig, FaceImageProcessor
from ..registry import sources
from .arcface_torch import ArcFaceTorch
from .checkpoint import Checkpoint
from .iresnet_layouts import PooledIResNet, is_pooled


@sources.register("revisit_linearize")
class RevisitLinearize(ArcFaceTorch):
    """abhatta1234/revisit-linearize-SoTA-FR: iresnets with a pooled neck, in an ArcFace and an AdaFace version.

    Files of arcface_torch or AdaFace with pooled networks.
    """

    url = "https://github.com/abhatta1234/revisit-linearize-SoTA-FR"
    files = "`.pt`, `.ckpt`"
    license = "publishes none"
    prefixes = ("", "model.")
    layouts = (PooledIResNet(),)
    asks = {"neck": ("gwp", "gap")}  # noqa: RUF012
    class_centers = {"head.kernel": True}  # noqa: RUF012
    ignored = ("head.",)

    def recognizes(self, checkpoint: Checkpoint) -> bool:
        tensors = checkpoint.tensors(self.nested_under)
        prefix = self.find_prefix(tensors)
        return prefix is not None and is_pooled(tensors, prefix)

    def image_processor(self, config: FaceConfig, **options) -> FaceImageProcessor:
        # The version with a 3 x 3 stem is for training with AdaFace's code, which reads BGR.
        channel_order = "bgr" if config.stem_kernel_size == 3 else "rgb"
        return super().image_processor(config, **{"channel_order": channel_order, **options})
