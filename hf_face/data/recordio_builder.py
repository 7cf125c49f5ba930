"""RecordIO as `datasets` sees it: cached as Arrow for random access, or streamed."""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import datasets
import numpy as np
import pyarrow as pa
from datasets.builder import Key

from .recordio import RecordIO

NUM_SHARDS = 64  # as many workers, over all ranks, can stream at once


@dataclass
class RecordIOConfig(datasets.BuilderConfig):
    """Which file; its size and time of change are part of the cache's name, so that a changed file is read again."""

    path: str = ""
    size: int = 0
    modified: int = 0


class RecordIOBuilder(datasets.ArrowBasedBuilder):
    """Builds the split `train` with the columns `image` and `label`."""

    BUILDER_CONFIG_CLASS = RecordIOConfig

    @classmethod
    def from_path(cls, path: str | Path) -> "RecordIOBuilder":
        file = RecordIO(path).path.resolve()
        status = file.stat()
        return cls(dataset_name="recordio", path=str(file), size=status.st_size, modified=status.st_mtime_ns)

    def _info(self) -> datasets.DatasetInfo:
        return datasets.DatasetInfo(features=recordio_features(RecordIO(self.config.path)))

    def _split_generators(self, dl_manager) -> list[datasets.SplitGenerator]:
        length = len(RecordIO(self.config.path))
        bounds = np.linspace(0, length, min(NUM_SHARDS, length) + 1, dtype=np.int64).tolist()
        spans = list(pairwise(bounds))  # `datasets` shards by whatever list it is given
        return [datasets.SplitGenerator("train", gen_kwargs={"spans": spans})]

    def _generate_shards(self, spans: list[tuple[int, int]]) -> Iterator[str]:
        yield from (f"{self.config.path}:{start}-{stop}" for start, stop in spans)

    def _generate_tables(self, spans: list[tuple[int, int]]) -> Iterator[tuple[Key, pa.Table]]:
        recordio = RecordIO(self.config.path)
        for shard, (start, stop) in enumerate(spans):
            for batch, table in enumerate(recordio.batches(start, stop)):
                yield Key(shard, batch), table


def recordio_features(recordio: RecordIO) -> datasets.Features:
    """`image` and `label`, with the identities' numbers as their names."""
    label = datasets.ClassLabel(num_classes=recordio.num_identities)
    return datasets.Features({"image": datasets.Image(), "label": label})
