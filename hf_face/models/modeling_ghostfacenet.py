"""GhostFaceNets."""

import math
from collections import OrderedDict

import torch
from timm.layers import Conv2dSame
from torch import Tensor, nn
from transformers.modeling_layers import GradientCheckpointingLayer

from .configuration_ghostfacenet import GhostFaceNetConfig
from .modeling_face import ConvolutionalMixin, ConvolutionalPreTrainedModel


class ConvLayer(nn.Sequential):
    """Convolution - BN, and PReLU if `activation`. Pads like TensorFlow: the odd pixel at the bottom and right."""

    def __init__(
        self,
        config: GhostFaceNetConfig,
        in_channels: int,
        out_channels: int,
        kernel_size: int = 1,
        stride: int = 1,
        groups: int = 1,
        activation: bool = False,
    ):
        convolution = Conv2dSame(in_channels, out_channels, kernel_size, stride, groups=groups, bias=False)
        norm = nn.BatchNorm2d(out_channels, eps=config.batch_norm_eps)
        super().__init__(OrderedDict(convolution=convolution, norm=norm))
        if activation:
            self.activation = nn.PReLU(out_channels)


class GhostModule(nn.Module):
    """A 1 x 1 convolution to half of the channels; a 3 x 3 depthwise convolution of these gives the other half."""

    def __init__(self, config: GhostFaceNetConfig, in_channels: int, out_channels: int, activation: bool):
        super().__init__()
        half = out_channels // 2
        self.primary = ConvLayer(config, in_channels, half, activation=activation)
        self.cheap = ConvLayer(config, half, half, 3, groups=half, activation=activation)

    def forward(self, hidden_states: Tensor) -> Tensor:
        primary = self.primary(hidden_states)
        return torch.cat([primary, self.cheap(primary)], 1)


class GhostAttention(nn.Module):
    """Squeeze and excitation with Keras 2's hard sigmoid, clip(0.2 x + 0.5, 0, 1)."""

    def __init__(self, channels: int, squeezed: int):
        super().__init__()
        self.squeeze = nn.Conv2d(channels, squeezed, 1)
        self.activation = nn.PReLU(squeezed)
        self.excite = nn.Conv2d(squeezed, channels, 1)

    def forward(self, hidden_states: Tensor) -> Tensor:
        gate = self.excite(self.activation(self.squeeze(hidden_states.mean((2, 3), keepdim=True))))
        return hidden_states * (0.2 * gate + 0.5).clamp(0, 1)


class GhostBottleneck(GradientCheckpointingLayer):
    """Two ghost modules, with a strided depthwise convolution and channel attention between them, and a shortcut."""

    def __init__(self, config: GhostFaceNetConfig, in_channels: int, index: int):
        super().__init__()
        middle, out_channels = config.expansion_sizes[index], config.hidden_sizes[index]
        kernel_size, stride = config.kernel_sizes[index], config.strides[index]
        self.expand = GhostModule(config, in_channels, middle, activation=True)
        self.downsample: nn.Module = nn.Identity()
        if stride > 1:
            self.downsample = ConvLayer(config, middle, middle, kernel_size, stride, groups=middle)
        squeezed = config.squeeze_sizes[index]
        self.attention = GhostAttention(middle, squeezed) if squeezed else nn.Identity()
        self.project = GhostModule(config, middle, out_channels, activation=False)
        self.shortcut = nn.Sequential()
        if stride > 1 or in_channels != out_channels:
            self.shortcut.depthwise = ConvLayer(config, in_channels, in_channels, kernel_size, stride, in_channels)
            self.shortcut.pointwise = ConvLayer(config, in_channels, out_channels)

    def forward(self, hidden_states: Tensor) -> Tensor:
        expanded = self.attention(self.downsample(self.expand(hidden_states)))
        return self.project(expanded) + self.shortcut(hidden_states)


class GhostFaceNetNeck(nn.Module):
    """Maps the last feature map to the raw embedding `(batch, embedding_size)`: a weight for each position and channel
    (global depthwise convolution), then a 1 x 1 convolution."""

    def __init__(self, config: GhostFaceNetConfig):
        super().__init__()
        channels, eps, side = config.head_size, config.batch_norm_eps, config.image_size
        for stride in (config.stem_stride, *config.strides):
            side = math.ceil(side / stride)
        self.expand = ConvLayer(config, config.hidden_sizes[-1], channels, activation=True)
        self.pool = nn.Sequential(
            OrderedDict(
                convolution=nn.Conv2d(channels, channels, side, groups=channels, bias=False),
                norm=nn.BatchNorm2d(channels, eps=eps),
            )
        )
        self.projection = nn.Sequential(
            OrderedDict(
                linear=nn.Linear(channels, config.embedding_size, bias=config.head_bias),
                norm=nn.BatchNorm1d(config.embedding_size, eps=eps),
            )
        )

    def forward(self, feature_map: Tensor) -> Tensor:
        return self.projection(self.pool(self.expand(feature_map)).flatten(1))


class GhostFaceNetPreTrainedModel(ConvolutionalPreTrainedModel):
    """Handles the initialization and loading of GhostFaceNets."""

    config_class = GhostFaceNetConfig
    config: GhostFaceNetConfig
    _no_split_modules = ["GhostBottleneck"]  # noqa: RUF012


class GhostFaceNetModel(ConvolutionalMixin, GhostFaceNetPreTrainedModel):
    """A GhostFaceNet that computes the face embedding.

    Example:
    ```python
    >>> import torch
    >>> from hf_face import GhostFaceNetConfig, GhostFaceNetModel

    >>> model = GhostFaceNetModel(GhostFaceNetConfig()).eval()
    >>> model(torch.zeros(1, 3, 112, 112)).pooler_output.shape
    torch.Size([1, 512])
    ```
    """

    def __init__(self, config: GhostFaceNetConfig):
        super().__init__(config)
        self.stem = ConvLayer(config, config.num_channels, config.stem_size, 3, config.stem_stride, activation=True)
        inputs = [config.stem_size, *config.hidden_sizes]
        self.stages = nn.ModuleList(
            GhostBottleneck(config, inputs[index], index) for index in range(len(config.hidden_sizes))
        )
        self.neck = GhostFaceNetNeck(config)
        self.post_init()


__all__ = ["GhostFaceNetModel", "GhostFaceNetPreTrainedModel"]
