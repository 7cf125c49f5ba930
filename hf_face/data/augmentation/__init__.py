"""Augmentation of uint8 batches on their own device."""

from ... import registry
from .base import PerImage
from .build import RECIPES, Augmentation, RandomChoice, build_augmentation
from .geometric import RandomAffine, RandomHorizontalFlip
from .low_resolution import LowResolution
from .occlusion import RandomErasing, ZeroPaddedCrop
from .photometric import ColorJitter
from .rand_augment import RandAugment

AUGMENTATIONS = registry.augmentations

registry.import_modules(__name__)  # registers the augmentations of new files without listing them here

__all__ = [
    "AUGMENTATIONS",
    "RECIPES",
    "Augmentation",
    "ColorJitter",
    "LowResolution",
    "PerImage",
    "RandAugment",
    "RandomAffine",
    "RandomChoice",
    "RandomErasing",
    "RandomHorizontalFlip",
    "ZeroPaddedCrop",
    "build_augmentation",
]
