"""MobileNet v1 for faces, the network of SFace."""

import math
from collections import OrderedDict
from itertools import pairwise

from torch import Tensor, nn
from transformers.modeling_layers import GradientCheckpointingLayer

from .configuration_mobilenet_face import MobileNetFaceConfig
from .modeling_face import ConvolutionalMixin, ConvolutionalPreTrainedModel


class ConvLayer(nn.Sequential):
    """Convolution - BN - PReLU."""

    def __init__(
        self,
        config: MobileNetFaceConfig,
        in_channels: int,
        out_channels: int,
        kernel_size: int = 1,
        stride: int = 1,
        groups: int = 1,
    ):
        super().__init__(
            OrderedDict(
                convolution=nn.Conv2d(
                    in_channels, out_channels, kernel_size, stride, (kernel_size - 1) // 2, groups=groups, bias=False
                ),
                norm=nn.BatchNorm2d(out_channels, eps=config.batch_norm_eps),
                activation=nn.PReLU(out_channels),
            )
        )


class SeparableConvolution(GradientCheckpointingLayer):
    """A 3 x 3 depthwise convolution with the stride, then a 1 x 1 convolution."""

    def __init__(self, config: MobileNetFaceConfig, in_channels: int, out_channels: int, stride: int):
        super().__init__()
        self.depthwise = ConvLayer(config, in_channels, in_channels, 3, stride, groups=in_channels)
        self.pointwise = ConvLayer(config, in_channels, out_channels)

    def forward(self, hidden_states: Tensor) -> Tensor:
        return self.pointwise(self.depthwise(hidden_states))


class MobileNetFaceNeck(nn.Module):
    """Maps the last feature map to the raw embedding `(batch, embedding_size)`."""

    def __init__(self, config: MobileNetFaceConfig):
        super().__init__()
        channels, side = config.hidden_sizes[-1], config.image_size
        for stride in config.strides:
            side = math.ceil(side / stride)
        self.norm = nn.BatchNorm2d(channels, eps=config.neck_norm_eps)
        self.dropout = nn.Dropout(config.dropout)
        self.projection = nn.Sequential(
            OrderedDict(
                linear=nn.Linear(channels * side**2, config.embedding_size),
                norm=nn.BatchNorm1d(config.embedding_size, eps=config.neck_norm_eps),
            )
        )

    def forward(self, feature_map: Tensor) -> Tensor:
        return self.projection(self.dropout(self.norm(feature_map)).flatten(1))


class MobileNetFacePreTrainedModel(ConvolutionalPreTrainedModel):
    """Handles the initialization and loading of MobileNets for faces."""

    config_class = MobileNetFaceConfig
    config: MobileNetFaceConfig
    _no_split_modules = ["SeparableConvolution"]  # noqa: RUF012


class MobileNetFaceModel(ConvolutionalMixin, MobileNetFacePreTrainedModel):
    """A MobileNet v1 that computes the face embedding.

    Example:
    ```python
    >>> import torch
    >>> from hf_face import MobileNetFaceConfig, MobileNetFaceModel

    >>> model = MobileNetFaceModel(MobileNetFaceConfig()).eval()
    >>> model(torch.zeros(1, 3, 112, 112)).pooler_output.shape
    torch.Size([1, 128])
    ```
    """

    def __init__(self, config: MobileNetFaceConfig):
        super().__init__(config)
        self.stem = ConvLayer(config, config.num_channels, config.stem_size, 3)
        widths = [config.stem_size, *config.hidden_sizes]
        self.stages = nn.ModuleList(
            SeparableConvolution(config, inputs, outputs, stride)
            for (inputs, outputs), stride in zip(pairwise(widths), config.strides, strict=True)
        )
        self.neck = MobileNetFaceNeck(config)
        self.post_init()


__all__ = ["MobileNetFaceModel", "MobileNetFacePreTrainedModel"]
