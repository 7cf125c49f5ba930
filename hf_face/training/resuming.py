"""Finding the checkpoint to resume from."""

from pathlib import Path

from accelerate import PartialState
from accelerate.utils import broadcast_object_list
from transformers import TrainerState, TrainingArguments
from transformers.trainer_utils import PREFIX_CHECKPOINT_DIR
from transformers.utils import logging

from .checkpoint_files import checkpoints_of, find_defect, find_weights_defect

logger = logging.get_logger(__name__)


def find_checkpoint(resume_from: str | Path | bool | None, output_dir: str | Path) -> Path | None:
    """
    Find the checkpoint for `resume_from_checkpoint`, the same on every rank.

    A checkpoint is complete if it has all files that its writer listed, and finite weights. If the newest one is not,
    an older one is taken, with a warning that says what is wrong with each newer one.

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
    newest = resume_from in (True, "auto")
    folder = Path(output_dir if newest else str(resume_from))
    # Decided by one process, since files may change while others look.
    looked = _look_in(folder, newest) if PartialState().is_main_process else None
    found, defects = broadcast_object_list([looked])[0]
    if found is None and resume_from != "auto":
        reason = "; ".join(defects) or "it contains no checkpoints"
        raise ValueError(f"No complete checkpoint to resume from in {folder}: {reason}.")
    outcome = "Starting from scratch" if found is None else f"Resuming from {found}"
    for defect in defects if PartialState().is_main_process else []:
        logger.warning(f"{outcome}, not from {defect}.")
    return found


def last_complete_checkpoint(output_dir: str | Path) -> str | None:
    """Find the newest complete checkpoint of a run, or `None`."""
    found, _ = _newest_complete(checkpoints_of(Path(output_dir)))
    return None if found is None else str(found)


def find_best_checkpoint(state: TrainerState, checkpoint: Path, output_dir: str | Path) -> Path | None:
    """
    The checkpoint of a run's best step, to be loaded at its end: the given one, one beside it or in `output_dir`.

    The path in the state is not used: the run may have been moved, and a run from elsewhere may name any folder.
    """
    name = f"{PREFIX_CHECKPOINT_DIR}-{state.best_global_step}"
    places = [checkpoint.parent / name, Path(output_dir) / name]
    if state.best_global_step == state.global_step:
        places = [checkpoint]
    return next((place for place in places if place.is_dir() and find_weights_defect(place) is None), None)


def final_weights(state: TrainerState, checkpoint: Path, args: TrainingArguments) -> tuple[Path, int]:
    """
    The checkpoint with the weights that a finished run ends with, and their step: the last or, with
    `load_best_model_at_end`, the best ones.

    Raises:
        ValueError: if the best checkpoint is gone or damaged.
    """
    if not (args.load_best_model_at_end and state.best_global_step):
        return checkpoint, state.global_step
    best = find_best_checkpoint(state, checkpoint, args.output_dir)
    if best is None:
        raise ValueError(
            f"The best checkpoint of this finished run, of step {state.best_global_step}, is not beside {checkpoint}, "
            "or is damaged. Set load_best_model_at_end to false to use the last weights."
        )
    state.best_model_checkpoint = str(best)
    return best, state.best_global_step


def keep_best_checkpoint(state: TrainerState, checkpoint: Path, output_dir: str | Path) -> None:
    """Make the state of a resumed run refer to its best checkpoint where that is now, or to none."""
    best = find_best_checkpoint(state, checkpoint, output_dir)
    if best is None:
        logger.warning(
            f"The best checkpoint so far, of step {state.best_global_step}, is not beside {checkpoint}, or is damaged: "
            "the best one from here on will be loaded at the end."
        )
        state.best_metric = state.best_global_step = None
    state.best_model_checkpoint = None if best is None else str(best)


def _look_in(folder: Path, is_run: bool) -> tuple[Path | None, list[str]]:
    """The checkpoint that `folder` contains or, unless it is known to be a run, is; and what is wrong with others."""
    checkpoints = checkpoints_of(folder)
    if checkpoints or is_run:
        return _newest_complete(checkpoints)
    defect = find_defect(folder)
    return (folder, []) if defect is None else (None, [defect])


def _newest_complete(newest_first: list[Path]) -> tuple[Path | None, list[str]]:
    defects: list[str] = []
    for checkpoint in newest_first:
        defect = find_defect(checkpoint)
        if defect is None:
            return checkpoint, defects
        defects.append(f"{checkpoint.name}: {defect}")
    return None, defects
