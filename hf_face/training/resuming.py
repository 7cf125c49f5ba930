"""Finding the checkpoint to resume from."""

import json
import math
from pathlib import Path

from accelerate.utils import broadcast_object_list
from transformers import TrainerState, TrainingArguments
from transformers.trainer import TRAINER_STATE_NAME
from transformers.trainer_utils import PREFIX_CHECKPOINT_DIR


def find_checkpoint(resume_from: str | Path | bool | None, output_dir: str | Path) -> Path | None:
    """
    Find the checkpoint for `resume_from_checkpoint`, the same on every rank.

    Args:
        resume_from: A checkpoint; the folder of a run, for its newest complete checkpoint; `True` for the newest
            complete one in `output_dir`; `"auto"` for the same, but to start from scratch if there is none; `None` or
            `False` to start from scratch.
        output_dir: Folder of the current run's checkpoints.

    Raises:
        ValueError: if there is no complete checkpoint and it is required.
    """
    if resume_from is None or resume_from is False:
        return None
    folder = Path(output_dir) if resume_from in (True, "auto") else Path(str(resume_from))
    # Decided by one process, since files may change while others look.
    found = broadcast_object_list([_checkpoint_in(folder)])[0]
    if found is None and resume_from != "auto":
        reason = f"it has no complete {TRAINER_STATE_NAME}" if folder.is_dir() else "there is no such folder"
        raise ValueError(f"No complete checkpoint to resume from in {folder}: {reason}.")
    return None if found is None else Path(found)


def last_complete_checkpoint(output_dir: str | Path) -> str | None:
    """
    Find the newest complete checkpoint, or `None`.

    A run that is killed while saving leaves an incomplete checkpoint; `trainer_state.json` is written last.
    """
    folders = Path(output_dir).glob(f"{PREFIX_CHECKPOINT_DIR}-*")
    newest_first = sorted(folders, key=lambda folder: int(folder.name.rpartition("-")[2]), reverse=True)
    return next((str(folder) for folder in newest_first if _is_complete(folder)), None)


def is_finished(checkpoint: Path, args: TrainingArguments) -> bool:
    """Whether a checkpoint is from the last step of a run with `args`."""
    state = TrainerState.load_from_json(str(checkpoint / TRAINER_STATE_NAME))
    last_step = args.max_steps
    if last_step <= 0:
        last_step = math.ceil(state.global_step * args.num_train_epochs / state.epoch)
    return state.global_step >= last_step


def _checkpoint_in(folder: Path) -> str | None:
    return str(folder) if _is_complete(folder) else last_complete_checkpoint(folder)


def _is_complete(folder: Path) -> bool:
    path = folder / TRAINER_STATE_NAME
    if not path.is_file():
        return False
    try:
        json.loads(path.read_text(encoding="utf-8"))
    except json.JSONDecodeError:
        return False
    return True
