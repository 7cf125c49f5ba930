"""Identity data sets from wherever they lie: one `datasets.Dataset` with the columns `image` and `label`."""

from pathlib import Path

import numpy as np
import pyarrow as pa
from datasets import ClassLabel, Dataset, Features, Image, load_dataset
from datasets.features import Value

from .subsets import identity_labels, replace_labels

IMAGE_SUFFIXES = {".bmp", ".jpeg", ".jpg", ".pgm", ".png", ".webp"}


def load_identities(
    source: str | Path, split: str = "train", image_column: str = "image", label_column: str = "label"
) -> Dataset:
    """Load identity data.

    Args:
        source: A folder of images, one folder a person; a Parquet file or a folder of them; a Hub data set.
        split: Which split, for sources that have several.
        image_column: The source's column of images; renamed to `image`.
        label_column: The source's column of identities, integers or names; renamed to `label`.

    Returns:
        A `Dataset` with the columns `image` (encoded bytes until someone asks for a decoded image) and `label`
        (`ClassLabel`), and any others the source has.

    Raises:
        FileNotFoundError: a path that does not exist, or an image that is not where its row says.
        ValueError: a column is missing, a label is out of range, an identity has no image.
    """
    path = Path(source)
    if path.is_dir() and (files := sorted(path.rglob("*.parquet"))):
        dataset = load_dataset("parquet", data_files=[str(file) for file in files], split="train")
    elif path.suffix == ".parquet":
        if not path.is_file():
            raise FileNotFoundError(f"there is no Parquet file {path}")
        dataset = load_dataset("parquet", data_files=str(path), split="train")
    elif path.is_dir():
        dataset = _load_image_folder(path)
    else:
        dataset = load_dataset(str(source), split=split)
    return as_identities(dataset, str(source), image_column, label_column)


def as_identities(
    dataset: Dataset, source: str = "data set", image_column: str = "image", label_column: str = "label"
) -> Dataset:
    """Give any data set of images and identities our two columns, and check them; see [`load_identities`]."""
    for column in (image_column, label_column):
        if column not in dataset.column_names:
            raise ValueError(f"{source} has no column {column!r}, only {dataset.column_names}")
    dataset = dataset.rename_columns(
        {old: new for old, new in ((image_column, "image"), (label_column, "label")) if old != new}
    )
    if not isinstance(dataset.features["image"], Image):
        dataset = dataset.cast_column("image", Image())
    if not isinstance(dataset.features["label"], ClassLabel):
        dataset = _name_labels(dataset)
    check_identities(dataset, source)
    return dataset


def check_identities(dataset: Dataset, source: str = "data set", min_identities: int = 1):
    """Raise ValueError unless every label is in range, every identity has an image, and there are enough of both."""
    names = dataset.features["label"].names
    labels = identity_labels(dataset)
    bad = np.flatnonzero((labels < 0) | (labels >= len(names)))
    if len(bad):
        raise ValueError(f"{source}: label {labels[bad[0]]} in row {bad[0]} is out of range: 0 to {len(names) - 1}")
    empty = np.flatnonzero(np.bincount(labels, minlength=len(names)) == 0)
    if len(empty):
        raise ValueError(
            f"{source}: identity {names[empty[0]]!r} (label {empty[0]}) has no image, and so have {len(empty) - 1} "
            "more; leave them out with compact_labels(dataset)"
        )
    if len(names) < min_identities:
        raise ValueError(f"{source}: only {len(names)} identity, at least {min_identities} are needed")


def _load_image_folder(folder: Path) -> Dataset:
    """One folder a person. The bytes are read once, into Arrow, which training then reads in sequence."""
    people = sorted(entry.name for entry in folder.iterdir() if entry.is_dir())
    if not people:
        raise ValueError(f"{folder} holds no folders: expected one folder of images for each person")
    files, labels = [], []
    for label, person in enumerate(people):
        images = sorted(file for file in folder.joinpath(person).rglob("*") if file.suffix.lower() in IMAGE_SUFFIXES)
        if not images:
            raise ValueError(f"{folder / person} holds no image ({', '.join(sorted(IMAGE_SUFFIXES))})")
        files += [str(file.relative_to(folder)) for file in images]
        labels += [label] * len(images)
    features = Features({"image": Image(), "label": ClassLabel(names=people)})
    paths = Dataset.from_dict({"file": files, "label": labels})
    return paths.map(
        _read_files,
        batched=True,
        batch_size=1000,
        input_columns=["file", "label"],
        remove_columns=["file"],
        features=features,
        fn_kwargs={"folder": folder},
        desc=f"reading {folder.name}",
    )


def _read_files(files: list[str], labels: list[int], folder: Path) -> dict:
    return {"image": [{"bytes": (folder / file).read_bytes(), "path": file} for file in files], "label": labels}


def _name_labels(dataset: Dataset) -> Dataset:
    """Turn a column of integers or names into `ClassLabel`."""
    column = dataset.select_columns("label").with_format("arrow")[:]["label"]
    if pa.types.is_integer(column.type):
        labels = column.to_numpy()
        names = [str(label) for label in range(labels.max() + 1)]
    elif pa.types.is_string(column.type):
        found, labels = np.unique(column.to_numpy(), return_inverse=True)
        names = found.tolist()
    else:
        raise ValueError(f"column 'label' must hold integers or names, found {Value(str(column.type))}")
    return replace_labels(dataset, labels, names)
