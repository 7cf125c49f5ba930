"""CVLface."""

from ..models import FaceConfig, FaceImageProcessor, FacePreTrainedModel
from ..registry import sources
from .checkpoint import Checkpoint, StateDict
from .iresnet_layouts import AdaFaceIResNet, InsightFaceIResNet
from .layout import LayoutSource, shape_of
from .vit_layouts import InsightFaceViT

# Its `small` has an MLP five times as wide as its tokens, its `base` three times.
HEADS_OF_MLP_RATIO = {5.0: 8, 3.0: 16}


@sources.register("cvlface")
class CVLface(LayoutSource):
    """mk-minchul/CVLface: its `model.pt` and its folders, for iresnets and plain vision transformers.

    A folder's settings say whether the network is fed with RGB or BGR; a file alone is taken to be RGB, as all
    published. Its KPRPE transformers also take the face's landmarks; they are none of this library's families.
    """

    prefixes = ("net.", "model.net.")
    layouts = (AdaFaceIResNet(), InsightFaceIResNet(), InsightFaceViT())

    def convert(self, checkpoint: Checkpoint, **overrides) -> tuple[FacePreTrainedModel, FaceImageProcessor]:
        """See `convert_checkpoint`."""
        # Under "conf" in the config.json of its Hub folders, alone in the model.yaml of its training runs.
        settings = checkpoint.settings.get("conf", checkpoint.settings)
        channel_order = settings.get("color_space", "RGB").lower()
        return super().convert(checkpoint, **{"channel_order": channel_order, **overrides})

    def config(self, tensors: StateDict, checkpoint: Checkpoint, **overrides) -> FaceConfig:
        if InsightFaceViT.anchor in tensors and "num_attention_heads" not in overrides:
            hidden, channels = shape_of(tensors, "blocks.0.mlp.fc1.weight", 2, checkpoint.origin)
            if hidden / channels not in HEADS_OF_MLP_RATIO:
                raise ValueError(
                    f"{checkpoint.origin}: names and shapes do not tell the attention heads of a transformer that is "
                    "neither CVLface's small nor its base. Say `num_attention_heads=`."
                )
            overrides["num_attention_heads"] = HEADS_OF_MLP_RATIO[hidden / channels]
        return super().config(tensors, checkpoint, **overrides)
