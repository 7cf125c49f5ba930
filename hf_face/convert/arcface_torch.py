"""InsightFace."""

from typing import ClassVar

from torch import Tensor

from ..heads.margins.angular import ARCFACE
from ..registry import sources
from .checkpoint import Checkpoint, StateDict
from .iresnet_layouts import InsightFaceIResNet, is_pooled
from .layout import Layout, LayoutSource
from .mobilefacenet_layouts import InsightFaceMobileFaceNet
from .vit_layouts import InsightFaceViT, TransFaceViT


@sources.register("arcface_torch", citation=ARCFACE)
class ArcFaceTorch(LayoutSource):
    """deepinsight/insightface, recognition/arcface_torch: `backbone.pth`, `model.pt`, `checkpoint_gpu_0.pt`.

    Supports iresnet, mbf and vit. An iresnet without prefix that flattens its feature map is recognized as one of
    InsightFace, which publishes it this way. Checkpoints of MagFace and face_embeddings have the same names without
    their prefix: pass `source=` for those. A learned weight in the last batch norm, which they have and InsightFace
    does not, causes a warning.
    """

    url = "https://github.com/deepinsight/insightface/tree/master/recognition/arcface_torch"
    files = "`backbone.pth`, `model.pt`, `checkpoint_gpu_0.pt`"
    license = "non-commercial research only (README.md)"
    nested_under = ("state_dict_backbone", "state_dict")
    layouts: ClassVar[tuple[Layout, ...]] = (InsightFaceIResNet(), InsightFaceMobileFaceNet(), InsightFaceViT())

    def recognizes(self, checkpoint: Checkpoint) -> bool:
        tensors = checkpoint.tensors(self.nested_under)
        return super().recognizes(checkpoint) and not is_pooled(tensors) and TransFaceViT.anchor not in tensors

    def lookalikes(self, checkpoint: Checkpoint) -> tuple[str, ...]:
        tensors = checkpoint.tensors(self.nested_under)
        weight = tensors.get("features.weight")  # InsightFace freezes it at 1, MagFace trains it
        is_theirs = weight is None or is_pooled(tensors) or (weight == 1).all()
        return () if is_theirs else ("magface", "face_embeddings")

    def find_class_centers(self, checkpoint: Checkpoint, others: StateDict) -> Tensor | None:
        # Partial FC writes one file per rank with that rank's identities.
        shard = checkpoint.content.get("state_dict_softmax_fc", {}).get("weight")
        return super().find_class_centers(checkpoint, others) if shard is None else shard
