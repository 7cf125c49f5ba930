"""The two layouts of iresnets: InsightFace's and AdaFace's."""

import math
import re
from itertools import groupby

from ..models import FaceConfig, IResNetConfig
from .checkpoint import StateDict
from .layout import Layout, count_units, shape_of


class InsightFaceIResNet(Layout):
    """`layer1.0.bn1.weight`, with a projection shortcut in every stage."""

    model_type = "iresnet"
    anchor = "prelu.weight"
    pooled = False
    renames = (
        (r"^stem\.convolution", "conv1"),
        (r"^stem\.norm", "bn1"),
        (r"^stem\.activation", "prelu"),
        (r"^stages\.(\d+)", lambda match: f"layer{int(match[1]) + 1}"),
        (r"residual\.norm(\d)", lambda match: f"bn{int(match[1]) + 1}"),
        (r"residual\.convolution", "conv"),
        (r"residual\.activation1", "prelu"),
        (r"shortcut\.convolution", "downsample.0"),
        (r"shortcut\.norm", "downsample.1"),
        (r"^neck\.norm", "bn2"),
        (r"^neck\.projection\.linear", "fc"),
        (r"^neck\.projection\.norm", "features"),
    )

    def config(self, tensors: StateDict, origin: str, **settings) -> IResNetConfig:
        stages = range(1, max(count_units(tensors, r"layer(\d+)\."), 1) + 1)  # at least one, to report it as missing
        widths = [shape_of(tensors, f"layer{stage}.0.conv2.weight", 4, origin)[0] for stage in stages]
        stem_size, num_channels, stem_kernel_size, _ = shape_of(tensors, "conv1.weight", 4, origin)
        embedding_size, features = shape_of(tensors, "fc.weight", 2, origin)
        if is_pooled(tensors) and "neck" not in settings:
            raise ValueError(
                f"{origin}: the last linear layer takes pooled features, but the pooling cannot be inferred. "
                "Pass neck='gwp' (Gaussian-weighted) or neck='gap' (global average)."
            )
        read = {
            "depths": [count_units(tensors, rf"layer{stage}\.(\d+)\.") for stage in stages],
            "hidden_sizes": widths,
            "stem_size": stem_size,
            "stem_kernel_size": stem_kernel_size,
            "num_channels": num_channels,
            "embedding_size": embedding_size,
        }
        if not is_pooled(tensors):
            read["image_size"] = math.isqrt(features // widths[-1]) * 2 ** len(widths)
        return IResNetConfig(**{**read, **settings})

    def holds(self, config: FaceConfig) -> bool:
        return (
            config.model_type == self.model_type
            and config.layer_type == "basic"
            and config.shortcut == "projection"
            and config.embedding_norm != "plain"
            and (config.neck != "flatten") == self.pooled
            and not config.squeeze_excitation
        )


class PooledIResNet(InsightFaceIResNet):
    """The same names, with a last feature map that is pooled instead of flattened."""

    pooled = True


def is_pooled(tensors: StateDict, prefix: str = "") -> bool:
    """Whether the last linear layer takes one value per channel: a pooled instead of a flattened feature map."""
    linear, norm = tensors.get(f"{prefix}fc.weight"), tensors.get(f"{prefix}bn2.weight")
    return linear is not None and norm is not None and linear.shape[1] == len(norm)


class AdaFaceIResNet(Layout):
    """`body.0.res_layer.0.weight`: all units in one list, basic or bottleneck, maybe with squeeze and excitation."""

    model_type = "iresnet"
    anchor = "input_layer.0.weight"
    renames = (
        (r"^stem\.convolution", "input_layer.0"),
        (r"^stem\.norm", "input_layer.1"),
        (r"^stem\.activation", "input_layer.2"),
        (r"residual\.norm(\d)", lambda match: f"res_layer.{max(3 * int(match[1]) - 1, 0)}"),
        (r"residual\.convolution(\d)", lambda match: f"res_layer.{3 * int(match[1]) - 2}"),
        (r"residual\.activation(\d)", lambda match: f"res_layer.{3 * int(match[1])}"),
        (r"residual\.attention", "res_layer.se_block"),
        (r"shortcut\.convolution", "shortcut_layer.0"),
        (r"shortcut\.norm", "shortcut_layer.1"),
        (r"^neck\.norm", "output_layer.0"),
        (r"^neck\.projection\.linear", "output_layer.3"),  # 1 and 2 are dropout and flatten
        (r"^neck\.projection\.norm", "output_layer.4"),
    )

    def config(self, tensors: StateDict, origin: str, **settings) -> IResNetConfig:
        bottleneck = "body.0.res_layer.7.weight" in tensors
        last = f"res_layer.{7 if bottleneck else 4}.weight"
        units = range(max(count_units(tensors, r"body\.(\d+)\."), 1))  # at least one, to report it as missing
        widths = [shape_of(tensors, f"body.{unit}.{last}", 4, origin)[0] for unit in units]
        stages = [(width, len(list(run))) for width, run in groupby(widths)]  # each stage has its own width
        stem_size, num_channels, stem_kernel_size, _ = shape_of(tensors, "input_layer.0.weight", 4, origin)
        embedding_size, features = shape_of(tensors, "output_layer.3.weight", 2, origin)
        read = {
            "depths": [depth for _, depth in stages],
            "hidden_sizes": [width for width, _ in stages],
            "layer_type": "bottleneck" if bottleneck else "basic",
            "squeeze_excitation": "body.0.res_layer.se_block.fc1.weight" in tensors,
            "stem_size": stem_size,
            "stem_kernel_size": stem_kernel_size,
            "num_channels": num_channels,
            "embedding_size": embedding_size,
            "image_size": math.isqrt(features // widths[-1]) * 2 ** len(stages),
            "shortcut": "subsample",
            "embedding_norm": "plain",
            "dropout": 0.4,
        }
        return IResNetConfig(**{**read, **settings})

    def holds(self, config: FaceConfig) -> bool:
        return (
            config.model_type == self.model_type
            and config.shortcut == "subsample"
            and config.embedding_norm == "plain"
            and config.neck == "flatten"
        )

    def their_name(self, name: str, config: IResNetConfig) -> str:
        def position(match: re.Match) -> str:
            return f"body.{sum(config.depths[: int(match[1])]) + int(match[2])}."

        return super().their_name(re.sub(r"^stages\.(\d+)\.(\d+)\.", position, name), config)
