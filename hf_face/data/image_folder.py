"""A folder with one folder of images per person."""

import os
from collections import Counter
from collections.abc import Iterator
from functools import cached_property
from pathlib import Path

import numpy as np
import pyarrow as pa
from datasets.fingerprint import Hasher
from transformers.utils import logging

from ..models.pixels import image_suffixes
from .columns import BATCH_ROWS, rows_that_fit
from .recordio import IMAGE_TYPE

logger = logging.get_logger(__name__)


class ImageFolder:
    """The images of a folder of people, sorted by person and file name, and read in batches like [`RecordIO`].

    Args:
        path: The folder. A person's folder is searched recursively, and links are followed. Hidden files and folders
            are ignored; what else is left out (files directly inside the folder, files that Pillow does not read) is
            counted in a warning.

    Raises:
        ValueError: if it contains no folders with images.
    """

    def __init__(self, path: str | Path):
        self.path = Path(path)
        left_out = Counter(_suffix(entry.name) for entry in _visible(path) if not entry.is_dir())
        self._empty: dict[str, Counter[str]] = {}  # people without images, and what files they have instead
        self.names, people = [], []
        for name in people_folders(self.path):
            files, others = find_images(self.path, name)
            if files:
                self.names.append(name)
                people.append(files)
            else:
                self._empty[name] = others
            left_out += others
        if not people:
            self.check_people()
            raise ValueError(f"{path} contains no folders, expected one folder of images per person")
        _warn_of(left_out, self.path, "are not inside a person's folder, or not in a format that Pillow reads")
        self.files = [file for files in people for file in files]
        self._labels = np.repeat(np.arange(len(people)), [len(files) for files in people])

    @property
    def num_identities(self) -> int:
        """Number of people with images."""
        return len(self.names)

    def check_people(self):
        """Raise `ValueError` if someone has no images."""
        for name, others in self._empty.items():
            found = f", only {_counted(others)}" if others else ""
            raise ValueError(
                f"{self.path / name} contains no images (.jpg, .png or another format that Pillow reads){found}. "
                "Remove the folder, or leave such people out with compact=True"
            )

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

    def batches(self, start: int = 0, stop: int | None = None, batch_size: int = BATCH_ROWS) -> Iterator[pa.Table]:
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


def people_folders(path: Path) -> list[str]:
    """The sorted names of the folders directly inside a folder, without hidden ones."""
    return sorted(entry.name for entry in _visible(path) if entry.is_dir())


def list_images(folder: Path) -> list[str]:
    """The images anywhere in a folder, as sorted paths relative to it; a warning counts its other files."""
    files, others = find_images(folder)
    _warn_of(others, folder, "are not in a format that Pillow reads")
    return files


def find_images(folder: Path, subfolder: str = "") -> tuple[list[str], Counter[str]]:
    """The images anywhere in a folder's subfolder, as sorted paths relative to the folder, and other files' suffixes.

    Links are followed, except for those to a folder that contains them, which would go round in circles.
    """
    known = image_suffixes()
    files, others = [], Counter[str]()
    waiting = [(subfolder, frozenset[str]())]  # folders, and the real paths of those around them
    while waiting:
        inside, around = waiting.pop()
        real = os.path.realpath(folder / inside)
        if real in around:
            continue
        for entry in _visible(folder / inside):
            name = os.path.join(inside, entry.name)
            if _is_folder(entry):
                waiting.append((name, around | {real}))
            elif _suffix(entry.name) in known and not _is_pipe(entry):
                files.append(name)
            else:
                others[_suffix(entry.name)] += 1
    return sorted(files), others


def _is_folder(entry: os.DirEntry) -> bool:
    """`entry.is_dir()`, false for a link that leads to itself, for which that raises."""
    return entry.is_dir(follow_symlinks=False) or (entry.is_symlink() and os.path.isdir(entry))


def _is_pipe(entry: os.DirEntry) -> bool:
    """Whether reading it could wait forever. Plain files are not looked up on disk: there may be millions."""
    return not entry.is_file(follow_symlinks=False) and Path(entry).is_fifo()


def _visible(folder: str | Path) -> Iterator[os.DirEntry]:
    """What is in a folder, without hidden entries and those that `datasets` ignores too (`__MACOSX`, `__pycache__`)."""
    with os.scandir(folder) as entries:
        yield from (entry for entry in entries if not entry.name.startswith((".", "__")))


def _suffix(name: str) -> str:
    return os.path.splitext(name)[1].lower()


def _warn_of(left_out: Counter[str], folder: Path, reason: str):
    if left_out:
        logger.warning_once(f"{folder}: left out {_counted(left_out)}, which {reason}.")


def _counted(suffixes: Counter[str]) -> str:
    counts = ", ".join(f"{count} {suffix or 'without suffix'}" for suffix, count in sorted(suffixes.items()))
    return f"files ({counts})"


def read_images(folder: Path, files: list[str]) -> pa.Array:
    """The bytes of image files and their relative paths, as `datasets.Image` stores them."""
    return pa.array([{"bytes": (folder / file).read_bytes(), "path": file} for file in files], IMAGE_TYPE)
