"""Views of identity data sets that a `DataLoader` reads batch by batch, undecoded."""

from collections.abc import Sequence

import pyarrow as pa
from datasets import Dataset, Image, IterableDataset
from torch.utils.data import Dataset as TorchDataset


class FaceDataset(TorchDataset):
    """A `datasets.Dataset` as a map-style data set whose batches are Arrow tables, for [`FaceCollator`].

    `DataLoader` asks for the rows of a whole batch at once (`__getitems__`); they are gathered in Arrow, without a
    Python object per row and without decoding, which is the collator's work. Samplers see an ordinary data set, so
    splitting over ranks and skipping batches on resume are accelerate's, as for any other.

    Args:
        dataset: Identity data, `image` and `label`. Columns of strings come along, to name a row in error messages.

    Example:
        >>> loader = DataLoader(FaceDataset(load_orl()), batch_size=64, shuffle=True, collate_fn=FaceCollator(112))
    """

    def __init__(self, dataset: Dataset):
        names = [name for name, feature in dataset.features.items() if getattr(feature, "dtype", None) == "string"]
        self.dataset = dataset
        self._rows = dataset.select_columns(["image", "label", *names]).with_format("arrow")

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, index: int) -> dict:
        """One row as a mapping, undecoded."""
        return self.__getitems__([index]).to_pylist()[0]

    def __getitems__(self, indices: Sequence[int]) -> pa.Table:
        """The rows of a batch: `image` (undecoded), `label`, `row` (the index) and the columns of strings."""
        return self._rows[indices].append_column("row", pa.array(indices, type=pa.int64()))


def undecoded(dataset: Dataset | IterableDataset) -> FaceDataset | IterableDataset:
    """What to give to a `DataLoader` with [`FaceCollator`], be the data set on disk or streamed."""
    if isinstance(dataset, Dataset):
        return FaceDataset(dataset)
    return dataset.cast_column("image", Image(decode=False))
