"""A folder with one folder of images for each person."""

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
    """The images of a folder of people, sorted by person and file name, read in batches as [`RecordIO`] reads them.

    Args:
        path: The folder. What is in it but folders is left aside; an image may lie deeper inside a person's folder.

    Raises:
        ValueError: there are no folders in it, or there is no image in one of them.
    """

    def __init__(self, path: str | Path):
        self.path = Path(path)
        self.names = sorted(entry.name for entry in os.scandir(path) if entry.is_dir())
        if not self.names:
            raise ValueError(f"{path} holds no folders: expected one folder of images for each person")
        people = [list_images(self.path, name) for name in self.names]
        for name, files in zip(self.names, people, strict=True):
            if not files:
                raise ValueError(f"{self.path / name} holds no image ({', '.join(IMAGE_SUFFIXES)})")
        self.files = [file for files in people for file in files]
        self._labels = np.repeat(np.arange(len(people)), [len(files) for files in people])

    def __len__(self) -> int:
        return len(self.files)

    def labels(self) -> np.ndarray:
        """The identity of every image, (N,) int64."""
        return self._labels

    @cached_property
    def fingerprint(self) -> str:
        """Changes when a file is added, removed or replaced."""
        statuses = [os.stat(self.path / file) for file in self.files]
        return Hasher.hash([(file, s.st_size, s.st_mtime_ns) for file, s in zip(self.files, statuses, strict=True)])

    def batches(self, start: int = 0, stop: int | None = None, batch_size: int = 1000) -> Iterator[pa.Table]:
        """Rows `start` to `stop` as tables with the columns `image` (the files' bytes and their names) and `label`.

        A table has at most `batch_size` rows, and fewer where they hold more than 64 MB.
        """
        stop = len(self) if stop is None else stop
        while start < stop:
            files = self.files[start : min(start + batch_size, stop)]
            files = files[: rows_that_fit([os.path.getsize(self.path / file) for file in files])]
            end = start + len(files)
            yield pa.table({"image": read_images(self.path, files), "label": self._labels[start:end]})
            start = end


def list_images(folder: Path, subfolder: str = "") -> list[str]:
    """The images anywhere inside a folder's subfolder, as paths relative to the folder, sorted."""
    found = folder.joinpath(subfolder).rglob("*")
    return sorted(str(file.relative_to(folder)) for file in found if file.suffix.lower() in IMAGE_SUFFIXES)


def read_images(folder: Path, files: list[str]) -> pa.Array:
    """The bytes of image files and their relative paths, as `datasets.Image` stores them."""
    return pa.array([{"bytes": (folder / file).read_bytes(), "path": file} for file in files], IMAGE_TYPE)
