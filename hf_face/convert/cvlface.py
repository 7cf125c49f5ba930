"""CVLface."""

from ..models import FaceConfig, FaceImageProcessor, FacePreTrainedModel
from ..registry import sources
from .checkpoint import Checkpoint, StateDict
from .iresnet_layouts import AdaFaceIResNet, InsightFaceIResNet
from .layout import LayoutSource, shape_of
from .vit_layouts import CVLfaceKeypointViT, InsightFaceViT

# The MLP of `small` is five times as wide as its tokens, that of `base` three times.
HEADS_OF_MLP_RATIO = {5.0: 8, 3.0: 16}


@sources.register("cvlface")
class CVLface(LayoutSource):
    """mk-minchul/CVLface: `model.pt` files and folders of iresnets and vision transformers, with KP-RPE too.

    The settings in a folder determine the channel order; a single file is assumed to be RGB, like all published ones.
    Vision transformers with keypoint relative position encoding also take the landmarks of a crop.
    """

    url = "https://github.com/mk-minchul/CVLface"
    files = "`model.pt`, Hub folders"
    license = "MIT (tags of the models seen on the Hub; the repository does not say)"
    told = "`num_attention_heads` of unusual transformers"
    prefixes = ("net.", "model.net.")
    layouts = (AdaFaceIResNet(), InsightFaceIResNet(), CVLfaceKeypointViT(), InsightFaceViT())

    def convert(self, checkpoint: Checkpoint, **overrides) -> tuple[FacePreTrainedModel, FaceImageProcessor]:
        """See `convert_checkpoint`."""
        # Under "conf" in the config.json of Hub folders, at the top level in the model.yaml of training runs.
        settings = checkpoint.settings.get("conf", checkpoint.settings)
        channel_order = settings.get("color_space", "RGB").lower()
        return super().convert(checkpoint, **{"channel_order": channel_order, **overrides})

    def config(self, tensors: StateDict, checkpoint: Checkpoint, **overrides) -> FaceConfig:
        told = CVLfaceKeypointViT.anchor in tensors or "num_attention_heads" in overrides
        if InsightFaceViT.anchor in tensors and not told:
            hidden, channels = shape_of(tensors, "blocks.0.mlp.fc1.weight", 2, checkpoint.origin)
            if hidden / channels not in HEADS_OF_MLP_RATIO:
                raise ValueError(
                    f"{checkpoint.origin}: cannot infer the number of attention heads of a transformer that is neither "
                    "CVLface's small nor its base. Pass `num_attention_heads=`."
                )
            overrides["num_attention_heads"] = HEADS_OF_MLP_RATIO[hidden / channels]
        return super().config(tensors, checkpoint, **overrides)
