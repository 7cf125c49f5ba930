"""A `datasets` builder for RecordIO and image folders: cached as Arrow for random access, or streamed."""

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

IMAGES_AND_NUMBERS = datasets.Features({"image": datasets.Image(), "label": datasets.Value("int64")})
MAX_SHARDS = 256  # the number of workers, over all ranks, that can stream at once


@dataclass
class IdentityConfig(datasets.BuilderConfig):
    """Path and fingerprint of the images: a source that has changed gets a new cache entry."""

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
    def from_path(cls, path: str | Path, compact: bool = False) -> "IdentityBuilder":
        source = open_source(path)
        if not compact:
            source.check_people()
        return cls(dataset_name="identities", path=str(source.path.absolute()), fingerprint=source.fingerprint)

    def _info(self) -> datasets.DatasetInfo:
        source = open_source(self.config.path)
        if source.num_identities > len(source):  # a damaged label may claim any number, more names than fit into memory
            return datasets.DatasetInfo(features=IMAGES_AND_NUMBERS)
        return datasets.DatasetInfo(features=identity_features(source.names))

    def _split_generators(self, dl_manager) -> list[datasets.SplitGenerator]:
        length = len(open_source(self.config.path))
        bounds = np.linspace(0, length, min(MAX_SHARDS, length) + 1, dtype=np.int64).tolist()
        # `datasets` splits any list it finds here among processes or workers
        return [datasets.SplitGenerator("train", gen_kwargs={"spans": list(pairwise(bounds))})]

    def _generate_shards(self, spans: list[tuple[int, int]]) -> Iterator[str]:
        yield from (f"{self.config.path}:{start}-{stop}" for start, stop in spans)

    def _generate_tables(self, spans: list[tuple[int, int]]) -> Iterator[tuple[Key, pa.Table]]:
        source = _open_once(self.config.path, self.config.fingerprint)
        for shard, (start, stop) in enumerate(spans):
            for batch, table in enumerate(source.batches(start, stop)):
                yield Key(shard, batch), table


def open_source(path: str | Path) -> RecordIO | ImageFolder:
    """Open RecordIO if there is a `.rec` file, otherwise a folder of people."""
    path = Path(path)
    if path.is_file() and path.suffix != ".rec":
        raise ValueError(f"{path} is neither a folder nor a .rec, .parquet or tar file")
    return RecordIO(path) if path.suffix == ".rec" or any(path.glob("*.rec")) else ImageFolder(path)


@lru_cache(maxsize=1)
def _open_once(path: str, fingerprint: str) -> RecordIO | ImageFolder:
    """Shared by all shards that a process reads: reading an index or listing a folder of millions takes seconds."""
    return open_source(path)


def identity_features(names: list[str]) -> datasets.Features:
    """The columns `image` and `label`, with the names of the identities."""
    return datasets.Features({"image": datasets.Image(), "label": datasets.ClassLabel(names=names)})
