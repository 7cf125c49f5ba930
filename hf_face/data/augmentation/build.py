"""Augmentation of a uint8 batch on its own device, with draws of its own for every image.

A recipe names augmentations in the order in which they are applied, each a name or a name with arguments:

    augmentation:
      - flip
      - color_jitter: {p: 0.2, brightness: 0.5, contrast: 0.5, saturation: 0.5}

or gives the name of a published set, see `RECIPES`.
"""

import math
from collections.abc import Mapping, Sequence

import torch
from torch import Generator, Tensor, nn

from . import geometric, low_resolution, photometric
from .draws import apply_where, integers, uniform
from .rand_augment import RandAugment

# name -> what it stands for
RECIPES: dict[str, list] = {
    "flip": ["flip"],
    # gau-nernst/timm-face, README.md: the set of its convnext_nano
    "timm_face": [
        "flip",
        {
            "random_choice": [
                {"color_jitter": {"brightness": 0.1, "contrast": 0.1, "saturation": 0.1, "hue": 0.1}},
                {"random_affine": {"translate": 0.1}},
            ]
        },
    ],
    # mk-minchul/AdaFace, dataset/augmenter.py, with the probabilities of scripts/run_ir101_ms1mv2.sh
    "adaface": [
        {"zero_padded_crop": {"p": 0.2}},
        {"low_resolution": {"p": 0.2}},
        {"color_jitter": {"p": 0.2, "brightness": 0.5, "contrast": 0.5, "saturation": 0.5}},
        "flip",
    ],
    # TaharChettaoui/FRoundation, src/data/transform.py
    "froundation": [{"rand_augment": {"num_ops": 4, "magnitude": 16}}, "flip"],
}


class PerImage(nn.Module):
    """Base of augmentations that each image gets with probability `p`."""

    def __init__(self, p: float):
        super().__init__()
        self.p = p

    def forward(self, images: Tensor, generator: Generator | None = None) -> Tensor:
        """uint8 (B, 3, H, W), changed in place."""
        chosen = uniform(len(images), generator=generator) < self.p
        apply_where(chosen, images, lambda some: self.augment(some, generator))
        return images

    def augment(self, images: Tensor, generator: Generator | None) -> Tensor:
        """Augment all `images`."""
        raise NotImplementedError


class RandomHorizontalFlip(PerImage):
    """Flip images; in every training recipe of the field."""

    def __init__(self, p: float = 0.5):
        super().__init__(p)

    def augment(self, images: Tensor, generator: Generator | None) -> Tensor:
        return images.flip(-1)


