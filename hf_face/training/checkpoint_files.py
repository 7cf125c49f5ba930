"""
The files of a checkpoint: a list of them, written last, and what is wrong with a checkpoint that is not complete.

A run that is killed while it saves, a full disk or an interrupted copy leave checkpoints that lack files or parts of
them. Training on from these would fail, or silently give other results.
"""

import fnmatch
import json
import re
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from itertools import chain
from pathlib import Path
from traceback import walk_tb

import torch
from safetensors import SafetensorError, safe_open
from transformers import TrainerState
from transformers.trainer import TRAINER_STATE_NAME
from transformers.trainer_utils import PREFIX_CHECKPOINT_DIR

from ..files import check_weights, file_inside, read_json
from .card import Run

LIST_NAME = "checkpoint_files.json"
SENTINEL = "checkpoint-is-incomplete.txt"  # transformers' name, while a checkpoint is being saved
REMOVING = "_removing-"

# What training goes on from: files of which there must be one, by the name that Trainer gives them on a single device.
# `latest` is DeepSpeed's, which keeps the states of optimizer and scheduler with the weights.
WEIGHTS = {"model.safetensors": ("model*.safetensors", "pytorch_model*", "adapter_model.*", "*/adapter_model.*")}
TRAINING_STATE = {
    "optimizer.pt": ("optimizer*", "latest"),
    "scheduler.pt": ("scheduler.pt*", "latest"),
    "rng_state.pth": ("rng_state*",),
}


@contextmanager
def saved_whole(trainer: Run, run: Path) -> Iterator[None]:
    """
    Save a checkpoint of a [`FaceTrainer`] to its folder of `run`: marked as incomplete before its first file and as
    complete after its last one, and only then, older ones are removed. Must be called on every rank.
    """
    args = trainer.args
    checkpoint = run / f"{PREFIX_CHECKPOINT_DIR}-{trainer.state.global_step}"
    limit, args.save_total_limit = args.save_total_limit, None  # Trainer would go by the files' times
    try:
        with naming_full_disks(checkpoint):
            if args.should_save:
                start_checkpoint(checkpoint)
            trainer.accelerator.wait_for_everyone()
            yield
            if args.should_save:
                finish_checkpoint(checkpoint)
    finally:
        args.save_total_limit = limit
    if args.should_save:
        remove_old_checkpoints(checkpoint, trainer.state.best_model_checkpoint, limit)


def start_checkpoint(checkpoint: Path) -> None:
    """Mark a checkpoint as incomplete. An earlier run's of this name goes: files that only it has would be read too."""
    if checkpoint.is_dir():
        _remove(checkpoint)
    checkpoint.mkdir(parents=True)
    (checkpoint / SENTINEL).touch()


def _raised_in(error: Exception, module: str) -> bool:
    *_, (frame, _) = walk_tb(error.__traceback__)
    return frame.f_globals["__name__"] == module


def finish_checkpoint(checkpoint: Path) -> None:
    """List the files of a checkpoint with their sizes, which makes it complete."""
    files = sorted(path for path in checkpoint.rglob("*") if path.is_file() and path.name not in (LIST_NAME, SENTINEL))
    sizes = {path.relative_to(checkpoint).as_posix(): path.stat().st_size for path in files}
    (checkpoint / LIST_NAME).write_text(json.dumps({"sizes": sizes}, indent=2) + "\n", encoding="utf-8")
    (checkpoint / SENTINEL).unlink(missing_ok=True)


@contextmanager
def naming_full_disks(checkpoint: Path) -> Iterator[None]:
    """
    Raises:
        OSError: in place of the writers' errors, which name neither the file nor the reason.
    """
    try:
        yield
    except (OSError, SafetensorError, RuntimeError) as error:
        if isinstance(error, RuntimeError) and not _raised_in(error, torch.serialization.__name__):
            raise
        raise OSError(
            f"{checkpoint} could not be saved, with {shutil.disk_usage(checkpoint.parent).free:,} bytes free on its "
            f"disk: {error}. Free some space, and resume from the newest complete checkpoint "
            "(resume_from_checkpoint='auto')."
        ) from error


