"""Augmentation of a uint8 batch on its own device, with independent draws for each image.

A recipe lists augmentations in the order in which they are applied, each a name or a name with options:

    augmentation:
      - flip
      - color_jitter: {p: 0.2, brightness: 0.5, contrast: 0.5, saturation: 0.5}

or the name of a published set, see `RECIPES`. See [`PerImage`] for how to write an augmentation.
"""

import inspect
from collections.abc import Mapping, Sequence

import torch
from torch import Generator, Tensor, nn

from ...registry import Spec, augmentations, parse_spec
from .draws import apply_where, integers

# name of a published set -> its augmentations
RECIPES: dict[str, list] = {
    "flip": ["flip"],
    # gau-nernst/timm-face, README.md: the set used for its convnext_nano
    "timm_face": [
        "flip",
        {
            "random_choice": [
                {"color_jitter": {"brightness": 0.1, "contrast": 0.1, "saturation": 0.1, "hue": 0.1}},
                {"random_affine": {"translate": 0.1}},
            ]
        },
    ],
    # mk-minchul/AdaFace, dataset/augmenter.py, with the probabilities of scripts/run_ir101_ms1mv2.sh: 0.2 each
    "adaface": [
        "zero_padded_crop",
        "low_resolution",
        {"color_jitter": {"p": 0.2, "brightness": 0.5, "contrast": 0.5, "saturation": 0.5}},
        "flip",
    ],
    # TaharChettaoui/FRoundation, src/data/transform.py
    "froundation": ["rand_augment", "flip"],
}


class Augmentation(nn.Module):
    """Applies several augmentations in sequence.

    All draws come from `generator`, or else from torch's global CPU generator, which `transformers.Trainer` saves and
    restores with its checkpoints; either way, a resumed run can repeat them. A CPU generator produces the same
    augmentation on every device and avoids synchronizing with the device.
    """

    def __init__(self, steps: Sequence[nn.Module]):
        super().__init__()
        self.steps = nn.ModuleList(steps)

    @torch.no_grad()
    def forward(self, images: Tensor, generator: Generator | None = None) -> Tensor:
        """Augment uint8 (B, 3, H, W) on its own device; the input is not modified."""
        images = images.clone()
        for step in self.steps:
            images = step(images, generator)
        return images


@augmentations.register("random_choice")
class RandomChoice(nn.Module):
    """Applies one of several augmentations to each image: `{random_choice: [flip, low_resolution]}`.

    Args:
        choices: Augmentations, specified as in a recipe.
        image_size: Height and width of the images, in pixels.
    """

    def __init__(self, choices: Sequence[Spec], image_size: int):
        super().__init__()
        self.choices = nn.ModuleList(_build(choice, image_size) for choice in choices)

    def forward(self, images: Tensor, generator: Generator | None = None) -> Tensor:
        """Augment uint8 (B, 3, H, W) in place."""
        drawn = integers(len(images), high=len(self.choices), generator=generator)
        for index, choice in enumerate(self.choices):
            apply_where(drawn == index, images, lambda some, choice=choice: choice(some, generator))
        return images


def build_augmentation(spec: str | Sequence[Spec], image_size: int) -> Augmentation:
    """Build an augmentation from its specification in a recipe.

    Args:
        spec: The name of a published set (`RECIPES`) or of one augmentation, or a list of augmentations in the order of
            application, each a name or `{name: {option: value}}`.
        image_size: Height and width of the batches, in pixels.

    Raises:
        ValueError: if a name or option is unknown, or a value is out of range.

    Example:
        >>> augment = build_augmentation(["flip", {"random_erasing": {"p": 0.1}}], image_size=112)
        >>> augment(torch.zeros(8, 3, 112, 112, dtype=torch.uint8), torch.Generator().manual_seed(0)).shape
        torch.Size([8, 3, 112, 112])
    """
    if isinstance(spec, str):
        if spec not in RECIPES and spec not in augmentations:
            known = ", ".join(sorted({*RECIPES, *augmentations}))
            raise ValueError(f"No augmentation or published set is called {spec!r}. Available: {known}.")
        spec = RECIPES.get(spec, [spec])
    return Augmentation([_build(step, image_size) for step in spec])


def _build(spec: Spec, image_size: int) -> nn.Module:
    if isinstance(spec, Mapping) and isinstance(spec.get("random_choice"), list):  # its only option needs no name
        spec = {**spec, "random_choice": {"choices": spec["random_choice"]}}
    name, options = parse_spec(spec, augmentations.kind)
    entry = augmentations[name]
    if "image_size" in inspect.signature(entry.target).parameters:
        options = {"image_size": image_size, **options}
    return entry.build(**options)
