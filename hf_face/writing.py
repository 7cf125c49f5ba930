"""Writing files and folders that are either whole or not there, and cleaning up after processes that were killed."""

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from tempfile import gettempdir, mkstemp

from filelock import FileLock, Timeout
from transformers.utils import CONFIG_NAME

UNFINISHED = ".unfinished"
SCRATCH_PREFIX = "hf_face-"
LOCK = ".lock"


@contextmanager
def whole_file(path: str | Path) -> Iterator[Path]:
    """A file to write, which takes its place as `path` when all of it is written."""
    path = Path(path)
    unfinished = path.with_name(path.name + UNFINISHED)
    try:
        yield unfinished
        unfinished.replace(path)
    finally:
        unfinished.unlink(missing_ok=True)


@contextmanager
def whole_model(folder: str | Path) -> Iterator[Path]:
    """
    A folder to save a model to, whose files move to `folder` when all of them are written. The configuration, without
    which nothing is loaded, goes first and comes last: a model is never loaded with the weights of another.
    """
    folder = Path(folder)
    unfinished = folder / UNFINISHED
    if unfinished.exists():  # of a process that was killed
        shutil.rmtree(unfinished)
    unfinished.mkdir(parents=True)
    try:
        yield unfinished
        _move_model(unfinished, folder)
    finally:
        shutil.rmtree(unfinished)


def _move_model(source: Path, folder: Path) -> None:
    files = sorted(path.relative_to(source) for path in source.rglob("*") if path.is_file())
    files.sort(key=lambda file: file.name == CONFIG_NAME)
    (folder / CONFIG_NAME).unlink(missing_ok=True)
    for stale in (*folder.glob("model*.safetensors"), *folder.glob("model*.safetensors.index.json")):
        stale.unlink()  # or the model would be loaded from files of another size
    for file in files:
        (folder / file).parent.mkdir(parents=True, exist_ok=True)
        (source / file).replace(folder / file)


@contextmanager
def scratch_folder() -> Iterator[Path]:
    """A temporary folder, whose name is locked while it is used: those that killed processes have left are removed."""
    for lock_file in Path(gettempdir()).glob(f"{SCRATCH_PREFIX}*{LOCK}"):
        with suppress(Timeout, PermissionError), FileLock(lock_file, timeout=0):  # in use, or another user's
            _remove_scratch(lock_file)
    handle, name = mkstemp(LOCK, SCRATCH_PREFIX)
    os.close(handle)
    with FileLock(name):
        folder = Path(name.removesuffix(LOCK))
        folder.mkdir(mode=0o700)
        try:
            yield folder
        finally:
            _remove_scratch(Path(name))


def _remove_scratch(lock_file: Path) -> None:
    """Remove a folder and then its lock, by which it would be found if this were interrupted."""
    folder = Path(str(lock_file).removesuffix(LOCK))
    if folder.exists():
        shutil.rmtree(folder)
    lock_file.unlink(missing_ok=True)
