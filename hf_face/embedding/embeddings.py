"""Embeddings of a set of images, with test-time augmentation by flipping."""

from dataclasses import dataclass
from functools import cached_property
from typing import Literal

import numpy as np

Flip = Literal["sum", "concat"] | None


@dataclass
class Embeddings:
    """Embeddings of N images and, for test-time augmentation, of the flipped images.

    Args:
        original (`np.ndarray` of shape (N, D)): raw (not normalized) embeddings, float32.
        flipped (`np.ndarray` of shape (N, D), *optional*): raw embeddings of the horizontally flipped images, float32.
        flip (`str`, *optional*): how `embeddings` combines them. `"sum"` adds the raw embeddings (InsightFace,
            AdaFace), `"concat"` concatenates them (SphereFace, CosFace), `None` uses only the original.

    Raises:
        ValueError: if `flip` is something else, or needs flipped embeddings that are not given.
    """

    original: np.ndarray
    flipped: np.ndarray | None = None
    flip: Flip = None

    def __post_init__(self):
        if self.flip not in ("sum", "concat", None):
            raise ValueError(f"flip must be 'sum', 'concat' or None, found {self.flip!r}")
        if self.flip and self.flipped is None:
            raise ValueError(f"flip={self.flip!r} requires the embeddings of flipped images. Embed with flip=True")

    def __len__(self) -> int:
        return len(self.original)

    @cached_property
    def embeddings(self) -> np.ndarray:
        """Unit-length embeddings (N, D), or (N, 2 D) with `flip="concat"`, float32."""
        fused = self.original
        if self.flip == "sum":
            fused = self.original + self.flipped
        elif self.flip == "concat":
            fused = np.concatenate([self.original, self.flipped], axis=1)
        return fused / np.maximum(np.linalg.norm(fused, axis=1, keepdims=True), 1e-12)

    @cached_property
    def norms(self) -> np.ndarray:
        """Length (N,) of the original image's raw embedding, a measure of image quality (MagFace, AdaFace)."""
        return np.linalg.norm(self.original, axis=1)

    def with_flip(self, flip: Flip) -> "Embeddings":
        """The same embeddings, combined by `flip`."""
        return Embeddings(self.original, self.flipped, flip)
