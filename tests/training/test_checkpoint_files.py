"""The list of a checkpoint's files, and the checkpoints of a run."""

import json
import re

import pytest
import torch

from hf_face.training.checkpoint_files import (
    checkpoints_of,
    find_defect,
    finish_checkpoint,
    naming_full_disks,
    remove_old_checkpoints,
    remove_unfinished_checkpoints,
    start_checkpoint,
)


def test_a_checkpoint_is_marked_until_its_last_file(tmp_path):
    checkpoint = tmp_path / "new" / "run" / "checkpoint-1"
    for _ in range(2):  # new, and over an earlier one
        start_checkpoint(checkpoint)
        assert find_defect(checkpoint) == "saving it was interrupted"
        assert [path.name for path in checkpoint.iterdir() if path.is_file()] == ["checkpoint-is-incomplete.txt"]
        (checkpoint / "adapter").mkdir(exist_ok=True)
        for name in ("optimizer.pt", "trainer_state.json", "adapter/weights"):
            (checkpoint / name).write_text("{}")
        finish_checkpoint(checkpoint)
        sizes = {"adapter/weights": 2, "optimizer.pt": 2, "trainer_state.json": 2}
        text = (checkpoint / "checkpoint_files.json").read_text()
        assert text == json.dumps({"sizes": sizes}, indent=2) + "\n"  # as transformers writes its files
        for name in ("optimizer.pt", "adapter/weights"):
            (checkpoint / name).unlink()
    finish_checkpoint(checkpoint)  # without a mark, as one that is published


@pytest.mark.parametrize(
    ("state", "complete"),
    [({"global_step": 1}, True), ({"global_step": 0}, False), ({"global_step": "1"}, False), ({}, False)],
)
def test_a_state_has_steps(tmp_path, state, complete):
    (tmp_path / "trainer_state.json").write_text(json.dumps(state))
    defect = "model.safetensors is missing" if complete else "it has no complete trainer_state.json"
    assert find_defect(tmp_path) == defect


def test_checkpoints_are_counted_by_their_steps(tmp_path):
    for name in ("checkpoint-9", "checkpoint-10", "checkpoint-x", "checkpoint-3-old"):
        (tmp_path / name).mkdir()
    (tmp_path / "checkpoint-11").touch()
    assert [path.name for path in checkpoints_of(tmp_path)] == ["checkpoint-10", "checkpoint-9"]


@pytest.mark.parametrize(
    ("best", "limit", "kept"),
    [(None, None, "1234"), (None, 0, "1234"), (None, -1, "1234"), (None, 1, "3"), (None, 2, "34"), ("1", 1, "13")],
)
def test_how_many_checkpoints_are_kept(tmp_path, best, limit, kept):
    for step in range(1, 5):
        (tmp_path / f"checkpoint-{step}").mkdir()
    best = best and str(tmp_path / f"checkpoint-{best}")
    remove_old_checkpoints(tmp_path / "checkpoint-3", best, limit)
    assert "".join(sorted(path.name[-1] for path in tmp_path.iterdir())) == kept


def test_only_unfinished_checkpoints_are_removed(tmp_path):
    for name in ("checkpoint-1", "checkpoint-2", "_removing-checkpoint-3", "other"):
        (tmp_path / name).mkdir()
    start_checkpoint(tmp_path / "checkpoint-2")
    remove_unfinished_checkpoints(tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == {"checkpoint-1", "other"}


def test_an_error_of_a_writer_names_the_checkpoint_and_the_way_out(tmp_path):
    def full_disk():
        raise OSError("no space")

    for save in (full_disk, lambda: torch.save({}, tmp_path / "nowhere" / "optimizer.pt")):
        with (
            pytest.raises(OSError, match=rf"{re.escape(str(tmp_path))}/checkpoint-1 could not be saved, with [\d,]+ "),
            naming_full_disks(tmp_path / "checkpoint-1"),
        ):
            save()
    with pytest.raises(RuntimeError, match="another error"), naming_full_disks(tmp_path / "checkpoint-1"):
        raise RuntimeError("another error")
