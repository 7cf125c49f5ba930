"""Normalization of a uint8 batch on its own device."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn


class BatchNormalize(nn.Module):
    """Computes `(pixel / 255 - mean) / std` per channel, in the channel order the backbone expects.

    Args:
        mean, std: One value per channel, in the order of `channel_order`.
        channel_order: "rgb", or "bgr" for backbones trained on OpenCV's order.

    Raises:
        ValueError: if `channel_order` is neither.

    Example:
        >>> normalize = BatchNormalize(mean=[0.5] * 3, std=[0.5] * 3)
        >>> normalize(torch.full((1, 3, 112, 112), 255, dtype=torch.uint8)).unique()
        tensor([1.])
    """

    scale: Tensor
    shift: Tensor

    def __init__(self, mean: Sequence[float], std: Sequence[float], channel_order: str = "rgb"):
        super().__init__()
        if channel_order not in ("rgb", "bgr"):
            raise ValueError(f"channel_order must be 'rgb' or 'bgr', found {channel_order!r}")
        self.channel_order = channel_order
        mean, std = (torch.tensor(values, dtype=torch.float32).view(-1, 1, 1) for values in (mean, std))
        # one multiplication and one addition: (x / 255 - mean) / std = x * scale + shift
        self.register_buffer("scale", 1 / (255 * std), persistent=False)
        self.register_buffer("shift", -mean / std, persistent=False)

    @classmethod
    def from_image_processor(cls, image_processor: Any) -> "BatchNormalize":
        """Combine what a `FaceImageProcessor` does to pixels (`do_rescale`, `do_normalize`) into one step."""
        factor = 255 * image_processor.rescale_factor if image_processor.do_rescale else 255
        mean, std = image_processor.image_mean, image_processor.image_std
        if not image_processor.do_normalize:
            mean, std = [0.0] * 3, [1.0] * 3
        return cls([m / factor for m in mean], [s / factor for s in std], image_processor.channel_order)

    def forward(self, pixel_values: Tensor) -> Tensor:
        """Normalize RGB uint8 (B, 3, H, W) in any memory format to contiguous float32 (B, 3, H, W), on its device."""
        if self.channel_order == "bgr":
            pixel_values = pixel_values.flip(1)
        scale, shift = self.scale.to(pixel_values.device), self.shift.to(pixel_values.device)
        return torch.addcmul(shift, pixel_values.to(torch.float32, memory_format=torch.contiguous_format), scale)
