"""MobileFaceNet and InsightFace's wider variants."""

import math
from collections import OrderedDict

from torch import Tensor, nn
from transformers.activations import ACT2FN
from transformers.modeling_layers import GradientCheckpointingLayer

from .configuration_mobilefacenet import MobileFaceNetConfig
from .modeling_face import ConvolutionalMixin, ConvolutionalPreTrainedModel

FEATURES = 512  # channels of the last feature map at any width


class ConvLayer(nn.Sequential):
    """Convolution - BN - activation; "linear" has no activation (the paper's term for a unit's last convolution)."""

    def __init__(
        self,
        config: MobileFaceNetConfig,
        in_channels: int,
        out_channels: int,
        kernel_size: int = 1,
        stride: int = 1,
        groups: int = 1,
        padding: int | None = None,
        activation: str | None = None,
    ):
        padding = (kernel_size - 1) // 2 if padding is None else padding
        convolution = nn.Conv2d(in_channels, out_channels, kernel_size, stride, padding, groups=groups, bias=False)
        norm = nn.BatchNorm2d(out_channels, eps=config.batch_norm_eps)
        super().__init__(OrderedDict(convolution=convolution, norm=norm))
        activation = activation or config.hidden_act
        if activation != "linear":
            self.activation = nn.PReLU(out_channels) if activation == "prelu" else ACT2FN[activation]


class InvertedResidual(GradientCheckpointingLayer):
    """1 x 1 to `hidden` channels, 3 x 3 depthwise, 1 x 1 without activation; a shortcut unless the shape changes."""

    def __init__(self, config: MobileFaceNetConfig, in_channels: int, out_channels: int, hidden: int, stride: int = 1):
        super().__init__()
        self.has_shortcut = stride == 1 and in_channels == out_channels
        self.layers = nn.Sequential(
            OrderedDict(
                expand=ConvLayer(config, in_channels, hidden),
                depthwise=ConvLayer(config, hidden, hidden, 3, stride, groups=hidden),
                project=ConvLayer(config, hidden, out_channels, activation="linear"),
            )
        )

    def forward(self, hidden_states: Tensor) -> Tensor:
        output = self.layers(hidden_states)
        return hidden_states + output if self.has_shortcut else output


class MobileFaceNetStem(nn.Sequential):
    """3 x 3 convolution with stride 2, followed by the layers that `stem` and `depths[0]` select."""

    def __init__(self, config: MobileFaceNetConfig):
        channels = 64 * config.width
        super().__init__(OrderedDict(first=ConvLayer(config, config.num_channels, channels, 3, stride=2)))
        if config.stem == "separable":
            self.depthwise = ConvLayer(config, channels, channels, 3, groups=channels, activation="relu")
            self.pointwise = ConvLayer(config, channels, channels, activation="relu")
        elif config.depths[0] == 1:
            # 64 groups at any width: depthwise at width 1 only.
            self.grouped = ConvLayer(config, channels, channels, 3, groups=64)
        else:
            units = (InvertedResidual(config, channels, channels, 128) for _ in range(config.depths[0]))
            self.units = nn.Sequential(*units)


class MobileFaceNetNeck(nn.Module):
    """Maps the last feature map to the raw embedding `(batch, embedding_size)`: a weight for each position and channel
    (global depthwise convolution), then a linear layer."""

    def __init__(self, config: MobileFaceNetConfig, channels: int):
        super().__init__()
        side = math.ceil(config.image_size / 16)
        self.expand = ConvLayer(config, channels, FEATURES)
        self.pool = ConvLayer(config, FEATURES, FEATURES, side, groups=FEATURES, padding=0, activation="linear")
        self.projection = nn.Sequential(
            OrderedDict(
                linear=nn.Linear(FEATURES, config.embedding_size, bias=config.projection_bias),
                norm=nn.BatchNorm1d(config.embedding_size, eps=config.batch_norm_eps),
            )
        )

    def forward(self, feature_map: Tensor) -> Tensor:
        return self.projection(self.pool(self.expand(feature_map)).flatten(1))


class MobileFaceNetPreTrainedModel(ConvolutionalPreTrainedModel):
    """Handles the initialization and loading of MobileFaceNets."""

    config_class = MobileFaceNetConfig
    config: MobileFaceNetConfig
    _no_split_modules = ["InvertedResidual"]  # noqa: RUF012


class MobileFaceNetModel(ConvolutionalMixin, MobileFaceNetPreTrainedModel):
    """MobileFaceNet, with about a million parameters at the paper's width.

    Example:
    ```python
    >>> import torch
    >>> from hf_face import MobileFaceNetConfig, MobileFaceNetModel

    >>> model = MobileFaceNetModel(MobileFaceNetConfig(embedding_size=512, width=2)).eval()
    >>> model(torch.zeros(1, 3, 112, 112)).pooler_output.shape
    torch.Size([1, 512])
    ```
    """

    def __init__(self, config: MobileFaceNetConfig):
        super().__init__(config)
        self.stem = MobileFaceNetStem(config)
        channels = 64 * config.width
        self.stages = nn.ModuleList()
        # Channels between units, inside the first (downsampling) unit, and inside the units after it.
        for depth, (out, halving, following) in zip(
            config.depths[1:], [(64, 128, 128), (128, 256, 256), (128, 512, 256)], strict=True
        ):
            out *= config.width
            units = [InvertedResidual(config, channels, out, halving, stride=2)]
            units += [InvertedResidual(config, out, out, following) for _ in range(depth)]
            self.stages.append(nn.Sequential(*units))
            channels = out
        self.neck = MobileFaceNetNeck(config, channels)
        self.post_init()


__all__ = ["MobileFaceNetModel", "MobileFaceNetPreTrainedModel"]
