"""Writing files and folders that are either whole or not there, and cleaning up after processes that were killed."""

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory, gettempdir

from filelock import FileLock, Timeout
from transformers.utils import CONFIG_NAME

UNFINISHED = ".unfinished"
SCRATCH_PREFIX = "hf_face-"
IN_USE = "in_use.lock"


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
    """A `TemporaryDirectory`, which also removes those that killed processes have left."""
    for lock_file in Path(gettempdir()).glob(f"{SCRATCH_PREFIX}*/{IN_USE}"):
        _remove_abandoned(lock_file)
    with TemporaryDirectory(prefix=SCRATCH_PREFIX) as parent:
        lock = FileLock(Path(parent, "new.lock"))
        with lock:
            Path(lock.lock_file).rename(Path(parent, IN_USE))  # seen by others only once it is locked
            folder = Path(parent, "files")
            folder.mkdir()
            yield folder


def _remove_abandoned(lock_file: Path) -> None:
    try:
        with FileLock(lock_file).acquire(timeout=0):
            shutil.rmtree(lock_file.parent)
    except (Timeout, PermissionError):  # in use, or another user's
        return