class ColorJitter(PerImage):
    """Change brightness, contrast, saturation and hue in random order, as torchvision's `ColorJitter`.

    Args:
        brightness, contrast, saturation: The factor is drawn from max(0, 1 - x) ... 1 + x.
        hue: The shift is drawn from -x ... x of the color circle, at most 0.5.
        p: Probability.
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
        around_one = {
            photometric.adjust_brightness: brightness,
            photometric.adjust_contrast: contrast,
            photometric.adjust_saturation: saturation,
        }
        self.adjustments = [(adjust, max(0.0, 1 - x), 1 + x) for adjust, x in around_one.items() if x]
        if hue:
            self.adjustments.append((photometric.adjust_hue, -hue, hue))

    def augment(self, images: Tensor, generator: Generator | None) -> Tensor:
        order = uniform(len(images), len(self.adjustments), generator=generator).argsort(1)
        for place in range(len(self.adjustments)):
            for index, (adjust, low, high) in enumerate(self.adjustments):
                strength = uniform(len(images), low=low, high=high, generator=generator)
                apply_where(order[:, place] == index, images, adjust, strength)
        return images


class RandomAffine(PerImage):
    """Turn and move images, as torchvision's `RandomAffine`.

    Args:
        degrees: The angle is drawn from -x ... x.
        translate: The shifts are drawn from -x ... x of height and width, and rounded to whole pixels.
        p: Probability.
    """

    def __init__(self, degrees: float = 0.0, translate: float = 0.0, p: float = 1.0):
        super().__init__(p)
        self.degrees = degrees
        self.translate = translate

    def augment(self, images: Tensor, generator: Generator | None) -> Tensor:
        height, width = images.shape[-2:]
        angle, x, y = uniform(3, len(images), low=-1.0, generator=generator)
        shift_x, shift_y = (x * self.translate * width).round(), (y * self.translate * height).round()
        return geometric.move(images, angle * self.degrees, shift_x, shift_y)


class ZeroPaddedCrop(PerImage):
    """Black out what lies outside a random box, which stays where it is (AdaFace's crop augmentation).

    Args:
        min_area: Smallest area of the box, as a fraction of the image's.
        p: Probability.
    """

    def __init__(self, min_area: float = 0.2, p: float = 0.2):
        super().__init__(p)
        self.min_area = min_area

    def augment(self, images: Tensor, generator: Generator | None) -> Tensor:
        return images * geometric.inside(geometric.random_crops(images, self.min_area, 1.0, generator), images)


class LowResolution(PerImage):
    """Make images small and large again, each way with a filter drawn at random (AdaFace's low resolution).

    Args:
        min_side: Smallest side, as a fraction of the image's, at least 1/7.
        p: Probability.
    """

    def __init__(self, min_side: float = 0.2, p: float = 0.2):
        super().__init__(p)
        if not 1 / low_resolution.MAX_SHRINK <= min_side <= 1:
            raise ValueError(f"min_side must be from 1/{low_resolution.MAX_SHRINK} to 1, not {min_side}")
        self.min_side = min_side

    def augment(self, images: Tensor, generator: Generator | None) -> Tensor:
        size = images.shape[-1]
        ratio = uniform(len(images), low=self.min_side, generator=generator)
        sides = (ratio * size).long().clamp(min=math.ceil(size / low_resolution.MAX_SHRINK))
        filters = integers(2, len(images), high=len(low_resolution.FILTERS), generator=generator)
        return low_resolution.resample(images, sides, *filters)


class RandomErasing(PerImage):
    """Black out a random box (Zhong et al. 2020, "Random Erasing Data Augmentation"; torchvision's defaults).

    Args:
        min_area, max_area: Range of the box's area, as a fraction of the image's.
        ratio: Range of its aspect ratio.
        p: Probability.
    """

    def __init__(
        self,
        min_area: float = 0.02,
        max_area: float = 0.33,
        ratio: tuple[float, float] = (0.3, 3.3),
        p: float = 0.5,
    ):
        super().__init__(p)
        self.min_area = min_area
        self.max_area = max_area
        self.ratio = ratio

    def augment(self, images: Tensor, generator: Generator | None) -> Tensor:
        boxes = geometric.random_boxes(images, self.min_area, self.max_area, self.ratio, generator)
        return images * ~geometric.inside(boxes, images)


class RandomChoice(nn.Module):
    """Give each image one of several augmentations."""

    def __init__(self, choices: Sequence[nn.Module]):
        super().__init__()
        self.choices = nn.ModuleList(choices)

    def forward(self, images: Tensor, generator: Generator | None = None) -> Tensor:
        """uint8 (B, 3, H, W), changed in place."""
        drawn = integers(len(images), high=len(self.choices), generator=generator)
        for index, choice in enumerate(self.choices):
            apply_where(drawn == index, images, lambda some, choice=choice: choice(some, generator))
        return images


class Augmentation(nn.Module):
    """Several augmentations, one after the other.

    All draws come from `generator`, or else from torch's global CPU generator, which `transformers.Trainer` saves and
    restores with its checkpoints: either way a resumed run can repeat them. A generator on the CPU gives the same
    augmentation on every device, and spares the device the waiting.
    """

    def __init__(self, steps: Sequence[nn.Module]):
        super().__init__()
        self.steps = nn.ModuleList(steps)

    @torch.no_grad()
    def forward(self, images: Tensor, generator: Generator | None = None) -> Tensor:
        """uint8 (B, 3, H, W) in, the same out, on the same device; the input is left as it is."""
        images = images.clone()
        for step in self.steps:
            images = step(images, generator)
        return images


AUGMENTATIONS: dict[str, type[nn.Module]] = {
    "color_jitter": ColorJitter,
    "flip": RandomHorizontalFlip,
    "low_resolution": LowResolution,
    "rand_augment": RandAugment,
    "random_affine": RandomAffine,
    "random_choice": RandomChoice,
    "random_erasing": RandomErasing,
    "zero_padded_crop": ZeroPaddedCrop,
}


def build_augmentation(spec: str | Sequence[str | Mapping], image_size: int) -> Augmentation:
    """Build an augmentation from a recipe's words.

    Args:
        spec: The name of a published set (`RECIPES`), or a list of augmentations in the order of application, each a
            name or `{name: {argument: value}}`.
        image_size: Height and width of the batches, in pixels.

    Raises:
        ValueError: an unknown name or argument, or a value out of range.

    Example:
        >>> augment = build_augmentation(["flip", {"random_erasing": {"p": 0.1}}], image_size=112)
        >>> augment(torch.zeros(8, 3, 112, 112, dtype=torch.uint8), torch.Generator().manual_seed(0)).shape
        torch.Size([8, 3, 112, 112])
    """
    if isinstance(spec, str):
        if spec not in RECIPES:
            raise ValueError(
                f"unknown augmentation {spec!r}, expected a list of augmentations or one of {sorted(RECIPES)}"
            )
        spec = RECIPES[spec]
    return Augmentation([_build(entry, image_size) for entry in spec])


def _build(entry: str | Mapping, image_size: int) -> nn.Module:
    if isinstance(entry, Mapping) and len(entry) != 1:
        raise ValueError(f"expected one augmentation as {{name: {{argument: value}}}}, found {dict(entry)}")
    name, arguments = (entry, {}) if isinstance(entry, str) else next(iter(entry.items()))
    if name not in AUGMENTATIONS:
        raise ValueError(f"unknown augmentation {name!r}, expected one of {sorted(AUGMENTATIONS)}")
    if name == "random_choice":
        return RandomChoice([_build(choice, image_size) for choice in arguments])
    if name == "rand_augment":
        arguments = {"image_size": image_size, **arguments}
    try:
        return AUGMENTATIONS[name](**arguments)
    except TypeError as error:
        raise ValueError(f"augmentation {name!r} has wrong arguments: {error}") from error
