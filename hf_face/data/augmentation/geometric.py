"""Geometric operations on a batch with one strength per image, and random flips and affine maps.

Operations take uint8 (B, 3, H, W) and strengths (B,) on the CPU, and return uint8. Lengths are in pixels; x points
right, y down. As in torchvision by default, interpolation is nearest, and pixels outside the image are black.
"""

import torch
from torch import Generator, Tensor
from torch.nn.functional import affine_grid, grid_sample

from ...registry import augmentations
from .base import PerImage
from .draws import apply_where, beside, uniform


def move(images: Tensor, degrees: Tensor | float = 0.0, x: Tensor | float = 0.0, y: Tensor | float = 0.0) -> Tensor:
    """Rotate counterclockwise about the center, then translate by `x` and `y`."""
    degrees, x, y = torch.broadcast_tensors(*(torch.as_tensor(value) for value in (degrees, x, y)))
    cos, sin = degrees.deg2rad().cos(), degrees.deg2rad().sin()
    return _warp(images, cos, -sin, sin * y - cos * x, sin, cos, -sin * x - cos * y)


def shear_x(images: Tensor, slope: Tensor) -> Tensor:
    """Move each row to the left by `slope` times its distance from the top."""
    return _warp(images, 1.0, slope, slope * images.shape[2] / 2, 0.0, 1.0, 0.0)


def shear_y(images: Tensor, slope: Tensor) -> Tensor:
    """Move each column up by `slope` times its distance from the left."""
    return _warp(images, 1.0, 0.0, 0.0, slope, 1.0, slope * images.shape[3] / 2)


def resized_crop(images: Tensor, boxes: Tensor) -> Tensor:
    """Enlarge `boxes` (B, 4), given as top, left, height and width, to the whole image."""
    _, _, height, width = images.shape
    top, left, box_height, box_width = boxes.float().unbind(1)
    x, y = left + (box_width - width) / 2, top + (box_height - height) / 2
    return _warp(images, box_width / width, 0.0, x, 0.0, box_height / height, y)


def inside(boxes: Tensor, images: Tensor) -> Tensor:
    """Mask (B, 1, H, W) of the pixels in `boxes` (B, 4), given as top, left, height and width."""
    top, left, height, width = beside(images, boxes).view(-1, 4, 1, 1, 1).unbind(1)
    rows = torch.arange(images.shape[2], device=images.device).view(-1, 1)
    columns = torch.arange(images.shape[3], device=images.device)
    return (rows >= top) & (rows < top + height) & (columns >= left) & (columns < left + width)


def random_boxes(
    images: Tensor,
    min_area: Tensor | float,
    max_area: float,
    ratio: tuple[float, float],
    generator: Generator | None = None,
    attempts: int = 10,
) -> Tensor:
    """Draw boxes of random area and aspect ratio at random positions, as torchvision's `RandomResizedCrop` does.

    Args:
        images: (B, 3, H, W).
        min_area, max_area: Range of the area, as a fraction of the image's.
        ratio: Range of width / height, drawn on a logarithmic scale.
        generator: Source of the draws.
        attempts: Number of boxes drawn for each image; the first one that fits is used.

    Returns:
        int64 (B, 4): top, left, height and width, all zero if no box fits.
    """
    (batch_size, _, height, width), shape = images.shape, (attempts, len(images))
    area = height * width * uniform(*shape, low=min_area, high=max_area, generator=generator)
    aspect = uniform(*shape, low=_log(ratio[0]), high=_log(ratio[1]), generator=generator).exp()
    box_width, box_height = (area * aspect).sqrt().round(), (area / aspect).sqrt().round()
    fits = (box_width >= 1) & (box_width <= width) & (box_height >= 1) & (box_height <= height)
    top = (uniform(*shape, generator=generator) * (height - box_height + 1)).floor()
    left = (uniform(*shape, generator=generator) * (width - box_width + 1)).floor()
    boxes = torch.stack([top, left, box_height, box_width], dim=-1) * fits[..., None]  # (attempts, B, 4)
    first = fits.int().argmax(0)  # the first that fits, else a box of zeros
    return boxes[first, torch.arange(batch_size)].long()


def random_crops(images: Tensor, min_area: Tensor | float, generator: Generator | None = None) -> Tensor:
    """Draw [`random_boxes`] of up to the whole area and aspect ratio 3/4 to 4/3, or the whole image if no box fits."""
    boxes = random_boxes(images, min_area, 1.0, (3 / 4, 4 / 3), generator)
    _, _, height, width = images.shape
    whole = torch.tensor([0, 0, height, width])
    return torch.where(boxes.any(1, keepdim=True), boxes, whole)


def _log(value: float) -> Tensor:
    return torch.tensor(value).log()


def _warp(images: Tensor, *inverse: Tensor | float) -> Tensor:
    """Sample each output pixel where `inverse` maps it: the rows of a 2 x 3 matrix, in pixels from the center."""
    batch_size, _, height, width = images.shape
    a, b, x, c, d, y = (torch.as_tensor(number).expand(batch_size) for number in inverse)
    # affine_grid's coordinates run from -1 to 1 across the image
    theta = torch.stack([a, b * height / width, x * 2 / width, c * width / height, d, y * 2 / height], dim=1)
    grid = affine_grid(beside(images, theta.view(-1, 2, 3)), list(images.shape), align_corners=False)
    return grid_sample(images.float(), grid, mode="nearest", align_corners=False).to(torch.uint8)


@augmentations.register("flip")
class RandomHorizontalFlip(PerImage):
    """Flips images horizontally, as virtually all face recognition recipes do.

    Attributes:
        mirrored (`torch.Tensor` of shape `(B,)`): Whether each image of the last batch was flipped.
    """

    mirrored: Tensor

    def __init__(self, p: float = 0.5):
        super().__init__(p)

    def forward(self, images: Tensor, generator: Generator | None = None) -> Tensor:
        self.mirrored = uniform(len(images), generator=generator) < self.p
        apply_where(self.mirrored, images, lambda some: self.augment(some, generator))
        return images

    def augment(self, images: Tensor, generator: Generator | None) -> Tensor:
        return images.flip(-1)


@augmentations.register("random_affine")
class RandomAffine(PerImage):
    """Rotates and translates images, as torchvision's `RandomAffine` does.

    Args:
        degrees: Maximum angle x; angles are drawn from -x ... x.
        translate: Maximum shift x, as a fraction of height and width; shifts are drawn from -x ... x and rounded to
            whole pixels.
        p: Probability for each image.
    """

    def __init__(self, degrees: float = 0.0, translate: float = 0.0, p: float = 1.0):
        super().__init__(p)
        self.degrees = degrees
        self.translate = translate

    def augment(self, images: Tensor, generator: Generator | None) -> Tensor:
        _, _, height, width = images.shape
        angle, x, y = uniform(3, len(images), low=-1.0, generator=generator)
        shift_x, shift_y = (x * self.translate * width).round(), (y * self.translate * height).round()
        return move(images, angle * self.degrees, shift_x, shift_y)
