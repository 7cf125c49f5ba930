"""RandAugment as used by FRoundation."""

from collections.abc import Callable, Sequence

import torch
from torch import Generator, Tensor, nn
from torchvision.transforms.v2 import functional as F

from ...registry import augmentations
from . import geometric, photometric
from .draws import apply_where, integers

RAND_AUGMENT = """
@inproceedings{rand_augment,
  title = {RandAugment: Practical Automated Data Augmentation with a Reduced Search Space},
  author = {Cubuk, Ekin D. and Zoph, Barret and Shlens, Jonathon and Le, Quoc V.},
  booktitle = {Conference on Computer Vision and Pattern Recognition Workshops},
  year = {2020}
}
"""

# Each operation, as a function of images and strengths (B,)
OPERATIONS: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "Identity": lambda images, _: images,
    "ShearX": geometric.shear_x,
    "ShearY": geometric.shear_y,
    "TranslateX": lambda images, pixels: geometric.move(images, x=pixels.trunc()),
    "TranslateY": lambda images, pixels: geometric.move(images, y=pixels.trunc()),
    "Rotate": geometric.move,
    "Brightness": lambda images, change: photometric.adjust_brightness(images, 1 + change),
    "Color": lambda images, change: photometric.adjust_saturation(images, 1 + change),
    "Contrast": lambda images, change: photometric.adjust_contrast(images, 1 + change),
    "Sharpness": lambda images, change: photometric.adjust_sharpness(images, 1 + change),
    "Posterize": photometric.posterize,
    "Solarize": photometric.solarize,
    "AutoContrast": lambda images, _: F.autocontrast(images),
    "Equalize": lambda images, _: F.equalize(images),
    "Grayscale": lambda images, _: F.rgb_to_grayscale(images, 3),
    "ResizedCrop": None,  # draws its own boxes, see RandAugment
}
SIGNED = {"ShearX", "ShearY", "TranslateX", "TranslateY", "Rotate", "Brightness", "Color", "Contrast", "Sharpness"}


@augmentations.register("rand_augment", citation=RAND_AUGMENT)
class RandAugment(nn.Module):
    """Applies `num_ops` random operations to each image, each with a random strength.

    RandAugment (Cubuk et al. 2020) with torchvision's operations and the additions of FRoundation (Chettaoui et al.
    2025, `src/data/rand_augment.py`): grayscale and resized crop. Unlike in the paper, each operation's strength is
    drawn from the bins 1 ... `magnitude`.

    Args:
        image_size: Height and width of the images, in pixels; translations are proportional to it.
        num_ops: Number of operations applied in sequence.
        magnitude: Highest strength bin to draw.
        num_magnitude_bins: Number of strength bins, from the weakest, bin 0, to the strongest.
        operations: Operations to draw from; defaults to all. In FRoundation's published code, "ShearY", "TranslateY"
            and "ResizedCrop" are commented out.

    Raises:
        ValueError: if an operation is unknown, or `magnitude` is not one of the bins from 1 on.
    """

    def __init__(
        self,
        image_size: int,
        num_ops: int = 4,
        magnitude: int = 16,
        num_magnitude_bins: int = 31,
        operations: Sequence[str] | None = None,
    ):
        super().__init__()
        operations = OPERATIONS if operations is None else operations
        if unknown := set(operations) - set(OPERATIONS):
            raise ValueError(f"unknown RandAugment operations {sorted(unknown)}, expected any of {list(OPERATIONS)}")
        if not 0 < magnitude < num_magnitude_bins:
            raise ValueError(
                f"magnitude must be 1 to {num_magnitude_bins - 1} with {num_magnitude_bins} bins, found {magnitude}"
            )
        self.num_ops = num_ops
        self.magnitude = magnitude
        self.operations = tuple(operations)
        self.strengths = _strengths(image_size, num_magnitude_bins)

    def forward(self, images: Tensor, generator: Generator | None = None) -> Tensor:
        """Augment uint8 (B, 3, H, W) in place."""
        for _ in range(self.num_ops):
            drawn = integers(len(images), high=len(self.operations), generator=generator)
            bins = integers(len(images), low=1, high=self.magnitude + 1, generator=generator)
            signs = 2 * integers(len(images), high=2, generator=generator) - 1
            for index, name in enumerate(self.operations):
                strength = self.strengths[name][bins] * (signs if name in SIGNED else 1)
                apply_where(drawn == index, images, self._operation(name, generator), strength)
        return images

    def _operation(self, name: str, generator: Generator | None) -> Callable[[Tensor, Tensor], Tensor]:
        if name != "ResizedCrop":
            return OPERATIONS[name]
        return lambda images, strength: geometric.resized_crop(
            images, geometric.random_crops(images, 1 - strength, generator)
        )


def _strengths(image_size: int, num_bins: int) -> dict[str, Tensor]:
    """The strengths `(num_bins,)` of each operation, by bin."""
    strengths = dict.fromkeys(OPERATIONS, torch.zeros(num_bins))
    strengths |= dict.fromkeys(("ShearX", "ShearY"), torch.linspace(0, 0.3, num_bins))
    strengths |= dict.fromkeys(("TranslateX", "TranslateY"), torch.linspace(0, 150 / 331 * image_size, num_bins))
    strengths |= dict.fromkeys(("Brightness", "Color", "Contrast", "Sharpness"), torch.linspace(0, 0.9, num_bins))
    strengths["Rotate"] = torch.linspace(0, 30, num_bins)
    strengths["Posterize"] = 8 - (torch.arange(num_bins) / ((num_bins - 1) / 4)).round()
    strengths["Solarize"] = torch.linspace(255, 0, num_bins)
    strengths["ResizedCrop"] = torch.linspace(0.1, 0.9, num_bins)
    return strengths
