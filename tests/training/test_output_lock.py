"""One training at a time, and what ranks decide together."""

import pytest
import torch
from filelock import FileLock

from hf_face.training.output_lock import only_training_in
from hf_face.training.ranks import Underway, on_any_rank


def test_a_folder_is_made_and_held_once(tmp_path):
    run = tmp_path / "new" / "run"
    other = FileLock(run / ".training.lock")
    for _ in range(2):
        with only_training_in(run):
            with only_training_in(str(run)):  # as nested calls do
                pass
            with pytest.raises(TimeoutError):
                other.acquire(timeout=0)
        other.acquire(timeout=0)
        with pytest.raises(ValueError, match=f"Another training is running in {run}"), only_training_in(run):
            pass
        other.release()


def test_flags_of_one_rank_are_its_own():
    flags = on_any_rank(True, torch.tensor(False), torch.tensor(True), device=torch.device("cpu"))
    assert Underway(flags).tolist() == [True, False, True]
