"""Converts identity data to Parquet shards for `datasets` and the Hub, leaving image bytes as is, batch by batch."""

import logging
import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from datasets import Dataset
from huggingface_hub import DatasetCard, DatasetCardData
from tqdm.auto import tqdm

from ..user_input import check_at_least, check_output_folder
from .builder import identity_features, open_source
from .columns import BATCH_ROWS, check_label_range, encoded_sizes, read_images_into_table, rows_that_fit
from .identities import load_identities
from .image_folder import ImageFolder
from .recordio import RecordIO
from .sources import check_output_dir, find_folder, find_shards, find_source

logger = logging.getLogger(__name__)

CARD = """
# {name}

{images} images of {people} people for training face recognition; {fewest} to {most} images per person, median {median}.
The images are byte-for-byte copies of the source's.

```python
from hf_face.data import load_identities

dataset = load_identities("<this repository, or its folder>")
```

Faces are personal data. Before using or sharing them, make sure that the source's license and the law allow it.
"""


def open_for_conversion(source: str | Path, **load_arguments) -> RecordIO | ImageFolder | Dataset:
    """Open identity data for [`convert_to_parquet`]. Takes the arguments of [`load_identities`].

    RecordIO and image folders are read in place. Parquet, tar shards and other Hub datasets are first copied to the
    cache of `datasets`, which takes as much disk space again.
    """
    path = find_source(source, load_arguments.get("revision"))
    split = load_arguments.get("split", "train")
    if path is None or find_shards(path, split):
        return load_identities(source, **load_arguments)
    opened = open_source(find_folder(path, split))
    if not load_arguments.get("compact"):
        opened.check_people()
    return opened


def convert_to_parquet(
    source: RecordIO | ImageFolder | Dataset,
    output_dir: str | Path,
    name: str | None = None,
    images_per_shard: int = 50_000,
    num_threads: int | None = None,
) -> Path:
    """Write identity data as Parquet shards with a dataset card.

    Shards are written in parallel, each first under a temporary name, so that every `.parquet` file is complete. When
    rerun after an interruption, existing shards are kept if the source has not changed: its files or, for a `Dataset`,
    the cache files it was loaded from.

    Args:
        source: The data to convert; [`open_for_conversion`] opens a path or a Hub name.
        output_dir: Folder to write `data/train-*.parquet` and `README.md` to.
        name: Name of the dataset on its card; defaults to the output folder's name.
        images_per_shard: Number of images per shard; 50,000 crops of 112 x 112 take about 300 MB.
        num_threads: Number of shards to write at once; defaults to the number of cores.

    Returns:
        `output_dir`, which [`load_identities`] and `datasets.load_dataset` read.

    Raises:
        ValueError: if a label is out of range, the folder cannot be written to, lies in a source folder or has shards
            of another source or another size, a count is below 1, or the source is damaged or has no images.
    """
    check_at_least(1, images_per_shard=images_per_shard, num_threads=num_threads)
    check_output_folder(output_dir)
    source = DatasetSource(source) if isinstance(source, Dataset) else source
    output_dir = Path(output_dir)
    if isinstance(source, ImageFolder):
        check_output_dir(output_dir, source.path)
    schema = identity_features(source.names).arrow_schema
    schema = schema.with_metadata({**schema.metadata, "hf_face_source": source.fingerprint})
    shards = _plan(len(source), images_per_shard, output_dir / "data")
    _check_existing(shards, schema)
    with (
        tqdm(total=len(source), unit="image", desc=f"writing {output_dir.name}") as progress,
        ThreadPoolExecutor(num_threads or os.cpu_count()) as threads,  # pyarrow releases the GIL
    ):
        for _ in threads.map(lambda path: _write_shard(source, path, shards[path], schema, progress), shards):
            pass
    counts = _count_images(shards, len(source.names))
    _card(name or output_dir.name, counts).save(output_dir / "README.md")
    return output_dir


