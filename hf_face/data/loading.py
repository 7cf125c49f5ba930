"""Views of identity data sets that a `DataLoader` reads batch by batch, undecoded."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import pyarrow.compute as pc
from datasets import Dataset, Image
from torch.utils.data import Dataset as TorchDataset


@dataclass
class EncodedRows:
    """A batch of rows that [`FaceCollator`] has still to decode.

    Attributes:
        images: Encoded bytes, undecoded `datasets.Image` values or Pillow images, one a row.
        labels: Integers, one a row.
    """

    images: Sequence
    labels: Sequence[int | None]
    _rows: Sequence[Mapping]
    _indices: Sequence[int] | None = None

    @classmethod
    def from_rows(cls, rows: Sequence[Mapping]) -> "EncodedRows":
        """Rows as mappings, as `datasets` gives them one by one."""
        return cls([row["image"] for row in rows], [row["label"] for row in rows], rows)

    def describe(self, i: int) -> str:
        """Name a row for a message: its number, its file, and whatever strings the data set keeps beside an image."""
        if self._indices is None:
            row, where = self._rows[i], [f"image {i} of the batch"]
        else:
            row, where = self._rows[self._indices[i]], [f"row {self._indices[i]}"]
        path = row["image"].get("path") if isinstance(row["image"], Mapping) else None
        names = {"path": path} | {name: value for name, value in row.items() if isinstance(value, str)}
        return ", ".join(where + [f"{name} {value!r}" for name, value in names.items() if value is not None])


class FaceDataset(TorchDataset):
    """A `datasets.Dataset` as a map-style data set that gives whole batches undecoded, for [`FaceCollator`].

    `DataLoader` asks for the rows of a batch at once (`__getitems__`); they are gathered in Arrow, without a Python
    mapping per row and without decoding, which is the collator's work. Samplers see an ordinary data set, so splitting
    over ranks and skipping batches on resume are accelerate's, as for any other.

    Args:
        dataset: Identity data, `image` and `label`, and any columns that help to name a row in an error message.

    Example:
        >>> loader = DataLoader(FaceDataset(load_orl()), batch_size=64, shuffle=True, collate_fn=FaceCollator(112))
    """

    def __init__(self, dataset: Dataset):
        self._rows = dataset.cast_column("image", Image(decode=False)).with_format(None)
        self._columns = dataset.select_columns(["image", "label"]).with_format("arrow")

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, index: int) -> dict:
        """One row as a mapping, undecoded."""
        return self._rows[index]

    def __getitems__(self, indices: Sequence[int]) -> EncodedRows:
        """The rows of a batch."""
        table = self._columns[indices].combine_chunks()
        images = pc.struct_field(table["image"], "bytes").to_pylist()
        if None in images:
            images = table["image"].to_pylist()  # some images are in files of their own: their paths are needed too
        return EncodedRows(images, table["label"].to_pylist(), self._rows, indices)
