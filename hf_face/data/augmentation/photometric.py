"""Color operations on a batch with one strength per image, and color jitter.

Operations take uint8 (B, 3, H, W) and strengths (B,) on the CPU, and return uint8, rounded as in torchvision. The
torchvision functions of the same names take a single strength for the whole batch.
"""

from collections.abc import Callable

import torch
from torch import Generator, Tensor
from torch.nn.functional import conv2d

from ...registry import augmentations
from .base import PerImage
from .draws import apply_where, beside, uniform

GRAY_WEIGHTS = (0.2989, 0.587, 0.114)  # of R, G and B, ITU-R BT.601


def adjust_brightness(images: Tensor, factor: Tensor) -> Tensor:
    """Blend with black. Here and below, factor 1 leaves an image unchanged."""
    return _blend(images.float(), 0.0, factor)


def adjust_contrast(images: Tensor, factor: Tensor) -> Tensor:
    """Blend with the image's mean gray."""
    return _blend(images.float(), _gray(images).mean((1, 2, 3), keepdim=True), factor)


def adjust_saturation(images: Tensor, factor: Tensor) -> Tensor:
    """Blend with the gray image."""
    return _blend(images.float(), _gray(images), factor)


def adjust_hue(images: Tensor, shift: Tensor) -> Tensor:
    """Shift the hue by a fraction of the color wheel, -0.5 to 0.5, keeping HSV saturation and value."""
    pixels = images.float()
    red, green, blue = pixels.unbind(1)  # (B, H, W)
    value, chroma = pixels.amax(1), pixels.amax(1) - pixels.amin(1)
    divisor = chroma.clamp(min=1)  # gray has no hue, so any value is fine
    hue = torch.where(value == green, (blue - red) / divisor + 2, (red - green) / divisor + 4)
    hue = torch.where(value == red, (green - blue) / divisor, hue)  # 0 to 6, or a little below 0
    corners = beside(images, torch.tensor([5.0, 3.0, 1.0])).view(1, 3, 1, 1)  # where R, G and B are lowest
    position = (corners + hue[:, None] + 6 * _per_image(shift, images)) % 6
    turned = value[:, None] - chroma[:, None] * torch.minimum(position, 4 - position).clamp(0, 1)
    return turned.round().to(torch.uint8)


def adjust_sharpness(images: Tensor, factor: Tensor) -> Tensor:
    """Blend with a smoothed image that keeps the original border pixels."""
    pixels = images.float()
    kernel = torch.full((3, 1, 3, 3), 1 / 13, device=images.device)
    kernel[:, :, 1, 1] = 5 / 13
    smoothed = pixels.clone()
    smoothed[..., 1:-1, 1:-1] = conv2d(pixels, kernel, groups=3).round()
    return _blend(pixels, smoothed, factor)


def posterize(images: Tensor, bits: Tensor) -> Tensor:
    """Keep the highest `bits` bits of each value."""
    return images & _per_image(256 - 2 ** (8 - bits), images).to(torch.uint8)


def solarize(images: Tensor, threshold: Tensor) -> Tensor:
    """Invert values at or above `threshold`."""
    return torch.where(images >= _per_image(threshold, images), 255 - images, images)


def _blend(pixels: Tensor, other: Tensor | float, factor: Tensor) -> Tensor:
    # as a step away from the image, so that pixels that are equal in both stay unchanged
    return (pixels + (other - pixels) * (1 - _per_image(factor, pixels))).clamp(0, 255).to(torch.uint8)


def _gray(images: Tensor) -> Tensor:
    weights = beside(images, torch.tensor(GRAY_WEIGHTS)).view(1, 3, 1, 1)
    return (images * weights).sum(1, keepdim=True).floor()


def _per_image(values: Tensor, images: Tensor) -> Tensor:
    return beside(images, values).view(-1, 1, 1, 1)


@augmentations.register("color_jitter")
class ColorJitter(PerImage):
    """Changes brightness, contrast, saturation and hue in random order, as torchvision's `ColorJitter` does.

    Args:
        brightness, contrast, saturation: Strength x; factors are drawn from max(0, 1 - x) ... 1 + x.
        hue: Maximum shift x, as a fraction of the color wheel, at most 0.5; shifts are drawn from -x ... x.
        p: Probability for each image.
    """

    def __init__(
        self,
        brightness: float = 0.0,
        contrast: float = 0.0,
        saturation: float = 0.0,
        hue: float = 0.0,
        p: float = 1.0,
    ):
        super().__init__(p)
        around_one: dict[Callable[[Tensor, Tensor], Tensor], float] = {
            adjust_brightness: brightness,
            adjust_contrast: contrast,
            adjust_saturation: saturation,
        }
        self.adjustments = [(adjust, max(0.0, 1 - x), 1 + x) for adjust, x in around_one.items() if x]
        if hue:
            self.adjustments.append((adjust_hue, -hue, hue))

    def augment(self, images: Tensor, generator: Generator | None) -> Tensor:
        order = uniform(len(images), len(self.adjustments), generator=generator).argsort(1)
        for place in range(len(self.adjustments)):
            for index, (adjust, low, high) in enumerate(self.adjustments):
                strength = uniform(len(images), low=low, high=high, generator=generator)
                apply_where(order[:, place] == index, images, adjust, strength)
        return images
