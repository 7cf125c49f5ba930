"""The real crops that exported files are calibrated on and checked with."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from datasets import Dataset, Image
from torch import Tensor

from ..data import load_identities
from ..data.decode import decode_with_pillow, read_bytes
from ..data.image_folder import list_images
from ..data.sources import find_shards
from ..models import FaceImageProcessor

SEED = 0


def load_crops(source: str | Path) -> Dataset:
    """
    Load aligned crops, whoever they show: a folder of images in any subfolders, Parquet or tar shards, RecordIO, a
    dataset on the Hub, or `"orl"`, the ORL faces.

    Raises:
        FileNotFoundError: if the source does not exist.
        ValueError: if it has no images, or a file is damaged.
    """
    folder = Path(source)
    if not folder.is_dir() or any(folder.glob("*.rec")) or find_shards(folder, "train"):
        dataset = load_identities(source, compact=True)
        assert isinstance(dataset, Dataset)  # as streaming is off
        return dataset
    names = list_images(folder)
    if not names:
        raise ValueError(f"{source} contains no images.")
    return Dataset.from_dict({"image": [str(folder / name) for name in names]}).cast_column("image", Image())


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
