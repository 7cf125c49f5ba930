"""Finds the files of identity data, and checks them before they are read: they may come from strangers."""

import json
import os
import re
import tarfile
import zlib
from collections.abc import Iterable, Sequence
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from datasets import Dataset, IterableDataset, config, load_dataset
from datasets.exceptions import DatasetGenerationError
from huggingface_hub import constants

from ..user_input import check_exists
from .image_folder import people_folders
from .recordio import download_recordio

SHARD_SUFFIXES = (".parquet", ".tar", ".tar.gz", ".tgz")
DAMAGE = (pa.ArrowException, OSError, EOFError, tarfile.TarError, zlib.error)
SPLITS = {"train", "training", "validation", "valid", "val", "dev", "test", "testing", "eval"}


def find_source(source: str | Path, revision: str | None = None) -> Path | None:
    """The local path of `source`, or of the RecordIO files of a Hub dataset; None for other Hub names."""
    path = Path(source)
    if path.exists():
        return path
    check_exists(source)
    path = download_recordio(str(source), revision)
    return path if any(path.glob("*.rec")) else None


def find_shards(path: Path, split: str) -> list[Path]:
    """The Parquet or tar shards of a split; empty if `path` has no such shards.

    A shard belongs to a split if its name or its folder's starts with it. If no name starts with any split, all shards
    belong to `train`.
    """
    if path.is_file():
        files = [path] if path.name.endswith(SHARD_SUFFIXES) else []
    else:
        folders = [path, path / "data", path / split]
        # Not hidden ones: macOS writes `._a.tar` beside `a.tar` to disks of other systems and into archives.
        files = sorted(
            file for folder in folders for file in folder.glob("[!.]*") if file.name.endswith(SHARD_SUFFIXES)
        )
    names = {file: [re.split(r"[-_.]", name)[0] for name in _parts(file, path)] for file in files}
    splits = {file: SPLITS.intersection(parts) for file, parts in names.items()}
    if files and not any(splits.values()):
        check_no_split(path, split)
    if (path.is_file() and split == "train") or not any(splits.values()):
        return files
    chosen = [file for file in files if split in splits[file]]
    if not chosen:
        found = ", ".join(sorted(set.union(*splits.values())))
        raise ValueError(f"{path} has no shards for the split {split!r}, only for {found}")
    return chosen


def _parts(file: Path, path: Path) -> tuple[str, ...]:
    return (file.name,) if file == path else file.relative_to(path).parts


def find_folder(path: Path, split: str) -> Path:
    """RecordIO or the folder of people of a split.

    A folder whose folders are all named like splits (`root/train/alice`, `root/val/bob`) has these splits.
    """
    names = people_folders(path) if path.is_dir() and not any(path.glob("*.rec")) else []
    if not names or any(name.lower() not in SPLITS for name in names):
        check_no_split(path, split)
        return path
    if split not in names:
        raise ValueError(f"{path} has the splits {', '.join(names)}, but not {split!r}. Set split to one of them")
    return path / split


def check_no_split(source: str | Path, split: str):
    """Raise `ValueError` if a split other than the default is requested of data without splits."""
    if split != "train":
        raise ValueError(f"{source} has no splits, but split={split!r} was requested. Leave it out to load all images")


def check_output_dir(output_dir: str | Path, source: str | Path):
    """Raise `ValueError` if an output folder lies in a folder of people, where it would become one of them."""
    path = Path(source)
    others = (*SHARD_SUFFIXES, ".rec")
    has_people = path.is_dir() and not any(
        file.name.endswith(others) for folder in (path, path / "data") for file in folder.glob("*")
    )
    if has_people and Path(output_dir).resolve().is_relative_to(path.resolve()):
        raise ValueError(
            f"the output folder {output_dir} lies in the source folder {source}, where it would be taken for a person. "
            "Write to a folder outside it"
        )


def load_shards(files: list[Path], folder: Path, streaming: bool = False) -> Dataset | IterableDataset:
    """
    Load Parquet or tar files.

    Args:
        files: Files of one kind.
        folder: The folder that they may refer to images in.

    Raises:
        ValueError: naming the file that cannot be read, or that refers to images outside `folder`.
    """
    for file in files:
        check_shard(file, folder)
    kind = kind_of_shard(files[0])
    try:
        return load_dataset(kind, data_files=[str(file) for file in files], split="train", streaming=streaming)
    except (ValueError, DatasetGenerationError, tarfile.TarError) as error:  # they do not name the file
        where = damaged_shard(files) or (folder if len(files) > 1 else files[0])
        raise ValueError(f"{where} cannot be read as {kind}: {error.__cause__ or error}") from error


