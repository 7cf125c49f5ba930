"""Reads the two columns of identity data, `image` and `label`, from Arrow without decoding images."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pyarrow.compute as pc
from datasets import Dataset
from datasets.table import embed_table_storage

BATCH_ROWS = 1000
FEW_ROWS = 100  # for images of any size, all of which are in memory at a time
MAX_BATCH_BYTES = 64 << 20  # a thousand crops are far smaller, a thousand full-size images far larger


def identity_labels(dataset: Dataset) -> np.ndarray:
    """The label column as an int64 array (N,), read from Arrow in one go."""
    labels = np.asarray(dataset.data.column("label").to_numpy(), dtype=np.int64)
    return labels if dataset._indices is None else labels[dataset._indices.column(0).to_numpy()]


def encoded_images(dataset: Dataset, rows: np.ndarray) -> list[bytes]:
    """The stored bytes of the images in `rows`, read from files where the table holds only paths."""
    images = dataset.select_columns("image").with_format("arrow")[rows]["image"].to_pylist()
    return [Path(image["path"]).read_bytes() if image["bytes"] is None else image["bytes"] for image in images]


def has_paths_only(dataset: Dataset) -> bool:
    """Whether the table holds only the paths of some images."""
    return any(pc.struct_field(chunk, "bytes").null_count for chunk in dataset.data.column("image").chunks)


def read_images_into_table(dataset: Dataset) -> Dataset:
    """Read images for which the table holds only paths into the table."""
    if not has_paths_only(dataset):
        return dataset
    rows = dataset.with_format("arrow")
    embedded = rows.map(
        embed_table_storage, batched=True, batch_size=FEW_ROWS, writer_batch_size=FEW_ROWS, desc="reading images"
    )
    return embedded.with_format(None)


def encoded_sizes(dataset: Dataset) -> np.ndarray:
    """Number of bytes of each image in the table, (N,)."""
    sizes = pc.fill_null(pc.binary_length(pc.struct_field(dataset.data.column("image"), "bytes")), 0).to_numpy()
    return sizes if dataset._indices is None else sizes[dataset._indices.column(0).to_numpy()]


def rows_that_fit(sizes: Sequence[int] | np.ndarray) -> int:
    """Number of leading rows that fit into `MAX_BATCH_BYTES`, at least one."""
    return max(1, int(np.searchsorted(np.cumsum(sizes, dtype=np.int64), MAX_BATCH_BYTES, side="right")))


def check_label_range(labels: np.ndarray, num_identities: int, source: str, first_row: int = 0):
    """Raise `ValueError` for the first label outside 0 ... num_identities - 1."""
    bad = np.flatnonzero((labels < 0) | (labels >= num_identities))
    if len(bad):
        raise ValueError(
            f"{source}: label {labels[bad[0]]} in row {first_row + bad[0]} is out of range: "
            f"there are {num_identities} identities, 0 to {num_identities - 1}"
        )
