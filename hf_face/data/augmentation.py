"""Augmentation of a uint8 batch on its own device, with a draw of its own for every image."""

from collections.abc import Mapping, Sequence

import torch
from torch import Generator, Tensor, nn


class RandomHorizontalFlip(nn.Module):
    """Mirror each image with probability `p`; every training recipe of the field starts here."""

    def __init__(self, p: float = 0.5):
        super().__init__()
        self.p = p

    def forward(self, images: Tensor, generator: Generator | None = None) -> Tensor:
        chosen = torch.rand(len(images), 1, 1, 1, device=images.device, generator=generator) < self.p
        return torch.where(chosen, images.flip(-1), images)


class Augmentation(nn.Module):
    """Several augmentations, one after the other.

    All draws are made on the batch's device, from `generator` or else from torch's global generator of that device,
    the one that `transformers.Trainer` saves and restores with a checkpoint.
    """

    def __init__(self, steps: Sequence[nn.Module]):
        super().__init__()
        self.steps = nn.ModuleList(steps)

    def forward(self, images: Tensor, generator: Generator | None = None) -> Tensor:
        """uint8 (B, 3, H, W) in, the same out."""
        for step in self.steps:
            images = step(images, generator)
        return images


OPERATIONS = {"flip": RandomHorizontalFlip}


def build_augmentation(spec: str | Sequence[str | Mapping], image_size: int) -> Augmentation:
    """Build an augmentation from a recipe's words.

    Args:
        spec: A list of operations, each a name or `{name: {argument: value}}`, applied in order; or a single name.
        image_size: Height and width of the batches, in pixels.

    Raises:
        ValueError: an unknown name or argument.
    """
    spec = [spec] if isinstance(spec, str) else spec
    return Augmentation([_build_operation(entry) for entry in spec])


def _build_operation(entry: str | Mapping) -> nn.Module:
    name, arguments = (entry, {}) if isinstance(entry, str) else next(iter(entry.items()))
    if name not in OPERATIONS:
        raise ValueError(f"unknown augmentation {name!r}, expected one of {sorted(OPERATIONS)}")
    return OPERATIONS[name](**arguments)