class DatasetSource:
    """A `Dataset` that is read in batches, like [`RecordIO`] and [`ImageFolder`]."""

    path = "dataset"

    def __init__(self, dataset: Dataset):
        if not len(dataset):
            raise ValueError(f"{self.path} has no images")
        self.rows = read_images_into_table(dataset.select_columns(["image", "label"])).with_format("arrow")
        self._sizes = encoded_sizes(self.rows)
        self.names = dataset.features["label"].names
        self.fingerprint = dataset._fingerprint

    def __len__(self) -> int:
        return len(self.rows)

    def batches(self, start: int, stop: int, batch_size: int = BATCH_ROWS) -> Iterator[pa.Table]:
        """Rows `start` to `stop` as tables of at most `batch_size` rows and 64 MB."""
        while start < stop:
            end = start + rows_that_fit(self._sizes[start : min(start + batch_size, stop)])
            yield self.rows[start:end]
            start = end


def _plan(length: int, images_per_shard: int, folder: Path) -> dict[Path, range]:
    """Assign rows to the path of each shard."""
    count = -(-length // images_per_shard)
    bounds = np.linspace(0, length, count + 1, dtype=np.int64).tolist()
    return {folder / f"train-{i:05d}-of-{count:05d}.parquet": range(bounds[i], bounds[i + 1]) for i in range(count)}


def _check_existing(shards: dict[Path, range], schema: pa.Schema):
    """Raise `ValueError` for existing files, except for shards that an interrupted run of this conversion wrote."""
    folder = next(iter(shards)).parent
    folder.mkdir(parents=True, exist_ok=True)
    for path in sorted(folder.glob("*.parquet")):
        metadata = pq.read_metadata(path) if path in shards else None
        ours = metadata is not None and metadata.num_rows == len(shards[path])
        if not (ours and metadata.schema.to_arrow_schema().equals(schema, check_metadata=True)):
            raise ValueError(
                f"{path} was written from another source, or with another number of images per shard. "
                "Remove it, or write to another folder"
            )


def _write_shard(source, path: Path, rows: range, schema: pa.Schema, progress: tqdm):
    if path.exists():
        progress.update(len(rows))
        return
    unfinished = path.with_suffix(".unfinished")
    row = rows.start
    with pq.ParquetWriter(unfinished, schema, compression="none", use_dictionary=["label"]) as writer:
        for table in source.batches(rows.start, rows.stop):  # each batch is a row group
            check_label_range(table["label"].to_numpy(), len(source.names), str(source.path), first_row=row)
            writer.write_table(table.cast(schema))
            row += len(table)
            progress.update(len(table))
    unfinished.rename(path)


def _count_images(shards: dict[Path, range], num_identities: int) -> np.ndarray:
    """Number of images of each identity, (C,)."""
    counts = np.zeros(num_identities, dtype=np.int64)
    for path in shards:
        counts += np.bincount(pq.read_table(path, columns=["label"])["label"].to_numpy(), minlength=num_identities)
    if empty := np.count_nonzero(counts == 0):
        logger.warning(
            f"{empty} of {num_identities} identities have no images; load_identities(..., compact=True) leaves them out"
        )
    return counts


def _card(name: str, counts: np.ndarray) -> DatasetCard:
    data = DatasetCardData(
        pretty_name=name,
        tags=["face-recognition"],
        task_categories=["image-feature-extraction"],
        configs=[{"config_name": "default", "data_files": [{"split": "train", "path": "data/train-*.parquet"}]}],
    )
    of_a_person = counts[counts > 0]
    text = CARD.format(
        name=name,
        images=f"{counts.sum():,}",
        people=f"{len(of_a_person):,}",
        fewest=of_a_person.min(),
        most=of_a_person.max(),
        median=f"{np.median(of_a_person):g}",
    )
    return DatasetCard(f"---\n{data.to_yaml()}\n---\n{text}")
