"""Which of a run's checkpoints to go on from."""

import json
from pathlib import Path

from transformers.trainer_utils import PREFIX_CHECKPOINT_DIR


def last_complete_checkpoint(output_dir: str | Path) -> str | None:
    """
    The newest checkpoint that was written to its end, or None. A run that was killed while saving leaves one that was
    not; `trainer_state.json` is written last.
    """
    found = sorted(
        Path(output_dir).glob(f"{PREFIX_CHECKPOINT_DIR}-*/trainer_state.json"),
        key=lambda path: int(path.parent.name.rpartition("-")[2]),
    )
    return next((str(path.parent) for path in reversed(found) if _is_json(path)), None)


def _is_json(path: Path) -> bool:
    try:
        json.loads(path.read_text(encoding="utf-8"))
    except json.JSONDecodeError:
        return False
    return True
