"""Loads identity data from any source as a `datasets.Dataset` with the columns `image` and `label`."""

from pathlib import Path

import numpy as np
import pyarrow.compute as pc
from datasets import ClassLabel, Dataset, Features, Image, IterableDataset, load_dataset

from .builder import IdentityBuilder
from .columns import check_label_range, has_paths_only, identity_labels
from .labels import class_label, name_labels, raise_empty_identity, replace_labels
from .orl import load_orl
from .sources import check_no_split, check_paths_of_hub_dataset, find_folder, find_shards, find_source, load_shards
from .subsets import compact_labels

CHECKED_AT_ONCE = 10_000  # rows


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
        split: Split of a Hub dataset; of a folder of shards, those with names that start with the split; of a folder of
            images, its subfolder `split` if all its subfolders are named like splits. Data without splits are `train`.
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
        ValueError: if a file is damaged, a column or the split is missing, a label is out of range, an identity has no
            images, or an image file lies outside the source's folder.
    """
    dataset = open_dataset(source, split, streaming, compact, revision)
    return as_identities(dataset, str(source), image_column, label_column, compact, num_identities)


def as_identities(
    dataset: Dataset | IterableDataset,
    source: str = "dataset",
    image_column: str | None = None,
    label_column: str | None = None,
    compact: bool = False,
    num_identities: int | None = None,
) -> Dataset | IterableDataset:
    """Convert any dataset of images and identities to our two columns, and check them.

    Args:
        dataset: Images and identities, on disk or streamed.
        source: The name of the data in error messages.
        image_column, label_column, compact, num_identities: As for [`load_identities`], as are the errors.

    Returns:
        The dataset with the columns `image` and `label`, and its others.
    """
    if isinstance(dataset, IterableDataset):
        dataset = dataset._resolve_features()  # a stream may reveal them only in its first rows
    columns = list(dataset.features)
    if image_column is None:
        image_column = only_image_column(dataset.features)
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
    dataset = _with_classes(dataset, source, compact)
    check_identities(dataset, source)
    return dataset


def only_image_column(features: Features) -> str:
    """The column of images, `image` if there are several."""
    images = [name for name, feature in features.items() if isinstance(feature, Image)]
    return images[0] if len(images) == 1 else "image"


def _with_classes(dataset: Dataset, source: str, compact: bool) -> Dataset:
    """The dataset with classes as labels, without gaps if `compact`."""
    labels = dataset.with_format("arrow")[:]["label"] if dataset._indices else dataset.data.column("label")
    if labels.null_count:
        raise ValueError(f"{source}: row {pc.index(pc.is_null(labels), True)} has no label")
    label = dataset.info.features["label"]
    if not isinstance(label, ClassLabel):
        return replace_labels(dataset, *name_labels(labels, source, compact))
    dataset.info.features["label"] = class_label(label.names)
    return compact_labels(dataset) if compact else dataset


def open_dataset(
    source: str | Path, split: str, streaming: bool, compact: bool, revision: str | None
) -> Dataset | IterableDataset:
    """The dataset as it is, with the source's own columns."""
    if str(source) == "orl":
        check_no_split("orl", split)
        dataset = load_orl()
        return dataset.to_iterable_dataset() if streaming else dataset
    path = find_source(source, revision)
    if path is None:
        dataset = load_dataset(str(source), split=split, revision=revision, streaming=streaming)
        if not streaming:
            check_paths_of_hub_dataset(dataset, str(source))
        return dataset
    if shards := find_shards(path, split):
        return load_shards(shards, path if path.is_dir() else path.parent, streaming)
    builder = IdentityBuilder.from_path(find_folder(path, split), compact)
    if streaming:
        return builder.as_streaming_dataset("train")
    builder.download_and_prepare()
    return builder.as_dataset("train")


def check_identities(dataset: Dataset, source: str = "dataset", min_identities: int = 1):
    """Raise `ValueError` unless labels are in range, every identity has images, and there are enough of both."""
    if not len(dataset):
        raise ValueError(f"{source} has no images")
    names = dataset.info.features["label"].names  # not a copy, as in dataset.features
    labels = identity_labels(dataset)
    check_label_range(labels, len(names), source)
    empty = np.flatnonzero(np.bincount(labels, minlength=len(names)) == 0)
    if len(empty):
        raise_empty_identity(source, names[empty[0]], int(empty[0]), len(empty), len(names))
    _check_images(dataset, source)
    if len(names) < min_identities:
        raise ValueError(f"{source}: at least {min_identities} identities are required, found {len(names)}")


def _check_images(dataset: Dataset, source: str):
    """Raise an error unless every row has the bytes of its image, or the path of an existing file."""
    if not has_paths_only(dataset):
        return
    images = dataset.select_columns("image").with_format("arrow")
    for start in range(0, len(dataset), CHECKED_AT_ONCE):
        batch = images[start : start + CHECKED_AT_ONCE]["image"]
        missing = np.flatnonzero(pc.is_null(pc.struct_field(batch, "bytes")).to_numpy())
        for row, path in zip(missing, pc.struct_field(batch, "path").take(missing).to_pylist(), strict=True):
            if path is None:
                raise ValueError(f"{source}: row {start + row} has no image")
            if not Path(path).is_file():
                raise FileNotFoundError(f"{source}: the image of row {start + row}, {path}, does not exist")
