"""Which of a run's checkpoints to resume from."""

import json
import math
from pathlib import Path

from accelerate.utils import broadcast_object_list
from transformers import TrainerState, TrainingArguments
from transformers.trainer import TRAINER_STATE_NAME
from transformers.trainer_utils import PREFIX_CHECKPOINT_DIR


def find_checkpoint(resume_from: str | Path | bool | None, output_dir: str | Path) -> Path | None:
    """
    The checkpoint that `resume_from_checkpoint` means, the same on every rank.

    Args:
        resume_from: A checkpoint; a run's folder, for its newest complete checkpoint; `True` for the newest complete
            one in `output_dir`; `"auto"` for that, or a fresh start where there is none; `None` or `False` for a fresh
            start.
        output_dir: Where the present run saves its checkpoints.

    Raises:
        ValueError: if there is no complete checkpoint where one is asked for.
    """
    if resume_from is None or resume_from is False:
        return None
    folder = Path(output_dir) if resume_from in (True, "auto") else Path(str(resume_from))
    # Decided by one process: files may appear while the others look.
    found = broadcast_object_list([_checkpoint_in(folder)])[0]
    if found is None and resume_from != "auto":
        reason = f"no {TRAINER_STATE_NAME} was written to its end" if folder.is_dir() else "there is no such folder"
        raise ValueError(f"No complete checkpoint to resume from in {folder}: {reason}.")
    return None if found is None else Path(found)


def last_complete_checkpoint(output_dir: str | Path) -> str | None:
    """
    The newest checkpoint that was written to its end, or `None`.

    A run that is killed while it saves leaves an incomplete one; `trainer_state.json` is written last.
    """
    folders = Path(output_dir).glob(f"{PREFIX_CHECKPOINT_DIR}-*")
    newest_first = sorted(folders, key=lambda folder: int(folder.name.rpartition("-")[2]), reverse=True)
    return next((str(folder) for folder in newest_first if _is_complete(folder)), None)


def is_finished(checkpoint: Path, args: TrainingArguments) -> bool:
    """Whether a checkpoint is of the last step that `args` ask for."""
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
