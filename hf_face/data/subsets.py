"""Selects, splits and merges identity datasets using only the label column, without touching the images."""

from collections.abc import Sequence

import numpy as np
from datasets import Dataset, concatenate_datasets

from .columns import identity_labels
from .labels import replace_labels


def select_identities(
    dataset: Dataset,
    num_identities: int | None = None,
    images_per_identity: int | None = None,
    min_images: int = 1,
    seed: int | None = None,
) -> Dataset:
    """Keep some identities and some of their images, as FRoundation does for its selective datasets.

    Args:
        dataset: Identity data with `image` and `label`.
        num_identities: Number of identities to keep; None keeps all.
        images_per_identity: Maximum number of images to keep per identity; None keeps all.
        min_images: Minimum number of images of the identities to choose from.
        seed: Seed for choosing identities and images at random; None keeps the first ones.

    Returns:
        The selected rows, in their original order, with compacted labels (see [`compact_labels`]).

    Raises:
        ValueError: if fewer than `num_identities` identities have `min_images` images.
    """
    labels = identity_labels(dataset)
    counts = np.bincount(labels)
    identities = np.flatnonzero(counts >= max(min_images, 1))
    if num_identities is not None:
        if num_identities > len(identities):
            raise ValueError(
                f"{num_identities} identities were requested, but only {len(identities)} of the "
                f"{np.count_nonzero(counts)} in the dataset have at least {min_images} images"
            )
        if seed is not None:
            identities = np.random.default_rng(seed).permutation(identities)
        identities = identities[:num_identities]
    keep = np.isin(labels, identities)
    if images_per_identity is not None:
        keep &= _rank_within_identity(labels, seed) < images_per_identity
    return compact_labels(dataset.select(np.flatnonzero(keep)))


def split_identities(dataset: Dataset, num_held_out: int, seed: int = 0) -> tuple[Dataset, Dataset]:
    """Split into two datasets without common identities, to test recognition on people not seen in training.

    Args:
        dataset: Identity data with `image` and `label`.
        num_held_out: Number of identities, chosen at random, in the second dataset.
        seed: Seed for the choice.

    Returns:
        `(train, held_out)`, each with compacted labels.

    Raises:
        ValueError: if one side of the split would have no identities.
    """
    labels = identity_labels(dataset)
    identities = np.unique(labels)
    if not 0 < num_held_out < len(identities):
        raise ValueError(
            f"num_held_out must be 1 to {len(identities) - 1} for {len(identities)} identities, found {num_held_out}"
        )
    held_out = np.isin(labels, np.random.default_rng(seed).permutation(identities)[:num_held_out])
    train, test = (dataset.select(np.flatnonzero(side)) for side in (~held_out, held_out))
    return compact_labels(train), compact_labels(test)


def compact_labels(dataset: Dataset) -> Dataset:
    """Renumber the labels 0 ... C-1 without gaps, keeping the names and the order of the identities."""
    present, compacted = np.unique(identity_labels(dataset), return_inverse=True)
    names = dataset.features["label"].names
    if len(present) == len(names):
        return dataset
    return replace_labels(dataset, compacted, [names[label] for label in present])


def merge_identities(datasets: Sequence[Dataset]) -> Dataset:
    """Concatenate several datasets, treating identities of different datasets as different people.

    The labels of each dataset are offset by the number of identities before it. Names are prefixed with the position
    of their dataset (`0/alice`, `1/alice`), since two datasets may use the same name for different people.

    Args:
        datasets: Identity data with `image` and `label`; other columns are left out.

    Returns:
        The rows of all datasets in order, with `image` and `label`.
    """
    names = [f"{i}/{name}" for i, dataset in enumerate(datasets) for name in dataset.features["label"].names]
    offsets = np.cumsum([0, *(dataset.features["label"].num_classes for dataset in datasets)])
    return concatenate_datasets(
        [
            replace_labels(dataset.select_columns(["image", "label"]), identity_labels(dataset) + offset, names)
            for dataset, offset in zip(datasets, offsets, strict=False)
        ]
    )


def _rank_within_identity(labels: np.ndarray, seed: int | None) -> np.ndarray:
    """The position of each row among the rows of its identity (N,), in row order or, with a seed, in random order."""
    order = np.arange(len(labels)) if seed is None else np.random.default_rng(seed).permutation(len(labels))
    order = order[np.argsort(labels[order], kind="stable")]  # rows grouped by identity
    _, starts, counts = np.unique(labels[order], return_index=True, return_counts=True)
    ranks = np.empty(len(labels), dtype=np.int64)
    ranks[order] = np.arange(len(labels)) - np.repeat(starts, counts)
    return ranks
