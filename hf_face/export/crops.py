"""The real crops that exported files are calibrated on and checked with."""

from collections.abc import Sequence

import numpy as np
from datasets import Dataset, Image
from torch import Tensor

from ..data.decode import decode_with_pillow, read_bytes
from ..models import FaceImageProcessor

SEED = 0


def choose_crops(crops: Dataset, counts: Sequence[int]) -> list[Dataset]:
    """Random crops, always the same ones: as many as `counts` says, disjoint unless there are too few."""
    order = np.random.default_rng(SEED).permutation(len(crops))
    if len(crops) < sum(counts):
        return [crops.select(order[:count]) for count in counts]
    return [crops.select(part) for part in np.split(order[: sum(counts)], np.cumsum(counts)[:-1])]


def decoded(crops: Dataset) -> list[np.ndarray]:
    """The crops as arrays (height, width, 3), uint8 RGB."""
    encoded = crops.cast_column("image", Image(decode=False))["image"]
    return [decode_with_pillow(read_bytes(image)) for image in encoded]


def pixels_of(crops: Dataset, image_processor: FaceImageProcessor) -> Tensor:
    """What the image processor makes of the crops, (N, 3, image_size, image_size)."""
    return image_processor(decoded(crops), return_tensors="pt").pixel_values
