"""alexkrz/face-embeddings: Lightning checkpoints of MagFace's iresnet, fed as InsightFace's."""

from .checkpoint import Checkpoint
from .iresnet_layouts import InsightFaceIResNet
from .layout import LayoutSource


class FaceEmbeddings(LayoutSource):
    """With the prefix `backbone.` of its training module or, as its `convert_ckpt.py` writes them, without."""

    name = "face_embeddings"
    exported_under = "state_dict"
    prefixes = ("backbone.", "")
    layouts = (InsightFaceIResNet(),)
    settings = {"batch_norm_eps": 2e-5, "embedding_norm": "affine", "dropout": 0.4}  # noqa: RUF012
    class_centers = {"header.weight": False, "header.linear.weight": False, "header.kernel": True}  # noqa: RUF012

    def recognises(self, checkpoint: Checkpoint) -> bool:
        return bool(self.find_prefix(checkpoint.tensors(self.nested_under)))
