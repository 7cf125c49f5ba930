"""Views of identity datasets that a `DataLoader` reads batch by batch, undecoded."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from datasets import Dataset
from torch.utils.data import Dataset as TorchDataset

MISSING_LABEL = -1


def int64_labels(column: pa.Array | pa.ChunkedArray) -> np.ndarray:
    """A label column of any integer type as int64 (N,), with `MISSING_LABEL` in place of null."""
    return pc.fill_null(column.cast(pa.int64()), MISSING_LABEL).to_numpy()


@dataclass
class EncodedRows:
    """A batch of rows for [`FaceCollator`] to decode.

    Attributes:
        images: Encoded bytes or views of them, undecoded `datasets.Image` values or Pillow images, one per row.
        labels: int64 (rows,), -1 for a missing label.
    """

    images: Sequence
    labels: np.ndarray
    _rows: Any
    _indices: Sequence[int] | None = None

    @classmethod
    def from_rows(cls, rows: Sequence[Mapping]) -> "EncodedRows":
        """Create a batch from rows as mappings, as `datasets` returns them one by one."""
        labels = [MISSING_LABEL if row["label"] is None else row["label"] for row in rows]
        return cls([row["image"] for row in rows], np.array(labels, dtype=np.int64), rows)

    @property
    def numbers(self) -> Sequence[int] | None:
        """Row numbers in the dataset (rows,), if the batch comes from a [`FaceDataset`]."""
        return self._indices

    def row(self, i: int) -> Mapping:
        """The whole row of image `i`."""
        return self._rows[i] if self._indices is None else self._rows[int(self._indices[i])]

    def describe(self, i: int) -> str:
        """Describe a row for a message: its number, its file, and any strings the dataset stores with the image."""
        row = self.row(i)
        where = [f"image {i} of the batch" if self._indices is None else f"row {self._indices[i]}"]
        path = row["image"].get("path") if isinstance(row["image"], Mapping) else None
        names = {"path": path} | {name: value for name, value in row.items() if isinstance(value, str)}
        return ", ".join(where + [f"{name} {value!r}" for name, value in names.items() if value is not None])


class FaceDataset(TorchDataset):
    """A `datasets.Dataset` as a map-style dataset that returns whole batches undecoded, for [`FaceCollator`].

    `DataLoader` requests all rows of a batch at once (`__getitems__`). They are gathered in Arrow, without a Python
    mapping per row and without decoding, which the collator does. Samplers see an ordinary dataset, so accelerate
    splits it over ranks and skips batches on resume as usual.

    Args:
        dataset: Identity data with `image` and `label`, and any columns that help identify a row in an error message.

    Example:
        >>> loader = DataLoader(FaceDataset(load_orl()), batch_size=64, shuffle=True, collate_fn=FaceCollator(112))
    """

    def __init__(self, dataset: Dataset):
        self._dataset = dataset
        # Directly from Arrow's memory: `datasets` copies the bytes of a batch twice, and looks up the rows of a
        # selected or shuffled dataset one by one.
        chunks = [chunk for chunk in dataset.data.column("image").chunks if len(chunk)]
        self._starts = np.cumsum([0, *map(len, chunks)])
        self._encoded = [_EncodedChunk(chunk) for chunk in chunks]
        self._labels = int64_labels(dataset.data.column("label"))
        self._places = None if dataset._indices is None else dataset._indices.column(0).to_numpy().astype(np.int64)

    @property
    def dataset(self) -> Dataset:
        """The dataset, with all its columns."""
        return self._dataset

    def __reduce__(self):
        return FaceDataset, (self._dataset,)  # spawned workers open the file instead of receiving its contents

    def __len__(self) -> int:
        return len(self._dataset)

    def __getitem__(self, index: int) -> dict:
        """One row as a mapping, undecoded."""
        if not 0 <= index < len(self):
            raise IndexError(f"row {index} of {len(self)}")
        place = index if self._places is None else int(self._places[index])
        (row,) = self._dataset.data.slice(place, 1).to_pylist()
        return row

    def __getitems__(self, indices: Sequence[int]) -> EncodedRows:
        """The rows of a batch."""
        places = np.asarray(indices) if self._places is None else self._places[indices]
        chunks = np.searchsorted(self._starts, places, side="right") - 1
        rows = (places - self._starts[chunks]).tolist()
        images = [self._encoded[chunk][row] for chunk, row in zip(chunks.tolist(), rows, strict=True)]
        return EncodedRows(images, self._labels[places], self, indices)


class _EncodedChunk:
    """The images of one Arrow chunk as views of its memory, sliced by its offsets without an Arrow object per image."""

    def __init__(self, chunk: pa.StructArray):
        self._chunk = chunk
        encoded = pc.struct_field(chunk, "bytes")
        _, offsets, data = encoded.buffers()
        offset_type = np.int64 if pa.types.is_large_binary(encoded.type) else np.int32
        self._offsets = np.frombuffer(offsets, offset_type)[encoded.offset :]
        self._data = memoryview(b"" if data is None else data).cast("B")
        self._missing = encoded.is_null() if encoded.null_count else None

    def __getitem__(self, row: int) -> memoryview | dict | None:
        if self._missing is not None and self._missing[row].as_py():  # stored in a separate file, or missing
            return self._chunk[row].as_py()
        begin, end = self._offsets[row : row + 2].tolist()
        return self._data[begin:end]
