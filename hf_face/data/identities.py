"""Loads identity data from any source as a `datasets.Dataset` with the columns `image` and `label`."""

import re
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from datasets import ClassLabel, Dataset, Image, IterableDataset, load_dataset

from ..user_input import check_exists
from .builder import IdentityBuilder
from .columns import check_label_range, has_paths_only, identity_labels
from .orl import load_orl
from .recordio import download_recordio
from .subsets import compact_labels, replace_labels

SHARD_SUFFIXES = (".parquet", ".tar", ".tar.gz", ".tgz")
SPLITS = {"train", "training", "validation", "valid", "val", "dev", "test", "testing", "eval"}


def load_identities(
    source: str | Path,
    split: str = "train",
    streaming: bool = False,
    image_column: str | None = None,
    label_column: str | None = None,
    compact: bool = False,
    num_identities: int | None = None,
    revision: str | None = None,
) -> Dataset | IterableDataset:
    """Load identity data.

    Args:
        source: One of: a folder with one folder of images per person; RecordIO (its folder or `.rec` file); Parquet or
            tar shards in the webdataset layout (a file, or a folder of them); a Hub dataset of any of these; `"orl"`,
            the ORL faces.
        split: Split of a Hub dataset. In a folder of shards, those with names that start with the split, or all of them
            if no name starts with a split.
        streaming: Return an `IterableDataset`, which reads on the fly instead of filling the cache first. For training,
            [`FaceStream`] splits it over ranks and workers and resumes it. Checks that require all labels are skipped.
        image_column: The source's image column, renamed to `image`. Defaults to its only image column.
        label_column: The source's column of identities, integers or names, renamed to `label`. Defaults to `label`, or
            else to `cls` (webdataset).
        compact: Leave out identities without images instead of raising an error.
        num_identities: Number of identities, for a stream with files that do not state it (tar shards).
        revision: Revision of a Hub dataset.

    Returns:
        A dataset with the columns `image` (decoded only on access) and `label` (`ClassLabel`), and any others the
        source has.

    Raises:
        FileNotFoundError: if the source, or an image file that a row refers to, does not exist.
        ValueError: if a column is missing, a label is out of range, or an identity has no images.
    """
    dataset = _open(source, split, streaming, revision)
    return as_identities(dataset, str(source), image_column, label_column, compact, num_identities)


def as_identities(
    dataset: Dataset | IterableDataset,
    source: str = "dataset",
    image_column: str | None = None,
    label_column: str | None = None,
    compact: bool = False,
    num_identities: int | None = None,
) -> Dataset | IterableDataset:
    """Convert any dataset of images and identities to our two columns, and check them; see [`load_identities`]."""
    if isinstance(dataset, IterableDataset):
        dataset = dataset._resolve_features()  # a stream may reveal them only in its first rows
    columns = list(dataset.features)
    if image_column is None:
        images = [name for name, feature in dataset.features.items() if isinstance(feature, Image)]
        image_column = images[0] if len(images) == 1 else "image"
    if label_column is None:
        label_column = "cls" if "cls" in columns and "label" not in columns else "label"
    for column in (image_column, label_column):
        if column not in columns:
            raise ValueError(f"{source} has no column {column!r}, only {columns}. Set image_column and label_column")
    # undecoded, since a stream decodes and re-encodes the images in a column that it renames
    dataset = dataset.cast_column(image_column, Image(decode=False))
    renamed = {old: new for old, new in ((image_column, "image"), (label_column, "label")) if old != new}
    dataset = dataset.rename_columns(renamed) if renamed else dataset
    dataset = dataset.cast_column("image", Image())
    if isinstance(dataset, IterableDataset):
        if "int" not in str(getattr(dataset.features["label"], "dtype", None)):
            raise ValueError(f"{source}: a stream requires integer labels, found {dataset.features['label']}")
        if num_identities is not None:
            dataset = dataset.cast_column("label", ClassLabel(num_classes=num_identities))
        return dataset
    labels = dataset.select_columns("label").with_format("arrow")[:]["label"]
    if labels.null_count:
        raise ValueError(f"{source}: row {pc.index(pc.is_null(labels), True)} has no label")
    if not isinstance(dataset.features["label"], ClassLabel):
        dataset = replace_labels(dataset, *_name_labels(labels, source))
    if compact:
        dataset = compact_labels(dataset)
    check_identities(dataset, source)
    return dataset


