"""facenet-pytorch."""

from ..models import FaceConfig, InceptionResNetConfig
from ..models.configuration_inception_resnet import FACENET
from ..registry import sources
from .checkpoint import StateDict
from .layout import Layout, LayoutSource, count_units, shape_of

STEM = ("conv2d_1a", "conv2d_2a", "conv2d_2b", "conv2d_3b", "conv2d_4a", "conv2d_4b")


class FaceNetInceptionResNet(Layout):
    """`repeat_1.0.branch1.0.conv.weight`: blocks and reductions under the names of TensorFlow's network."""

    model_type = "inception_resnet"
    anchor = "conv2d_1a.conv.weight"
    renames = (
        (r"^stem\.conv(\d)", lambda match: STEM[int(match[1]) - 1]),
        (r"^neck\.projection\.linear", "last_linear"),
        (r"^neck\.projection\.norm", "last_bn"),
        (r"\.convolution\.", ".conv."),
        (r"\.norm\.", ".bn."),
        (r"\.project\.", ".conv2d."),
        (r"branches\.", "branch"),
    )

    def config(self, tensors: StateDict, origin: str, **settings) -> InceptionResNetConfig:
        read = {
            "depths": [count_units(tensors, rf"repeat_{kind}\.(\d+)\.") for kind in (1, 2, 3)],
            "num_channels": shape_of(tensors, self.anchor, 4, origin)[1],
            "embedding_size": shape_of(tensors, "last_linear.weight", 2, origin)[0],
        }
        return InceptionResNetConfig(**{**read, **settings})

    def holds(self, config: FaceConfig) -> bool:
        return config.model_type == self.model_type

    def their_name(self, name: str, config: InceptionResNetConfig) -> str:
        if name.startswith("stages."):
            _, stage, position, rest = name.split(".", 3)
            name = f"{_block_name(int(stage), int(position), config)}.{rest}"
        name = super().their_name(name, config)
        return name if name.startswith("mixed_7a") else _unlist_single_convolutions(name)


def _block_name(stage: int, position: int, config: InceptionResNetConfig) -> str:
    if stage == 0:
        return f"repeat_1.{position}"
    if position == 0:
        return "mixed_6a" if stage == 1 else "mixed_7a"
    return "block8" if position > config.depths[stage] else f"repeat_{stage + 1}.{position - 1}"


def _unlist_single_convolutions(name: str) -> str:
    """The first branch is a single convolution, which is not in a list, except in the last reduction."""
    return name.replace(".branch0.0.", ".branch0.")


@sources.register("facenet_pytorch", citation=FACENET)
class FaceNetPyTorch(LayoutSource):
    """timesler/facenet-pytorch: InceptionResnetV1, pretrained on VGGFace2 or CASIA-WebFace, 160 x 160 pixels."""

    url = "https://github.com/timesler/facenet-pytorch"
    files = "`.pt`"
    license = "not stated; the code is MIT"
    layouts = (FaceNetInceptionResNet(),)
    class_centers = {"logits.weight": False}  # noqa: RUF012
    ignored = ("logits.bias",)
    preprocessing = {"image_mean": [0.5] * 3, "image_std": [128 / 255] * 3}  # noqa: RUF012  (x - 127.5) / 128