def checkpoints_of(run: Path) -> list[Path]:
    """The checkpoints of a run, the newest first: by their steps, since clocks and copies change the times of files."""
    numbered = {path: re.fullmatch(rf"{PREFIX_CHECKPOINT_DIR}-(\d+)", path.name) for path in run.glob("*/")}
    steps = {path: int(match[1]) for path, match in numbered.items() if match}
    return sorted(steps, key=lambda path: steps[path], reverse=True)


def remove_old_checkpoints(newest: Path, best: str | None, limit: int | None) -> None:
    """Keep `limit` checkpoints of a run, always those just saved and the best, and of the others the newest."""
    if limit is None or limit <= 0:
        return
    kept = {path.resolve() for path in (newest, best and Path(best)) if path}
    others = [checkpoint for checkpoint in checkpoints_of(newest.parent) if checkpoint.resolve() not in kept]
    for checkpoint in others[max(0, limit - len(kept)) :]:
        _remove(checkpoint)


def remove_unfinished_checkpoints(run: Path) -> None:
    """Remove what a killed run has left of checkpoints that it was saving or removing. No training may run there."""
    for checkpoint in checkpoints_of(run):
        if (checkpoint / SENTINEL).exists():
            _remove(checkpoint)
    for folder in run.glob(f"{REMOVING}*/"):
        shutil.rmtree(folder)


def _remove(checkpoint: Path) -> None:
    removing = checkpoint.with_name(REMOVING + checkpoint.name)  # what is left of it is no checkpoint
    shutil.rmtree(checkpoint.rename(removing))


def find_defect(checkpoint: Path) -> str | None:
    """
    What keeps a run from going on from a checkpoint, or None if it is complete.

    Checkpoints without a list, such as those of transformers' `Trainer`, are complete if they have the files that
    training needs, and all of these end where they should.
    """
    if not checkpoint.is_dir():
        return "there is no such folder"
    if (checkpoint / SENTINEL).exists():
        return "saving it was interrupted"
    if not _has_state(checkpoint):
        return f"it has no complete {TRAINER_STATE_NAME}"
    return _find_defect(checkpoint, WEIGHTS | TRAINING_STATE, "*")


def find_weights_defect(checkpoint: Path) -> str | None:
    """What keeps the weights of a checkpoint from being used, even if training cannot go on from it."""
    return _find_defect(checkpoint, WEIGHTS, "*.safetensors", "*.index.json")


def _has_state(checkpoint: Path) -> bool:
    try:
        state = TrainerState.load_from_json(str(checkpoint / TRAINER_STATE_NAME))
    except (FileNotFoundError, ValueError, TypeError):  # not there; not JSON or text; other fields
        return False
    return isinstance(state.global_step, int) and state.global_step > 0


def _find_defect(checkpoint: Path, needed: Mapping[str, tuple[str, ...]], *files: str) -> str | None:
    try:
        return _wrong_size(checkpoint, *files) or _missing(checkpoint, needed) or _broken(checkpoint, *files)
    except ValueError as error:  # a file that ends early, or a list that names files elsewhere
        return str(error).rstrip(".")


def _wrong_size(checkpoint: Path, *files: str) -> str | None:
    if not (checkpoint / LIST_NAME).is_file():
        return None
    sizes = read_json(checkpoint / LIST_NAME).get("sizes", {})
    for name in chain.from_iterable(fnmatch.filter(sizes, pattern) for pattern in files):
        path = file_inside(checkpoint, name)
        if not path.is_file():
            return f"{name} is missing"
        if path.stat().st_size != sizes[name]:
            return f"{name} has {path.stat().st_size:,} bytes instead of {sizes[name]:,}"
    return None


def _missing(checkpoint: Path, needed: Mapping[str, tuple[str, ...]]) -> str | None:
    for name, patterns in needed.items():
        if not any(any(checkpoint.glob(pattern)) for pattern in patterns):
            return f"{name} is missing"
    return None


def _broken(checkpoint: Path, *files: str) -> str | None:
    for path in sorted(chain.from_iterable(map(checkpoint.glob, files))):
        if path.suffix in (".safetensors", ".pt", ".pth", ".bin"):
            check_weights(path)
        if path.suffix == ".safetensors":
            with safe_open(path, "pt") as tensors:
                for name in tensors.keys():  # noqa: SIM118  it is no dictionary
                    if not tensors.get_tensor(name).isfinite().all():
                        return f"{name} in {path.name} is not finite"
    return None