def check_shard(file: Path, folder: Path):
    """
    Check a Parquet or tar file without reading its rows, and the paths of images that are not in it.

    Raises:
        ValueError: if the file is not complete, if it claims more classes than it has rows, or if an image lies outside
            `folder`.
    """
    check = _check_parquet if file.name.endswith(".parquet") else _check_tar
    try:
        check(file, folder)
    except DAMAGE as error:
        raise ValueError(
            f"{file} cannot be read as {kind_of_shard(file)}: {error}. Is it a partial download or a Git LFS pointer?"
        ) from error


def kind_of_shard(file: Path) -> str:
    """The name of the builder of `datasets` that reads the file."""
    return "parquet" if file.name.endswith(".parquet") else "webdataset"


def _check_parquet(file: Path, folder: Path):
    with pq.ParquetFile(file) as parquet:
        schema, metadata = parquet.schema_arrow, parquet.metadata
    _check_claimed_classes(file, schema, metadata.num_rows)
    for name in _image_columns(schema):
        if _has_paths_only(metadata, name):
            check_paths(pq.read_table(file, columns=[name])[name], [folder], str(file))


def _check_tar(file: Path, folder: Path):
    """Its images are all inside, so only its end matters: a complete tar file ends with empty blocks."""
    if file.suffix == ".tar":
        with file.open("rb") as opened:
            opened.seek(max(0, file.stat().st_size - tarfile.BLOCKSIZE))
            complete = opened.read() == bytes(tarfile.BLOCKSIZE)
        if not complete:
            _read_through(file)


def damaged_shard(files: Sequence[Path]) -> Path | None:
    """The first file that cannot be read to its end, for an error message."""
    for file in files:
        try:
            _read_through(file)
        except DAMAGE:
            return file
    return None


def _read_through(file: Path):
    """Read all rows of a Parquet file, or the heads of all members of a tar file; raises one of `DAMAGE`."""
    if file.name.endswith(".parquet"):
        with pq.ParquetFile(file) as parquet:
            for _ in parquet.iter_batches():
                pass
    else:
        with tarfile.open(file) as tar:
            tar.getmembers()


def check_paths(images: pa.ChunkedArray, folders: Sequence[str | Path], source: str):
    """Raise `ValueError` for an image without bytes whose path leads out of all of these folders, also by a link."""
    roots = [os.path.join(os.path.realpath(folder), "") for folder in folders]
    for row, path in _paths_of_files(images):
        if not os.path.realpath(path).startswith(tuple(roots)):
            raise ValueError(
                f"{source}: the image of row {row} is {path!r}, which lies outside {folders[0]}. Copy it there if you "
                "trust the data"
            )


def check_paths_of_hub_dataset(dataset: Dataset, source: str):
    """Raise `ValueError` for images that were not downloaded with the dataset."""
    caches = [config.HF_DATASETS_CACHE, constants.HF_HUB_CACHE]
    for name, column in zip(dataset.data.column_names, dataset.data.columns, strict=True):
        if name in _image_columns(dataset.data.schema):
            check_paths(column, caches, source)


def _paths_of_files(images: pa.ChunkedArray) -> Iterable[tuple[int, str]]:
    """Rows without bytes and their paths."""
    start = 0
    for chunk in images.chunks:
        if pc.struct_field(chunk, "bytes").null_count:
            for row in pc.indices_nonzero(pc.is_null(pc.struct_field(chunk, "bytes"))).to_pylist():
                if (path := chunk[row].as_py() and chunk[row].as_py()["path"]) is not None:
                    yield start + row, path
        start += len(chunk)


def _image_columns(schema: pa.Schema) -> list[str]:
    """Columns stored as `datasets.Image` stores images."""
    return [
        field.name
        for field in schema
        if pa.types.is_struct(field.type) and {"bytes", "path"} <= {inner.name for inner in field.type}
    ]


def _has_paths_only(metadata: pq.FileMetaData, column: str) -> bool:
    """Whether bytes are missing for some image, according to the statistics in the file's footer."""
    names = [metadata.schema.column(i).path for i in range(metadata.num_columns)]
    index = names.index(f"{column}.bytes")
    for group in range(metadata.num_row_groups):
        statistics = metadata.row_group(group).column(index).statistics
        if statistics is None or not statistics.has_null_count or statistics.null_count:
            return True
    return False


def _check_claimed_classes(file: Path, schema: pa.Schema, num_rows: int):
    """`datasets` makes a name for each class that a file claims to have, before it reads a row."""
    features = json.loads((schema.metadata or {}).get(b"huggingface", b"{}")).get("info", {}).get("features", {})
    for name, feature in features.items():
        claimed = feature.get("num_classes") if isinstance(feature, dict) else None
        if claimed is not None and int(claimed) > max(num_rows, 1_000_000):
            raise ValueError(f"{file}: the column {name!r} claims {claimed} classes, but there are {num_rows} rows")
