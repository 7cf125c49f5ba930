"""Residual networks for face recognition: InsightFace, AdaFace, MagFace and pooled variants."""

import math
from collections import OrderedDict

import torch
from timm.layers import SEModule
from torch import Tensor, nn
from transformers.modeling_layers import GradientCheckpointingLayer

from .configuration_iresnet import IResNetConfig
from .modeling_face import ConvolutionalMixin, FacePreTrainedModel


def conv_norm(config: IResNetConfig, in_channels: int, out_channels: int, kernel_size: int, stride: int = 1):
    convolution = nn.Conv2d(in_channels, out_channels, kernel_size, stride, kernel_size // 2, bias=False)
    return convolution, nn.BatchNorm2d(out_channels, eps=config.batch_norm_eps)


class IResNetStem(nn.Sequential):
    """Convolution - BN - PReLU at the crop's resolution."""

    def __init__(self, config: IResNetConfig):
        convolution, norm = conv_norm(config, config.num_channels, config.stem_size, config.stem_kernel_size)
        super().__init__(OrderedDict(convolution=convolution, norm=norm, activation=nn.PReLU(config.stem_size)))


class IResNetUnit(GradientCheckpointingLayer):
    """BN - conv - BN - PReLU - conv - BN plus a shortcut; the last convolution has the stride."""

    def __init__(self, config: IResNetConfig, in_channels: int, out_channels: int, stride: int):
        super().__init__()
        middle = out_channels // 4
        convolutions = {  # (channels, kernel size, stride)
            "basic": [(out_channels, 3, 1), (out_channels, 3, stride)],
            "bottleneck": [(middle, 1, 1), (middle, 3, 1), (out_channels, 1, stride)],
        }[config.layer_type]
        self.residual = nn.Sequential()
        self.residual.norm0 = nn.BatchNorm2d(in_channels, eps=config.batch_norm_eps)
        channels = in_channels
        for i, (width, kernel_size, step) in enumerate(convolutions, start=1):
            if i > 1:
                self.residual.add_module(f"activation{i - 1}", nn.PReLU(channels))
            convolution, norm = conv_norm(config, channels, width, kernel_size, step)
            self.residual.add_module(f"convolution{i}", convolution)
            self.residual.add_module(f"norm{i}", norm)
            channels = width
        if config.squeeze_excitation:
            self.residual.attention = SEModule(out_channels, rd_channels=out_channels // 16, bias=False)

        self.shortcut = nn.Sequential()
        if in_channels != out_channels or (stride > 1 and config.shortcut == "projection"):
            convolution, norm = conv_norm(config, in_channels, out_channels, 1, stride)
            self.shortcut = nn.Sequential(OrderedDict(convolution=convolution, norm=norm))
        elif stride > 1:
            self.shortcut.subsample = nn.MaxPool2d(1, stride)

    def forward(self, hidden_states: Tensor) -> Tensor:
        return self.residual(hidden_states) + self.shortcut(hidden_states)


class BiasBatchNorm1d(nn.BatchNorm1d):
    """A batch norm that learns only its bias. Its weight is a buffer: a frozen parameter would thaw on loading."""

    def __init__(self, num_features: int, **kwargs):
        super().__init__(num_features, **kwargs)
        weight = self.weight.data
        del self.weight
        self.register_buffer("weight", weight)


class IResNetNeck(nn.Module):
    """Maps the last feature map `(batch, channels, height, width)` to the raw embedding `(batch, embedding_size)`."""

    def __init__(self, config: IResNetConfig):
        super().__init__()
        channels, eps = config.hidden_sizes[-1], config.batch_norm_eps
        side = math.ceil(config.image_size / 2 ** len(config.depths))  # each stage halves
        in_features = channels * side**2 if config.neck == "flatten" else channels
        self.pooling, self.sigma = config.neck, config.gwp_sigma
        self.norm = nn.BatchNorm2d(channels, eps=eps)
        self.dropout = nn.Dropout(config.dropout)
        last_norm = BiasBatchNorm1d if config.embedding_norm == "bias" else nn.BatchNorm1d
        self.projection = nn.Sequential(
            OrderedDict(
                linear=nn.Linear(in_features, config.embedding_size),
                norm=last_norm(config.embedding_size, eps=eps, affine=config.embedding_norm != "plain"),
            )
        )

    def forward(self, feature_map: Tensor) -> Tensor:
        feature_map = self.norm(feature_map)
        if self.pooling == "gwp":
            feature_map = feature_map * gaussian_window(self.sigma, feature_map)
        pooled = feature_map.flatten(1) if self.pooling == "flatten" else feature_map.mean((2, 3))
        return self.projection(self.dropout(pooled))


def gaussian_window(sigma: float, feature_map: Tensor) -> Tensor:
    """
    A Gaussian `(height, width)` around the center of a feature map, which sums to one. The published networks multiply
    by it and then take the *mean* over positions, so the pooled vector is the weighted average divided by the number of
    positions.
    """
    # Recomputed on each call: 49 values cost nothing, and there is no buffer to load, move or reinitialize.
    device = feature_map.device
    sides = [torch.arange(side, device=device, dtype=torch.float32) - side // 2 for side in feature_map.shape[2:]]
    vertical, horizontal = ((-(side**2) / (2 * sigma**2)).softmax(0) for side in sides)
    return torch.outer(vertical, horizontal).to(feature_map.dtype)


class IResNetPreTrainedModel(FacePreTrainedModel):
    """Handles the initialization and loading of iresnets."""

    config_class = IResNetConfig
    config: IResNetConfig
    supports_gradient_checkpointing = True
    _can_compile_fullgraph = True
    _no_split_modules = ["IResNetUnit"]  # noqa: RUF012

    @torch.no_grad()
    def _init_weights(self, module):
        if isinstance(module, nn.PReLU):
            nn.init.constant_(module.weight, 0.25)
        elif isinstance(module, nn.Linear):
            nn.init.kaiming_uniform_(module.weight, a=5**0.5)
            nn.init.zeros_(module.bias)
        else:
            super()._init_weights(module)


class IResNetModel(ConvolutionalMixin, IResNetPreTrainedModel):
    """A residual network with a neck that computes the face embedding.

    Example:
    ```python
    >>> import torch
    >>> from hf_face import IResNetConfig, IResNetModel

    >>> model = IResNetModel(IResNetConfig(depths=[2, 2, 2, 2])).eval()
    >>> model(torch.zeros(1, 3, 112, 112)).pooler_output.shape
    torch.Size([1, 512])
    ```
    """

    def __init__(self, config: IResNetConfig):
        super().__init__(config)
        self.stem = IResNetStem(config)
        self.stages = nn.ModuleList()
        channels = config.stem_size
        for depth, width in zip(config.depths, config.hidden_sizes, strict=True):
            first = IResNetUnit(config, channels, width, stride=2)
            self.stages.append(nn.Sequential(first, *(IResNetUnit(config, width, width, 1) for _ in range(1, depth))))
            channels = width
        self.neck = IResNetNeck(config)
        self.post_init()

    @property
    def takes_any_size(self) -> bool:
        return self.config.neck != "flatten"


__all__ = ["IResNetModel", "IResNetPreTrainedModel"]
