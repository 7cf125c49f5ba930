"""A folder with one folder of images per person."""

import os
from collections.abc import Iterator
from functools import cached_property
from pathlib import Path

import numpy as np
import pyarrow as pa
from datasets.fingerprint import Hasher

from .columns import rows_that_fit
from .recordio import IMAGE_TYPE

IMAGE_SUFFIXES = (".bmp", ".jpeg", ".jpg", ".pgm", ".png", ".webp")


class ImageFolder:
    """The images of a folder of people, sorted by person and file name, and read in batches like [`RecordIO`].

    Args:
        path: The folder. Files directly inside it are ignored; a person's folder is searched recursively.

    Raises:
        ValueError: if it contains no folders, or one of them contains no images.
    """

    def __init__(self, path: str | Path):
        self.path = Path(path)
        self.names = sorted(entry.name for entry in os.scandir(path) if entry.is_dir())
        if not self.names:
            raise ValueError(f"{path} contains no folders, expected one folder of images per person")
        people = [list_images(self.path, name) for name in self.names]
        for name, files in zip(self.names, people, strict=True):
            if not files:
                raise ValueError(f"{self.path / name} contains no images ({', '.join(IMAGE_SUFFIXES)})")
        self.files = [file for files in people for file in files]
        self._labels = np.repeat(np.arange(len(people)), [len(files) for files in people])

    def __len__(self) -> int:
        return len(self.files)

    def labels(self) -> np.ndarray:
        """The identity of every image, (N,) int64."""
        return self._labels

    @cached_property
    def fingerprint(self) -> str:
        """A fingerprint that changes when a file is added, removed or replaced."""
        statuses = [os.stat(self.path / file) for file in self.files]
        return Hasher.hash([(file, s.st_size, s.st_mtime_ns) for file, s in zip(self.files, statuses, strict=True)])

    def batches(self, start: int = 0, stop: int | None = None, batch_size: int = 1000) -> Iterator[pa.Table]:
        """Rows `start` to `stop` as tables with the columns `image` (the files' bytes and their names) and `label`.

        A table has at most `batch_size` rows and 64 MB.
        """
        stop = len(self) if stop is None else stop
        while start < stop:
            files = self.files[start : min(start + batch_size, stop)]
            files = files[: rows_that_fit([os.path.getsize(self.path / file) for file in files])]
            end = start + len(files)
            yield pa.table({"image": read_images(self.path, files), "label": self._labels[start:end]})
            start = end


def list_images(folder: Path, subfolder: str = "") -> list[str]:
    """The images anywhere in a folder's subfolder, as sorted paths relative to the folder."""
    found = folder.joinpath(subfolder).rglob("*")
    return sorted(str(file.relative_to(folder)) for file in found if file.suffix.lower() in IMAGE_SUFFIXES)


def read_images(folder: Path, files: list[str]) -> pa.Array:
    """The bytes of image files and their relative paths, as `datasets.Image` stores them."""
    return pa.array([{"bytes": (folder / file).read_bytes(), "path": file} for file in files], IMAGE_TYPE)
