"""
The files of a checkpoint: a list of them, written last, and what is wrong with a checkpoint that is not complete.

A run that is killed while it saves, a full disk or an interrupted copy leave checkpoints that lack files or parts of
them. Training on from these would fail, or silently give other results.
"""

import fnmatch
import json
from collections.abc import Mapping
from pathlib import Path

from safetensors import safe_open
from transformers import TrainerState
from transformers.trainer import TRAINER_STATE_NAME

from ..files import check_weights, file_inside, read_json

LIST_NAME = "checkpoint_files.json"
SENTINEL = "checkpoint-is-incomplete.txt"  # which enable_jit_checkpoint removes afterwards

# What training goes on from: files of which there must be one, by the name that Trainer gives them on a single device.
# `latest` is DeepSpeed's, which keeps the states of optimizer and scheduler with the weights.
WEIGHTS = {"model.safetensors": ("model*.safetensors", "pytorch_model*", "adapter_model.*", "*/adapter_model.*")}
TRAINING_STATE = {
    "optimizer.pt": ("optimizer*", "latest"),
    "scheduler.pt": ("scheduler.pt*", "latest"),
    "rng_state.pth": ("rng_state*",),
}


def start_checkpoint(checkpoint: Path) -> None:
    """Mark what an earlier run saved under this name as incomplete, before its files are replaced one by one."""
    for name in (LIST_NAME, TRAINER_STATE_NAME):
        (checkpoint / name).unlink(missing_ok=True)


def finish_checkpoint(checkpoint: Path) -> None:
    """List the files of a checkpoint with their sizes, which makes it complete."""
    files = sorted(path for path in checkpoint.rglob("*") if path.is_file() and path.name not in (LIST_NAME, SENTINEL))
    sizes = {path.relative_to(checkpoint).as_posix(): path.stat().st_size for path in files}
    (checkpoint / LIST_NAME).write_text(json.dumps({"sizes": sizes}, indent=2) + "\n", encoding="utf-8")


def find_defect(checkpoint: Path) -> str | None:
    """
    What keeps a run from going on from a checkpoint, or None if it is complete.

    Checkpoints without a list, such as those of transformers' `Trainer`, are complete if they have the files that
    training needs, and all of these end where they should.
    """
    if not checkpoint.is_dir():
        return "there is no such folder"
    if not _has_state(checkpoint):
        return f"it has no complete {TRAINER_STATE_NAME}"
    return _find_defect(checkpoint, WEIGHTS | TRAINING_STATE, "*")


def find_weights_defect(checkpoint: Path) -> str | None:
    """What keeps the weights of a checkpoint from being used, even if training cannot go on from it."""
    return _find_defect(checkpoint, WEIGHTS, "*.safetensors")


def _has_state(checkpoint: Path) -> bool:
    try:
        state = TrainerState.load_from_json(str(checkpoint / TRAINER_STATE_NAME))
    except (FileNotFoundError, ValueError, TypeError):  # not there; not JSON or text; other fields
        return False
    return isinstance(state.global_step, int) and state.global_step > 0


def _find_defect(checkpoint: Path, needed: Mapping[str, tuple[str, ...]], files: str) -> str | None:
    try:
        return _wrong_size(checkpoint, files) or _missing(checkpoint, needed) or _broken(checkpoint, files)
    except ValueError as error:  # a file that ends early, or a list that names files elsewhere
        return str(error).rstrip(".")


def _wrong_size(checkpoint: Path, files: str) -> str | None:
    if not (checkpoint / LIST_NAME).is_file():
        return None
    sizes = read_json(checkpoint / LIST_NAME).get("sizes", {})
    for name in fnmatch.filter(sizes, files):
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


def _broken(checkpoint: Path, files: str) -> str | None:
    for path in sorted(checkpoint.glob(files)):
        if path.suffix in (".safetensors", ".pt", ".pth", ".bin"):
            check_weights(path)
        if path.suffix == ".safetensors":
            with safe_open(path, "pt") as tensors:
                for name in tensors.keys():  # noqa: SIM118  it is no dictionary
                    if not tensors.get_tensor(name).isfinite().all():
                        return f"{name} in {path.name} is not finite"
    return None
