"""Augmentation of uint8 batches on their own device."""

from .build import AUGMENTATIONS, RECIPES, Augmentation, build_augmentation

__all__ = ["AUGMENTATIONS", "RECIPES", "Augmentation", "build_augmentation"]
