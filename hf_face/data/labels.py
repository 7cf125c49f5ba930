"""Labels as classes: 0 ... C-1 with the identities' names, whatever the source calls its people.

A ClassLabel holds the names of all identities, and `datasets` copies, hashes and turns them into JSON at every step,
which takes minutes for millions. So the names are shared between copies, and a dataset is given them last.
"""

from collections.abc import Sequence

import numpy as np
import pyarrow as pa
from datasets import ClassLabel, Dataset, Value
from datasets.fingerprint import Hasher
from datasets.table import InMemoryTable, concat_tables

from .columns import check_label_range

STRINGS = (pa.types.is_string, pa.types.is_large_string, pa.types.is_string_view)


class _SharedList(list):
    """A list that nobody changes, so that a copy is the list itself."""

    def __deepcopy__(self, memo):
        return self


class _SharedDict(dict):
    def __deepcopy__(self, memo):
        return self


def class_label(names: Sequence[str]) -> ClassLabel:
    """A ClassLabel whose copies share its names."""
    label = ClassLabel(names=_SharedList(names))
    label._int2str, label._str2int = label.names, _SharedDict(label._str2int)
    return label


def name_labels(column: pa.ChunkedArray, source: str, compact: bool = False) -> tuple[np.ndarray, list[str]]:
    """
    Number the identities in a column of integers or names.

    Args:
        column: Integers of any width, which are the labels themselves, or strings of any kind, which are sorted.
        source: The name of the data in error messages.
        compact: Renumber the integers without gaps.

    Returns:
        Labels, (N,) int64, and the name of each identity. Their cost depends on the number of people, not on their ids.

    Raises:
        ValueError: if labels are of another type or negative, or without `compact` if an identity has no images.
    """
    if pa.types.is_integer(column.type):
        present, labels = np.unique(column.to_numpy(), return_inverse=True)
        if len(present):
            count = int(present[-1]) + 1
            check_label_range(column.to_numpy(), count, source)
            gaps = np.flatnonzero(present != np.arange(len(present)))
            if len(gaps) and not compact:
                raise_empty_identity(source, str(gaps[0]), int(gaps[0]), count - len(present), count)
        return labels, present.astype(str).tolist()
    if any(is_kind(column.type) for is_kind in STRINGS):
        encoded = column.cast(pa.large_string()).combine_chunks().dictionary_encode()
        names = encoded.dictionary.to_pylist()
        order = np.array(sorted(range(len(names)), key=names.__getitem__), dtype=np.int64)
        return np.argsort(order)[encoded.indices.to_numpy()], [names[i] for i in order]
    raise ValueError(f"{source}: identities must be integers or names, found {column.type}")


def raise_empty_identity(source: str, name: str, label: int, num_empty: int, num_identities: int):
    raise ValueError(
        f"{source}: identity {name!r} (label {label}) has no images ({num_empty} of {num_identities} have none). Leave "
        "them out with load_identities(..., compact=True) or compact_labels(dataset)"
    )


def replace_labels(dataset: Dataset, labels: np.ndarray | Sequence[int], names: Sequence[str]) -> Dataset:
    """Replace the label column with `labels` (N,) over `names`.

    `Dataset.add_column` first rewrites a selected or shuffled dataset, including its images. Instead, the new labels
    are placed next to the existing table, and the selection is kept.
    """
    labels = np.asarray(labels, dtype=np.int64)
    fingerprint = Hasher.hash((dataset._fingerprint, labels, "\0".join(names)))
    indices = dataset._indices
    if indices is not None:
        in_table = np.zeros(dataset.data.num_rows, dtype=np.int64)
        in_table[indices.column(0).to_numpy()] = labels
        labels = in_table
    info = dataset.info.copy()
    info.features["label"] = Value("int64")
    column = InMemoryTable.from_pydict({"label": labels})
    others = dataset.data.remove_column(dataset.column_names.index("label"))
    table = concat_tables([others, column], axis=1).select(dataset.column_names).cast(info.features.arrow_schema)
    replaced = Dataset(table, info, dataset.split, indices, fingerprint)
    replaced.info.features["label"] = class_label(names)
    return replaced
