"""Choosing, splitting and merging identity data sets: on the label column alone, the images are never touched."""

from collections.abc import Sequence

import numpy as np
from datasets import ClassLabel, Dataset, concatenate_datasets
from datasets.table import InMemoryTable, concat_tables

from .columns import identity_labels


def select_identities(
    dataset: Dataset,
    num_identities: int | None = None,
    images_per_identity: int | None = None,
    min_images: int = 1,
    seed: int | None = None,
) -> Dataset:
    """Keep some identities and some of their images, as FRoundation does for its selective data sets.

    Args:
        dataset: Identity data, `image` and `label`.
        num_identities: How many identities to keep; all when None.
        images_per_identity: How many images to keep of each at most; all when None.
        min_images: Identities with fewer images are left out first.
        seed: Choose identities and images at random with this seed; the first ones in order when None.

    Returns:
        The rows kept, in their order in `dataset`, with labels compacted (see [`compact_labels`]).

    Raises:
        ValueError: fewer than `num_identities` identities have `min_images` images.
    """
    labels = identity_labels(dataset)
    counts = np.bincount(labels)
    identities = np.flatnonzero(counts >= max(min_images, 1))
    if num_identities is not None:
        if num_identities > len(identities):
            raise ValueError(
                f"{num_identities} identities were asked for, but only {len(identities)} of the "
                f"{np.count_nonzero(counts)} in the data set have at least {min_images} images"
            )
        if seed is not None:
            identities = np.random.default_rng(seed).permutation(identities)
        identities = identities[:num_identities]
    keep = np.isin(labels, identities)
    if images_per_identity is not None:
        keep &= _rank_within_identity(labels, seed) < images_per_identity
    return compact_labels(dataset.select(np.flatnonzero(keep)))


def split_identities(dataset: Dataset, num_held_out: int, seed: int = 0) -> tuple[Dataset, Dataset]:
    """Split into two data sets that share no identity: recognition is tested on people never seen in training.

    Args:
        dataset: Identity data, `image` and `label`.
        num_held_out: How many identities, chosen at random with `seed`, go into the second data set.
        seed: Seed of the choice.

    Returns:
        `(train, held_out)`, each with its labels compacted.

    Raises:
        ValueError: the split would leave a side without identities.
    """
    labels = identity_labels(dataset)
    identities = np.unique(labels)
    if not 0 < num_held_out < len(identities):
        raise ValueError(
            f"num_held_out={num_held_out} of {len(identities)} identities leaves one side of the split empty: "
            f"expected 1 to {len(identities) - 1}"
        )
    held_out = np.isin(labels, np.random.default_rng(seed).permutation(identities)[:num_held_out])
    train, test = (dataset.select(np.flatnonzero(side)) for side in (~held_out, held_out))
    return compact_labels(train), compact_labels(test)


def compact_labels(dataset: Dataset) -> Dataset:
    """Renumber the labels 0 ... C-1 without gaps; every identity keeps its name and the order of identities is kept."""
    present, compacted = np.unique(identity_labels(dataset), return_inverse=True)
    feature = dataset.features["label"]
    if len(present) == feature.num_classes:
        return dataset
    return replace_labels(dataset, compacted, [feature.names[label] for label in present])


def merge_identities(datasets: Sequence[Dataset]) -> Dataset:
    """Put several sources one after the other as one data set: identities of different sources are different people.

    The labels of each source are offset by the identities before it. An identity's name gets its source's position
    as a prefix (`0/alice`, `1/alice`), since two sources may use one name for two people.
    """
    names = [f"{i}/{name}" for i, dataset in enumerate(datasets) for name in dataset.features["label"].names]
    offsets = np.cumsum([0, *(dataset.features["label"].num_classes for dataset in datasets)])
    return concatenate_datasets(
        [
            replace_labels(dataset.select_columns(["image", "label"]), identity_labels(dataset) + offset, names)
            for dataset, offset in zip(datasets, offsets, strict=False)
        ]
    )


def replace_labels(dataset: Dataset, labels: np.ndarray, names: list[str]) -> Dataset:
    """`dataset` with another label column, `labels` (N,) over `names`.

    `Dataset.add_column` first writes a selected or shuffled data set out again, images and all. Here the new labels
    are laid beside the table as it is, and the selection is kept.
    """
    indices = dataset._indices
    if indices is not None:
        in_table = np.zeros(dataset.data.num_rows, dtype=np.int64)
        in_table[indices.column(0).to_numpy()] = labels
        labels = in_table
    features = dataset.features.copy()
    features["label"] = ClassLabel(names=names)
    column = InMemoryTable.from_pydict({"label": labels})
    position = dataset.column_names.index("label")
    others = dataset.data.remove_column(position)
    table = concat_tables([others, column], axis=1).select(dataset.column_names)
    info = dataset.info.copy()
    info.features = features
    return Dataset(table.cast(features.arrow_schema), info=info, split=dataset.split, indices_table=indices)


def _rank_within_identity(labels: np.ndarray, seed: int | None) -> np.ndarray:
    """For each row its position among the rows of its identity (N,): in row order, or in a random order."""
    order = np.arange(len(labels)) if seed is None else np.random.default_rng(seed).permutation(len(labels))
    order = order[np.argsort(labels[order], kind="stable")]  # rows grouped by identity
    starts = np.flatnonzero(np.diff(labels[order], prepend=-1))  # where each identity's rows begin
    ranks = np.empty(len(labels), dtype=np.int64)
    ranks[order] = np.arange(len(labels)) - np.repeat(starts, np.diff([*starts, len(labels)]))
    return ranks
