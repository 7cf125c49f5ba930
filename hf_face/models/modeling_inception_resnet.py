"""Inception-ResNet v1, the network of FaceNet's reimplementations."""

from collections import OrderedDict

import torch
from torch import Tensor, nn
from transformers.modeling_layers import GradientCheckpointingLayer

from .configuration_inception_resnet import InceptionResNetConfig
from .modeling_face import ConvolutionalMixin, ConvolutionalPreTrainedModel

Kernel = int | tuple[int, int]


class ConvLayer(nn.Sequential):
    """Convolution - BN - ReLU. As in TensorFlow's network, convolutions are not padded by default."""

    def __init__(
        self,
        config: InceptionResNetConfig,
        in_channels: int,
        out_channels: int,
        kernel_size: Kernel = 1,
        stride: int = 1,
        padding: Kernel = 0,
    ):
        convolution = nn.Conv2d(in_channels, out_channels, kernel_size, stride, padding, bias=False)
        norm = nn.BatchNorm2d(out_channels, eps=config.batch_norm_eps)
        super().__init__(OrderedDict(convolution=convolution, norm=norm, activation=nn.ReLU()))


class InceptionResNetBlock(GradientCheckpointingLayer):
    """Adds to its input a 1 x 1 convolution of concatenated `branches`, scaled."""

    def __init__(self, channels: int, branches: list[nn.Sequential], width: int, scale: float, activation: bool = True):
        super().__init__()
        self.branches = nn.ModuleList(branches)
        self.project = nn.Conv2d(width, channels, 1)
        self.scale = scale
        self.activation = nn.ReLU() if activation else nn.Identity()

    def forward(self, hidden_states: Tensor) -> Tensor:
        residual = self.project(torch.cat([branch(hidden_states) for branch in self.branches], 1))
        return self.activation(hidden_states + self.scale * residual)


class InceptionReduction(nn.Module):
    """Halves the feature map by several branches and a max pooling, whose outputs are concatenated."""

    def __init__(self, branches: list[nn.Sequential]):
        super().__init__()
        self.branches = nn.ModuleList(branches)
        self.pool = nn.MaxPool2d(3, 2)

    def forward(self, hidden_states: Tensor) -> Tensor:
        return torch.cat([*(branch(hidden_states) for branch in self.branches), self.pool(hidden_states)], 1)


def stem(config: InceptionResNetConfig) -> nn.Sequential:
    return nn.Sequential(
        OrderedDict(
            conv1=ConvLayer(config, config.num_channels, 32, 3, stride=2),
            conv2=ConvLayer(config, 32, 32, 3),
            conv3=ConvLayer(config, 32, 64, 3, padding=1),
            pool=nn.MaxPool2d(3, 2),
            conv4=ConvLayer(config, 64, 80),
            conv5=ConvLayer(config, 80, 192, 3),
            conv6=ConvLayer(config, 192, 256, 3, stride=2),
        )
    )


def block_a(config: InceptionResNetConfig) -> InceptionResNetBlock:
    branches = [
        nn.Sequential(ConvLayer(config, 256, 32)),
        nn.Sequential(ConvLayer(config, 256, 32), ConvLayer(config, 32, 32, 3, padding=1)),
        nn.Sequential(
            ConvLayer(config, 256, 32), ConvLayer(config, 32, 32, 3, padding=1), ConvLayer(config, 32, 32, 3, padding=1)
        ),
    ]
    return InceptionResNetBlock(256, branches, 96, config.residual_scales[0])


def reduction_a(config: InceptionResNetConfig) -> InceptionReduction:
    longer = (ConvLayer(config, 256, 192), ConvLayer(config, 192, 192, 3, padding=1))
    return InceptionReduction(
        [
            nn.Sequential(ConvLayer(config, 256, 384, 3, stride=2)),
            nn.Sequential(*longer, ConvLayer(config, 192, 256, 3, stride=2)),
        ]
    )


def block_b(config: InceptionResNetConfig) -> InceptionResNetBlock:
    branches = [
        nn.Sequential(ConvLayer(config, 896, 128)),
        nn.Sequential(
            ConvLayer(config, 896, 128),
            ConvLayer(config, 128, 128, (1, 7), padding=(0, 3)),
            ConvLayer(config, 128, 128, (7, 1), padding=(3, 0)),
        ),
    ]
    return InceptionResNetBlock(896, branches, 256, config.residual_scales[1])


def reduction_b(config: InceptionResNetConfig) -> InceptionReduction:
    longer = (ConvLayer(config, 896, 256), ConvLayer(config, 256, 256, 3, padding=1))
    return InceptionReduction(
        [
            nn.Sequential(ConvLayer(config, 896, 256), ConvLayer(config, 256, 384, 3, stride=2)),
            nn.Sequential(ConvLayer(config, 896, 256), ConvLayer(config, 256, 256, 3, stride=2)),
            nn.Sequential(*longer, ConvLayer(config, 256, 256, 3, stride=2)),
        ]
    )


def block_c(config: InceptionResNetConfig, last: bool = False) -> InceptionResNetBlock:
    branches = [
        nn.Sequential(ConvLayer(config, 1792, 192)),
        nn.Sequential(
            ConvLayer(config, 1792, 192),
            ConvLayer(config, 192, 192, (1, 3), padding=(0, 1)),
            ConvLayer(config, 192, 192, (3, 1), padding=(1, 0)),
        ),
    ]
    scale = 1.0 if last else config.residual_scales[2]
    return InceptionResNetBlock(1792, branches, 384, scale, activation=not last)


class InceptionResNetNeck(nn.Module):
    """Maps the last feature map to the raw embedding `(batch, embedding_size)` by global average pooling."""

    def __init__(self, config: InceptionResNetConfig):
        super().__init__()
        self.dropout = nn.Dropout(config.dropout)
        self.projection = nn.Sequential(
            OrderedDict(
                linear=nn.Linear(1792, config.embedding_size, bias=False),
                norm=nn.BatchNorm1d(config.embedding_size, eps=config.batch_norm_eps),
            )
        )

    def forward(self, feature_map: Tensor) -> Tensor:
        return self.projection(self.dropout(feature_map.mean((2, 3))))


class InceptionResNetPreTrainedModel(ConvolutionalPreTrainedModel):
    """Handles the initialization and loading of Inception-ResNets."""

    config_class = InceptionResNetConfig
    config: InceptionResNetConfig
    _no_split_modules = ["InceptionResNetBlock"]  # noqa: RUF012


class InceptionResNetModel(ConvolutionalMixin, InceptionResNetPreTrainedModel):
    """An Inception-ResNet v1 that computes the face embedding.

    Example:
    ```python
    >>> import torch
    >>> from hf_face import InceptionResNetConfig, InceptionResNetModel

    >>> model = InceptionResNetModel(InceptionResNetConfig(depths=[1, 1, 1])).eval()
    >>> model(torch.zeros(1, 3, 160, 160)).pooler_output.shape
    torch.Size([1, 512])
    ```
    """

    takes_any_size = True

    def __init__(self, config: InceptionResNetConfig):
        super().__init__(config)
        self.stem = stem(config)
        a, b, c = config.depths
        self.stages = nn.ModuleList(
            [
                nn.Sequential(*(block_a(config) for _ in range(a))),
                nn.Sequential(reduction_a(config), *(block_b(config) for _ in range(b))),
                nn.Sequential(reduction_b(config), *(block_c(config) for _ in range(c)), block_c(config, last=True)),
            ]
        )
        self.neck = InceptionResNetNeck(config)
        self.post_init()


__all__ = ["InceptionResNetModel", "InceptionResNetPreTrainedModel"]
