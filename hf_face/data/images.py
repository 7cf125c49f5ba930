"""Loads images, with or without identities, as a `datasets.Dataset` with the column `image`."""

from pathlib import Path

from datasets import Dataset, Image

from .identities import only_image_column, open_dataset
from .image_folder import list_images
from .sources import check_no_split, find_shards, find_source


def load_images(
    source: str | Path, split: str = "train", image_column: str | None = None, revision: str | None = None
) -> Dataset:
    """Load images.

    Args:
        source: A folder of image files, searched recursively, or any other source of [`load_identities`]: RecordIO;
            Parquet or tar shards in the webdataset layout; a Hub dataset; `"orl"`.
        split: Split of a Hub dataset or of a folder of shards.
        image_column: The source's image column, renamed to `image`. Defaults to its only image column.
        revision: Revision of a Hub dataset.

    Returns:
        A dataset with the column `image` (decoded only on access) and the others of the source; for a folder of image
        files, `file_name`, relative to the folder.

    Raises:
        FileNotFoundError: if the source does not exist.
        ValueError: if a file is damaged, the image column or the split is missing, a folder contains no images, or an
            image file lies outside the source's folder.
    """
    path = None if str(source) == "orl" else find_source(source, revision)
    if path is not None and path.is_dir() and not any(path.glob("*.rec")) and not find_shards(path, split):
        check_no_split(source, split)
        return _images_of_folder(path)
    dataset = open_dataset(source, split, streaming=False, compact=True, revision=revision)
    column = image_column or only_image_column(dataset.features)
    if column not in dataset.column_names:
        raise ValueError(f"{source} has no column {column!r}, only {dataset.column_names}. Set image_column")
    dataset = dataset.cast_column(column, Image())
    return dataset if column == "image" else dataset.rename_column(column, "image")


def _images_of_folder(folder: Path) -> Dataset:
    names = list_images(folder)
    if not names:
        raise ValueError(f"{folder} contains no images.")
    paths = [str(folder / name) for name in names]
    return Dataset.from_dict({"file_name": names, "image": paths}).cast_column("image", Image())
