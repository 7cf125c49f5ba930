"""RecordIO and image folders as `datasets` sees them: cached as Arrow for random access, or streamed."""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from itertools import pairwise
from pathlib import Path

import datasets
import numpy as np
import pyarrow as pa
from datasets.builder import Key

from .image_folder import ImageFolder
from .recordio import RecordIO

MAX_SHARDS = 256  # as many workers, over all ranks, can stream at once


@dataclass
class IdentityConfig(datasets.BuilderConfig):
    """Where the images are, and their fingerprint: a source that has changed is another entry of the cache."""

    path: str = ""
    fingerprint: str = ""


class IdentityBuilder(datasets.ArrowBasedBuilder):
    """Builds the split `train` with the columns `image` and `label`.

    Example:

        >>> builder = IdentityBuilder.from_path("faces_emore/train.rec")
        >>> dataset = builder.as_streaming_dataset("train")
    """

    BUILDER_CONFIG_CLASS = IdentityConfig

    @classmethod
    def from_path(cls, path: str | Path) -> "IdentityBuilder":
        source = open_source(path)
        return cls(dataset_name="identities", path=str(source.path.absolute()), fingerprint=source.fingerprint)

    def _info(self) -> datasets.DatasetInfo:
        return datasets.DatasetInfo(features=identity_features(open_source(self.config.path)))

    def _split_generators(self, dl_manager) -> list[datasets.SplitGenerator]:
        length = len(open_source(self.config.path))
        bounds = np.linspace(0, length, min(MAX_SHARDS, length) + 1, dtype=np.int64).tolist()
        # `datasets` gives each process or worker a part of whatever list it finds here
        return [datasets.SplitGenerator("train", gen_kwargs={"spans": list(pairwise(bounds))})]

    def _generate_shards(self, spans: list[tuple[int, int]]) -> Iterator[str]:
        yield from (f"{self.config.path}:{start}-{stop}" for start, stop in spans)

    def _generate_tables(self, spans: list[tuple[int, int]]) -> Iterator[tuple[Key, pa.Table]]:
        source = _open_once(self.config.path, self.config.fingerprint)
        for shard, (start, stop) in enumerate(spans):
            for batch, table in enumerate(source.batches(start, stop)):
                yield Key(shard, batch), table


def open_source(path: str | Path) -> RecordIO | ImageFolder:
    """RecordIO where there is a `.rec` file, else a folder of people."""
    path = Path(path)
    if path.is_file() and path.suffix != ".rec":
        raise ValueError(f"{path} is neither a folder nor a .rec, .parquet or tar file")
    return RecordIO(path) if path.suffix == ".rec" or any(path.glob("*.rec")) else ImageFolder(path)


@lru_cache(maxsize=1)
def _open_once(path: str, fingerprint: str) -> RecordIO | ImageFolder:
    """For all the shards that a process reads: to read an index, or list a folder, of millions takes seconds."""
    return open_source(path)


def identity_features(source: RecordIO | ImageFolder) -> datasets.Features:
    """`image` and `label`, with the people's names."""
    return datasets.Features({"image": datasets.Image(), "label": datasets.ClassLabel(names=source.names)})