def _open(source: str | Path, split: str, streaming: bool, revision: str | None) -> Dataset | IterableDataset:
    if str(source) == "orl":
        dataset = load_orl()
        return dataset.to_iterable_dataset() if streaming else dataset
    path = find_source(source, revision)
    if path is None:
        return load_dataset(str(source), split=split, revision=revision, streaming=streaming)
    if shards := find_shards(path, split):
        kind = "parquet" if shards[0].name.endswith(".parquet") else "webdataset"
        files = [str(shard) for shard in shards]
        try:
            return load_dataset(kind, data_files=files, split="train", streaming=streaming)
        except ValueError as error:  # if there are no rows, for example; it does not name the file
            raise ValueError(f"{source} cannot be read as {kind}: {error}") from error
    builder = IdentityBuilder.from_path(path)
    if streaming:
        return builder.as_streaming_dataset("train")
    builder.download_and_prepare()
    return builder.as_dataset("train")


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
    are returned.
    """
    if path.is_file():
        return [path] if path.name.endswith(SHARD_SUFFIXES) else []
    folders = [path, path / "data", path / split]
    files = sorted(file for folder in folders for file in folder.glob("*") if file.name.endswith(SHARD_SUFFIXES))
    names = {file: [re.split(r"[-_.]", name)[0] for name in file.relative_to(path).parts] for file in files}
    splits = {file: SPLITS.intersection(parts) for file, parts in names.items()}
    if not any(splits.values()):
        return files
    chosen = [file for file in files if split in splits[file]]
    if not chosen:
        found = ", ".join(sorted(set.union(*splits.values())))
        raise ValueError(f"{path} has no shards for the split {split!r}, only for {found}")
    return chosen


def check_identities(dataset: Dataset, source: str = "dataset", min_identities: int = 1):
    """Raise `ValueError` unless labels are in range, every identity has images, and there are enough of both."""
    if not len(dataset):
        raise ValueError(f"{source} has no images")
    names = dataset.features["label"].names
    labels = identity_labels(dataset)
    check_label_range(labels, len(names), source)
    empty = np.flatnonzero(np.bincount(labels, minlength=len(names)) == 0)
    if len(empty):
        raise ValueError(
            f"{source}: identity {names[empty[0]]!r} (label {empty[0]}) has no images ({len(empty)} of {len(names)} "
            "have none). Leave them out with load_identities(..., compact=True) or compact_labels(dataset)"
        )
    _check_images(dataset, source)
    if len(names) < min_identities:
        raise ValueError(f"{source}: at least {min_identities} identities are required, found {len(names)}")


def _check_images(dataset: Dataset, source: str):
    """Raise an error unless every row has the bytes of its image, or the path of an existing file."""
    if not has_paths_only(dataset):
        return
    images = dataset.select_columns("image").with_format("arrow")
    for start in range(0, len(dataset), 10_000):
        batch = images[start : start + 10_000]["image"]
        missing = np.flatnonzero(pc.is_null(pc.struct_field(batch, "bytes")).to_numpy())
        for row, path in zip(missing, pc.struct_field(batch, "path").take(missing).to_pylist(), strict=True):
            if path is None:
                raise ValueError(f"{source}: row {start + row} has no image")
            if not Path(path).is_file():
                raise FileNotFoundError(f"{source}: the image of row {start + row}, {path}, does not exist")


def _name_labels(column: pa.ChunkedArray, source: str) -> tuple[np.ndarray, list[str]]:
    """Labels (N,) and class names from a column of integers or names."""
    if pa.types.is_integer(column.type):
        labels = column.to_numpy()
        num_identities = int(labels.max(initial=-1)) + 1
        check_label_range(labels, num_identities, source)
        return labels, [str(label) for label in range(num_identities)]
    if pa.types.is_string(column.type):
        names, labels = np.unique(column.to_numpy(), return_inverse=True)
        return labels, names.tolist()
    raise ValueError(f"{source}: identities must be integers or names, found {column.type}")
