"""Streams identity data as numbered, undecoded batches, split over ranks and workers, and resumable."""

from collections.abc import Iterator, Mapping, Sequence

import pyarrow as pa
import pyarrow.compute as pc
import torch
from datasets import Image, IterableDataset
from datasets.distributed import split_dataset_by_node
from torch.utils.data import Dataset as TorchDataset
from transformers.utils import logging

from .loading import EncodedRows, int64_labels

logger = logging.get_logger(__name__)

KNOWN_POSITIONS = 64  # per part; more than the number of batches that a worker reads ahead


class StreamedRows(EncodedRows):
    """A batch stored in an Arrow table. Rows are converted to mappings only for messages."""

    @classmethod
    def from_table(cls, table: pa.Table) -> "StreamedRows":
        column = table["image"].combine_chunks()
        images = pc.struct_field(column, "bytes").to_pylist()
        if None in images:
            images = column.to_pylist()  # some images are in separate files, so their paths are needed too
        return cls(images, int64_labels(table["label"]), table)

    def row(self, i: int) -> Mapping:
        (row,) = self._rows.slice(i, 1).to_pylist()
        return row


class FaceStream(TorchDataset):
    """A `datasets.IterableDataset` as a map-style dataset of numbered, undecoded batches, for [`FaceCollator`].

    The stream is split into parts, one for each worker of each rank; batch `n` is the next batch of part
    `n % num_parts`. `DataLoader` distributes the numbers round-robin to its workers, as accelerate does to the ranks,
    so each of them reads one part. They also handle the length and skip batches on resume, as for a dataset on disk.

    Each part is read in repeated passes. Over all parts, each pass returns every image once; a short batch at the end
    of a pass is filled from the next one. Passes differ if the stream is shuffled, which requires a seed with several
    ranks.

    Resuming with `state_dict` and `load_state_dict` is exact: the images already returned by the current pass are read
    again but not decoded, to restore the shuffle buffer. Without a state, all earlier passes are read again too.

    Args:
        dataset: Streamed identity data with `image` and `label`, not yet split over ranks.
        batch_size: Number of images in every batch.
        num_batches: Number of batches over all parts.
        num_parts: Number of ranks times number of workers (1 without workers). With at least as many shards, each part
            reads its own shards; with fewer, each part reads all shards and skips the examples of other parts.

    Example:
        >>> stream = FaceStream(load_identities("faces", streaming=True), 64, num_batches=1000, num_parts=4)
        >>> loader = DataLoader(stream, batch_size=None, num_workers=4, collate_fn=FaceCollator(112))
    """

    def __init__(self, dataset: IterableDataset, batch_size: int, num_batches: int, num_parts: int = 1):
        self.batch_size = batch_size
        self.num_batches = num_batches
        self.num_parts = num_parts
        self._dataset = dataset.cast_column("image", Image(decode=False))
        if dataset._ex_iterable.iter_arrow:  # `datasets` would convert the Python rows of other sources one by one
            self._dataset = self._dataset.with_format("arrow")
        self._split = "shards" if dataset.num_shards >= num_parts else "examples"
        if self._split == "examples":
            logger.warning(
                f"The stream has fewer shards ({dataset.num_shards}) than readers ({num_parts}, ranks times workers), "
                "so each of them reads the whole stream to decode its part. Split the data into more files."
            )
        self._readers: dict[int, tuple[int, Iterator]] = {}
        # (turn, pass, row): the pass and row at which a part's batch number `turn` starts. In shared memory: workers
        # write it, some batches ahead of the main process, which saves it.
        self._known = torch.zeros((num_parts, KNOWN_POSITIONS, 3), dtype=torch.int64).share_memory_()

    def __len__(self) -> int:
        return self.num_batches

    def __getitem__(self, number: int) -> StreamedRows:
        """Batch `number`. Request each part's batches in order; going back reads the part from the start."""
        turn, part = divmod(number, self.num_parts)
        next_turn, reader = self._readers.get(part, (None, None))
        if next_turn != turn:
            reader = self._open(part, turn)
        table, position = next(reader)
        self._readers[part] = turn + 1, reader
        self._remember(part, turn + 1, *position)
        return StreamedRows.from_table(table)

    def __getitems__(self, numbers: Sequence[int]) -> StreamedRows:
        """For a `DataLoader` with `batch_size=1`: one batch per number."""
        (number,) = numbers
        return self[number]

    def state_dict(self, num_used: int) -> dict:
        """The positions, after the first `num_used` batches, of the parts read by this process or its workers."""
        positions = []
        for part in range(self.num_parts):
            turn = -((part - num_used) // self.num_parts)
            known, *position = self._known[part, turn % KNOWN_POSITIONS].tolist()
            if known == turn:
                positions.append([part, turn, *position])
        return {"batch_size": self.batch_size, "num_parts": self.num_parts, "positions": positions}

    def load_state_dict(self, state: dict):
        """Resume from a state, or from the states of several ranks with their positions joined.

        Raises:
            ValueError: if the number of parts or the batch size has changed.
        """
        for name, meaning in (("num_parts", "ranks times workers"), ("batch_size", "images in a batch")):
            if getattr(self, name) != state[name]:
                raise ValueError(
                    f"The stream was read with {name}={state[name]} ({meaning}) and cannot resume with "
                    f"{getattr(self, name)}. Set ignore_data_skip to read it from the start."
                )
        for position in state["positions"]:
            self._remember(*position)

    def _remember(self, part: int, turn: int, number: int, row: int):
        self._known[part, turn % KNOWN_POSITIONS] = torch.tensor([turn, number, row])

    def _open(self, part: int, turn: int) -> Iterator[tuple[pa.Table, tuple[int, int]]]:
        known, *position = self._known[part, turn % KNOWN_POSITIONS].tolist()
        if known != turn:
            known, position = 0, (0, 0)
        batches = self._read(part, *position)
        for _ in range(turn - known):
            next(batches)
        return batches

    def _read(self, part: int, number: int, row: int) -> Iterator[tuple[pa.Table, tuple[int, int]]]:
        """The batches of a part, starting at `row` of pass `number`, each with the position after it."""
        dataset = split_dataset_by_node(self._dataset, part, self.num_parts, self._split)
        waiting = None
        while True:
            dataset.set_epoch(number)
            num_read = 0
            for table in map(self._as_table, dataset.iter(self.batch_size)):
                done = min(max(0, row - num_read), len(table))
                num_read += len(table)
                table = table.slice(done)
                waiting = pa.concat_tables([waiting, table]) if waiting else table
                if len(waiting) >= self.batch_size:
                    # at most one batch per table, so the remainder is from this table and thus from this pass
                    left = len(waiting) - self.batch_size
                    yield waiting.slice(0, self.batch_size), (number, num_read - left)
                    waiting = waiting.slice(self.batch_size)
            if num_read == 0:
                raise ValueError(f"Part {part} of {self.num_parts} of the stream has no images.")
            number, row = number + 1, 0

    def _as_table(self, batch: pa.Table | dict[str, list]) -> pa.Table:
        if isinstance(batch, pa.Table):
            return batch
        return pa.Table.from_pydict(batch, schema=self._dataset.features.arrow_schema)
