"""The two layouts of MobileFaceNet: InsightFace's and foamliu's."""

import re

from ..models import FaceConfig, MobileFaceNetConfig
from .checkpoint import StateDict
from .layout import Layout, count_units, shape_of


class InsightFaceMobileFaceNet(Layout):
    """Nested lists: `layers.3.layers.0.layers.1.layers.0.weight` is a convolution in a unit of the second stage."""

    model_type = "mobilefacenet"
    anchor = "conv_sep.layers.0.weight"
    renames = (
        (r"^neck\.projection\.linear", "features.layers.2"),
        (r"^neck\.projection\.norm", "features.layers.3"),
        (r"\.convolution\.", ".layers.0."),
        (r"(?<=[a-z])\.norm\.", ".layers.1."),
        (r"\.activation\.", ".layers.2."),
        (r"\.layers\.expand", ".layers.0"),
        (r"\.layers\.depthwise", ".layers.1"),
        (r"\.layers\.project\b", ".layers.2"),
        (r"^stem\.first", "layers.0"),
        (r"^stem\.grouped", "layers.1"),
        (r"^stem\.units", "layers.1.layers"),
        (r"^stages\.(\d+)\.0\.", lambda match: f"layers.{2 * int(match[1]) + 2}."),
        (r"^stages\.(\d+)\.(\d+)\.", lambda match: f"layers.{2 * int(match[1]) + 3}.layers.{int(match[2]) - 1}."),
        (r"^neck\.expand", "conv_sep"),
        (r"^neck\.pool", "features.layers.0"),
    )

    def config(self, tensors: StateDict, origin: str, **settings) -> MobileFaceNetConfig:
        stem_channels, num_channels, _, _ = shape_of(tensors, "layers.0.layers.0.weight", 4, origin)
        grouped = "layers.1.layers.0.weight" in tensors
        read = {
            "depths": [
                1 if grouped else count_units(tensors, r"layers\.1\.layers\.(\d+)\."),
                *(count_units(tensors, rf"layers\.{residual}\.layers\.(\d+)\.") for residual in (3, 5, 7)),
            ],
            "width": stem_channels // 64,
            "num_channels": num_channels,
            "embedding_size": shape_of(tensors, "features.layers.2.weight", 2, origin)[0],
            "image_size": 16 * shape_of(tensors, "features.layers.0.layers.0.weight", 4, origin)[-1],
        }
        return MobileFaceNetConfig(**{**read, **settings})

    def holds(self, config: FaceConfig) -> bool:
        return (
            config.model_type == self.model_type
            and config.stem == "grouped"
            and config.hidden_act == "prelu"
            and not config.projection_bias
        )


class FoamliuMobileFaceNet(Layout):
    """`features.0.conv.0.0.weight`: units of all stages in one list, ReLU6, a separable stem."""

    model_type = "mobilefacenet"
    anchor = "gdconv.depthwise.weight"
    renames = (
        (r"^stem\.first\.convolution", "conv1.0"),
        (r"^stem\.first\.norm", "conv1.1"),
        (r"^stem\.(depthwise|pointwise)\.convolution", r"dw_conv.\1"),
        (r"^stem\.depthwise\.norm", "dw_conv.bn1"),
        (r"^stem\.pointwise\.norm", "dw_conv.bn2"),
        (r"layers\.expand\.convolution", "conv.0.0"),
        (r"layers\.expand\.norm", "conv.0.1"),
        (r"layers\.depthwise\.convolution", "conv.1.0"),
        (r"layers\.depthwise\.norm", "conv.1.1"),
        (r"layers\.project\.convolution", "conv.2"),
        (r"layers\.project\.norm", "conv.3"),
        (r"^neck\.expand\.convolution", "conv2.0"),
        (r"^neck\.expand\.norm", "conv2.1"),
        (r"^neck\.pool\.convolution", "gdconv.depthwise"),
        (r"^neck\.pool\.norm", "gdconv.bn"),
        (r"^neck\.projection\.linear", "conv3"),
        (r"^neck\.projection\.norm", "bn"),
    )

    def config(self, tensors: StateDict, origin: str, **settings) -> MobileFaceNetConfig:
        read = {
            "embedding_size": shape_of(tensors, "conv3.weight", 2, origin)[0],
            "num_channels": shape_of(tensors, "conv1.0.weight", 4, origin)[1],
            "image_size": 16 * shape_of(tensors, self.anchor, 4, origin)[-1],
            "stem": "separable",
            "hidden_act": "relu6",
            "projection_bias": True,
        }
        return MobileFaceNetConfig(**{**read, **settings})

    def holds(self, config: FaceConfig) -> bool:
        return (
            config.model_type == self.model_type
            and config.stem == "separable"
            and config.hidden_act == "relu6"
            and config.projection_bias
        )

    def their_name(self, name: str, config: MobileFaceNetConfig) -> str:
        def position(match: re.Match) -> str:
            stage, unit = int(match[1]), int(match[2])
            return f"features.{sum(1 + depth for depth in config.depths[1 : stage + 1]) + unit}."

        return super().their_name(re.sub(r"^stages\.(\d+)\.(\d+)\.", position, name), config)
