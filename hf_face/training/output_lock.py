"""One training at a time in an output folder."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from accelerate import PartialState
from accelerate.utils import broadcast_object_list
from filelock import FileLock, Timeout

LOCK_NAME = ".training.lock"


@contextmanager
def only_training_in(output_dir: str | Path) -> Iterator[None]:
    """
    Keep other trainings out of a folder, where they would overwrite each other's checkpoints. Must be called on every
    rank; may be nested. The operating system releases the lock of a process that ends, however it ends.

    Raises:
        ValueError: if another training runs in the folder.
    """
    lock = FileLock(Path(output_dir).resolve() / LOCK_NAME, is_singleton=True)
    held = PartialState().is_main_process and _acquired(lock)
    try:
        if not broadcast_object_list([held])[0]:
            raise ValueError(f"Another training is running in {output_dir}: wait for it, or set another output_dir.")
        yield
    finally:
        if held:
            lock.release()


def _acquired(lock: FileLock) -> bool:
    Path(lock.lock_file).parent.mkdir(parents=True, exist_ok=True)
    try:
        lock.acquire(blocking=False)
    except Timeout:
        return False
    return True
