"""AdaFace's low-resolution augmentation: images are shrunk and enlarged again, with sizes and filters per image.

Resizing is linear and separable, so an image resized to any smaller size is `W X W^T` with a matrix `W` of filter
weights. The matrices of a whole batch, with different sizes and filters, are computed at once and zero-padded to the
same shape.
"""

import math
from collections.abc import Callable

import torch
from torch import Generator, Tensor

from ...registry import augmentations
from .base import PerImage
from .draws import beside, integers, uniform

ADAFACE = """
@inproceedings{adaface,
  title = {AdaFace: Quality Adaptive Margin for Face Recognition},
  author = {Kim, Minchul and Jain, Anil K. and Liu, Xiaoming},
  booktitle = {Conference on Computer Vision and Pattern Recognition},
  year = {2022}
}
"""

MAX_SHRINK = 7
TAPS = torch.arange(-3, MAX_SHRINK + 1)  # pixels around a sampled position: 3 before it, and all that are averaged


def resample(images: Tensor, sides: Tensor, shrink_filter: Tensor, enlarge_filter: Tensor) -> Tensor:
    """Resize to `sides` and back.

    Args:
        images: uint8 (B, 3, N, N).
        sides: (B,) reduced side of each image, in pixels, at least N / 7.
        shrink_filter, enlarge_filter: (B,) indices into `FILTERS`.

    Returns:
        uint8 (B, 3, N, N).
    """
    _, _, _, size = images.shape
    full = torch.full_like(sides, size)
    shrink = beside(images, resize_weights(full, sides, shrink_filter, size))[:, None]
    enlarge = beside(images, resize_weights(sides, full, enlarge_filter, size))[:, None]  # (B, 1, N, N)
    small = _to_pixels(shrink @ images.float() @ shrink.mT)
    return _to_pixels(enlarge @ small @ enlarge.mT).to(torch.uint8)


def resize_weights(source: Tensor, target: Tensor, filters: Tensor, size: int) -> Tensor:
    """Compute matrices that resize vectors, as OpenCV's `resize` does (no antialiasing, except for the area filter).

    Args:
        source, target: (B,) lengths before and after resizing, at most `size`.
        filters: (B,) indices into `FILTERS`.
        size: Height and width of the matrices.

    Returns:
        float32 (B, size, size), zero in the rows starting at `target` and the columns starting at `source`.
    """
    scale = (source.double() / target).view(-1, 1, 1)  # the nearest pixel depends on the last digit
    output = torch.arange(size).view(1, -1, 1)
    weights = torch.zeros(len(source), size, size)
    for index, taps_of in enumerate(FILTERS.values()):
        chosen = filters == index
        positions, values = taps_of(output, scale[chosen])  # (b, size, len(TAPS)) each
        positions = torch.minimum(positions.clamp(min=0), source[chosen].view(-1, 1, 1) - 1)  # the border repeats
        weights[chosen] = weights[chosen].scatter_add(2, positions.long(), values.float())
    return weights * (output < target.view(-1, 1, 1))


def _nearest(output: Tensor, scale: Tensor) -> tuple[Tensor, Tensor]:
    return _taps(torch.floor(output * scale), lambda x: (x == 0).float())


def _linear(output: Tensor, scale: Tensor) -> tuple[Tensor, Tensor]:
    return _taps((output + 0.5) * scale - 0.5, lambda x: (1 - x.abs()).clamp(min=0))


def _cubic(output: Tensor, scale: Tensor) -> tuple[Tensor, Tensor]:
    return _taps((output + 0.5) * scale - 0.5, _cubic_kernel)


def _lanczos4(output: Tensor, scale: Tensor) -> tuple[Tensor, Tensor]:
    return _taps((output + 0.5) * scale - 0.5, lambda x: x.sinc() * (x / 4).clamp(-1, 1).sinc())


def _area(output: Tensor, scale: Tensor) -> tuple[Tensor, Tensor]:
    """The mean of the pixels an output pixel covers when shrinking, a blend where it covers two when enlarging."""
    start = output * scale
    positions = torch.floor(start) + TAPS
    covered = torch.minimum(positions + 1, start + scale) - torch.maximum(positions, start)
    blend = (output + 1 - (torch.floor(start) + 1) / scale).clamp(min=0)
    blend = torch.where(TAPS == 0, 1 - blend, torch.where(TAPS == 1, blend, 0))
    return positions, torch.where(scale >= 1, covered.clamp(min=0) / scale, blend)


def _taps(center: Tensor, kernel: Callable[[Tensor], Tensor]) -> tuple[Tensor, Tensor]:
    """Positions around `center` and the kernel's values there, normalized to sum to one."""
    positions = torch.floor(center) + TAPS
    values = kernel(center - positions)
    return positions, values / values.sum(-1, keepdim=True)


def _cubic_kernel(x: Tensor, a: float = -0.75) -> Tensor:
    x = x.abs().clamp(max=2)  # zero from there on
    near = ((a + 2) * x - (a + 3)) * x * x + 1
    far = ((a * x - 5 * a) * x + 8 * a) * x - 4 * a
    return torch.where(x <= 1, near, far)


def _to_pixels(values: Tensor) -> Tensor:
    return values.round().clamp(0, 255)


FILTERS = {"nearest": _nearest, "linear": _linear, "area": _area, "cubic": _cubic, "lanczos4": _lanczos4}


@augmentations.register("low_resolution", citation=ADAFACE)
class LowResolution(PerImage):
    """Shrinks images and enlarges them again, each with a random filter (AdaFace's low-resolution augmentation).

    Args:
        min_side: Smallest side, as a fraction of the image's side, at least 1/7.
        p: Probability for each image.

    Raises:
        ValueError: if `min_side` is not from 1/7 to 1.
    """

    def __init__(self, min_side: float = 0.2, p: float = 0.2):
        super().__init__(p)
        if not 1 / MAX_SHRINK <= min_side <= 1:
            raise ValueError(f"min_side must be from 1/{MAX_SHRINK} to 1, found {min_side}")
        self.min_side = min_side

    def augment(self, images: Tensor, generator: Generator | None) -> Tensor:
        _, _, _, size = images.shape
        ratio = uniform(len(images), low=self.min_side, generator=generator)
        sides = (ratio * size).long().clamp(min=math.ceil(size / MAX_SHRINK))
        filters = integers(2, len(images), high=len(FILTERS), generator=generator)
        return resample(images, sides, *filters)
