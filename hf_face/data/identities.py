"""Identity data sets from wherever they lie: one `datasets.Dataset` with the columns `image` and `label`."""

import re
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from datasets import ClassLabel, Dataset, Image, IterableDataset, load_dataset

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
        source: One of: a folder of images with one folder a person; RecordIO (its folder or `.rec` file); Parquet or
            tar shards in the webdataset layout (a file, or a folder of them); a Hub data set of any of these;
            `"orl"`, the ORL faces.
        split: Which split of a Hub data set; of a folder of shards, those whose names begin with it, or all of them
            where no name tells a split.
        streaming: Give an `IterableDataset`, which reads as it goes instead of filling the cache first. For training,
            [`FaceStream`] splits it over ranks and workers and resumes it. What needs all the labels at once is not
            checked.
        image_column: The source's column of images, renamed to `image`. Its only one if not given.
        label_column: The source's column of identities, integers or names, renamed to `label`. If not given `label`, or
            else `cls` (webdataset).
        compact: Leave out identities that have no image, instead of raising.
        num_identities: How many there are, for a stream whose files do not say (tar shards).
        revision: Which version of a Hub data set.

    Returns:
        A data set with the columns `image` (encoded bytes until someone asks for a decoded image) and `label`
        (`ClassLabel`), and any others the source has.

    Raises:
        FileNotFoundError: a path that does not exist, or an image that is not where its row says.
        ValueError: a column is missing, a label is out of range, an identity has no image.
    """
    dataset = _open(source, split, streaming, revision)
    return as_identities(dataset, str(source), image_column, label_column, compact, num_identities)


def as_identities(
    dataset: Dataset | IterableDataset,
    source: str = "data set",
    image_column: str | None = None,
    label_column: str | None = None,
    compact: bool = False,
    num_identities: int | None = None,
) -> Dataset | IterableDataset:
    """Give any data set of images and identities our two columns, and check them; see [`load_identities`]."""
    if isinstance(dataset, IterableDataset):
        dataset = dataset._resolve_features()  # of a stream they may be known from its first rows only
    columns = list(dataset.features)
    if image_column is None:
        images = [name for name, feature in dataset.features.items() if isinstance(feature, Image)]
        image_column = images[0] if len(images) == 1 else "image"
    if label_column is None:
        label_column = "cls" if "cls" in columns and "label" not in columns else "label"
    for column in (image_column, label_column):
        if column not in columns:
            raise ValueError(
                f"{source} has no column {column!r}, only {columns}: name it as image_column, label_column"
            )
    # undecoded, since a stream decodes and encodes the images that it renames
    dataset = dataset.cast_column(image_column, Image(decode=False))
    renamed = {old: new for old, new in ((image_column, "image"), (label_column, "label")) if old != new}
    dataset = dataset.rename_columns(renamed) if renamed else dataset
    dataset = dataset.cast_column("image", Image())
    if isinstance(dataset, IterableDataset):
        if "int" not in str(getattr(dataset.features["label"], "dtype", None)):
            raise ValueError(f"{source}: a stream needs labels that are numbers, found {dataset.features['label']}")
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
        except ValueError as error:  # without a row, for instance; it does not name the file
            raise ValueError(f"{source} cannot be read as {kind}: {error}") from error
    builder = IdentityBuilder.from_path(path)
    if streaming:
        return builder.as_streaming_dataset("train")
    builder.download_and_prepare()
    return builder.as_dataset("train")


def find_source(source: str | Path, revision: str | None = None) -> Path | None:
    """A path on this machine: `source` itself, or of a Hub data set's RecordIO files; None for other Hub names."""
    path = Path(source)
    if path.exists():
        return path
    if path.is_absolute() or str(source).startswith(".") or path.name.endswith((*SHARD_SUFFIXES, ".rec")):
        raise FileNotFoundError(f"{source} does not exist")
    path = download_recordio(str(source), revision)
    return path if any(path.glob("*.rec")) else None


def find_shards(path: Path, split: str) -> list[Path]:
    """The Parquet or tar shards of a split, if that is what lies there.

    Those whose name, or whose folder's, begins with the split; all of them where no name begins with any split.
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
        raise ValueError(f"{path} has no shards of the split {split!r}, only of {found}")
    return chosen


def check_identities(dataset: Dataset, source: str = "data set", min_identities: int = 1):
    """Raise ValueError unless every label is in range, every identity has an image, and there are enough of both."""
    if not len(dataset):
        raise ValueError(f"{source} has no image")
    names = dataset.features["label"].names
    labels = identity_labels(dataset)
    check_label_range(labels, len(names), source)
    empty = np.flatnonzero(np.bincount(labels, minlength=len(names)) == 0)
    if len(empty):
        raise ValueError(
            f"{source}: identity {names[empty[0]]!r} (label {empty[0]}) has no image ({len(empty)} of {len(names)} "
            "have none); leave them out with load_identities(..., compact=True) or compact_labels(dataset)"
        )
    _check_images(dataset, source)
    if len(names) < min_identities:
        raise ValueError(f"{source}: {len(names)} identities, at least {min_identities} are needed")


def _check_images(dataset: Dataset, source: str):
    """Every row has the bytes of its image, or the path of a file that exists."""
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
    """Labels (N,) and the names of the classes, from a column of integers or of names."""
    if pa.types.is_integer(column.type):
        labels = column.to_numpy()
        num_identities = int(labels.max(initial=-1)) + 1
        check_label_range(labels, num_identities, source)
        return labels, [str(label) for label in range(num_identities)]
    if pa.types.is_string(column.type):
        names, labels = np.unique(column.to_numpy(), return_inverse=True)
        return labels, names.tolist()
    raise ValueError(f"{source}: identities must be integers or names, found {column.type}")
