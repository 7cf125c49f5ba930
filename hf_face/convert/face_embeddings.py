"""face-embeddings."""

from ..registry import sources
from .checkpoint import Checkpoint
from .iresnet_layouts import InsightFaceIResNet
from .layout import LayoutSource
from .magface import MagFace


@sources.register("face_embeddings")
class FaceEmbeddings(LayoutSource):
    """alexkrz/face-embeddings: Lightning checkpoints of MagFace's iresnet, with InsightFace's preprocessing.

    With the prefix `backbone.` of the training module, or without it, as written by `convert_ckpt.py`.

    Its `predict.py` also runs MagFace's files with this preprocessing: pass `source="face_embeddings"` for that.
    """

    url = "https://github.com/alexkrz/face-embeddings"
    files = "`.ckpt`"
    license = "publishes none"
    exported_under = "state_dict"
    prefixes = ("backbone.", "features.module.", "")
    layouts = (InsightFaceIResNet(),)
    settings = {"batch_norm_eps": 2e-5, "embedding_norm": "affine", "dropout": 0.4}  # noqa: RUF012
    class_centers = {  # noqa: RUF012
        "header.weight": False,
        "header.linear.weight": False,
        "header.kernel": True,
        **MagFace.class_centers,
    }

    def recognizes(self, checkpoint: Checkpoint) -> bool:
        return self.find_prefix(checkpoint.tensors(self.nested_under)) == "backbone."
