"""The list of a checkpoint's files, and the checkpoints of a run."""

import json
import math
import re
from types import SimpleNamespace

import pytest
import torch
from safetensors.torch import save_file

from hf_face.training import checkpoint_files
from hf_face.training.checkpoint_files import (
    checkpoints_of,
    find_defect,
    find_weights_defect,
    finish_checkpoint,
    naming_full_disks,
    remove_old_checkpoints,
    remove_unfinished_checkpoints,
    saved_whole,
    start_checkpoint,
)


def test_a_checkpoint_is_marked_until_its_last_file(tmp_path):
    checkpoint = tmp_path / "new" / "run" / "checkpoint-1"
    for _ in range(2):  # new, and over an earlier one
        start_checkpoint(checkpoint)
        assert find_defect(checkpoint) == "saving it was interrupted"
        assert [path.name for path in checkpoint.iterdir()] == ["checkpoint-is-incomplete.txt"]
        (checkpoint / "adapter").mkdir()
        for name in ("optimizer.pt", "trainer_state.json", "adapter/weights"):
            (checkpoint / name).write_text("{}")
        finish_checkpoint(checkpoint)
        sizes = {"adapter/weights": 2, "optimizer.pt": 2, "trainer_state.json": 2}
        text = (checkpoint / "checkpoint_files.json").read_text()
        assert text == json.dumps({"sizes": sizes}, indent=2) + "\n"  # as transformers writes its files
    finish_checkpoint(checkpoint)  # without a mark, as one that is published


@pytest.mark.parametrize(
    ("state", "complete"),
    [({"global_step": 1}, True), ({"global_step": 0}, False), ({"global_step": "1"}, False), ({}, False)],
)
def test_a_state_has_steps(tmp_path, state, complete):
    (tmp_path / "trainer_state.json").write_text(json.dumps(state))
    defect = "model.safetensors is missing" if complete else "it has no complete trainer_state.json"
    assert find_defect(tmp_path) == defect


@pytest.fixture
def checkpoint(tmp_path):
    """A complete checkpoint."""
    folder = tmp_path / "checkpoint-1"
    folder.mkdir()
    (folder / "trainer_state.json").write_text('{"global_step": 1}')
    save_file({"weight": torch.ones(3)}, folder / "model.safetensors")
    for name in ("optimizer.pt", "scheduler.pt", "rng_state.pth"):
        torch.save({}, folder / name)
    finish_checkpoint(folder)
    return folder


def half(content: bytes) -> bytes:
    return content[: len(content) // 2]


@pytest.mark.parametrize("listed", [True, False])
@pytest.mark.parametrize(
    ("name", "change", "defect"),
    [
        ("optimizer.pt", None, "optimizer.pt is missing"),
        ("trainer_state.json", None, "it has no complete trainer_state.json"),
        ("trainer_state.json", half, "it has no complete trainer_state.json"),
        ("rng_state.pth", half, r"rng_state.pth (has \d+ bytes instead of|is not a complete torch file)"),
        ("model.safetensors", half, r"model.safetensors (has \d+ bytes instead of|is not a complete safetensors)"),
        ("trainer_state.json", lambda content: content + b" ", "trainer_state.json has 19 bytes instead of 18"),
    ],
)
def test_what_is_missing_or_broken_is_named(checkpoint, listed, name, change, defect):
    assert find_defect(checkpoint) is None
    if not listed:
        (checkpoint / "checkpoint_files.json").unlink()
        assert find_defect(checkpoint) is None
    content = (checkpoint / name).read_bytes()
    (checkpoint / name).unlink()
    if change is not None:
        (checkpoint / name).write_bytes(change(content))
    found = find_defect(checkpoint)
    assert re.search(defect, found) if listed or "of 18" not in defect else found is None
    assert find_weights_defect(checkpoint) == (found if name.startswith("model") else None)


def test_weights_in_parts_need_the_list_of_these(checkpoint):
    """Without it, a split head would be taken for one that is not there."""
    (checkpoint / "head.index.json").write_text("{}")
    finish_checkpoint(checkpoint)
    assert find_weights_defect(checkpoint) is None
    (checkpoint / "head.index.json").unlink()
    assert find_weights_defect(checkpoint) == find_defect(checkpoint) == "head.index.json is missing"


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_weights_that_are_not_finite_are_a_defect(checkpoint, value):
    save_file({"a": torch.ones(3), "b": torch.tensor([1.0, value])}, checkpoint / "model.safetensors")
    finish_checkpoint(checkpoint)
    assert find_defect(checkpoint) == find_weights_defect(checkpoint) == "b in model.safetensors is not finite"


@pytest.mark.parametrize("first", [True, False])
def test_a_checkpoint_is_complete_and_others_are_removed_when_it_has_been_saved(tmp_path, first):
    for step in (1, 2):
        (tmp_path / f"checkpoint-{step}").mkdir()
    trainer = SimpleNamespace(
        args=SimpleNamespace(should_save=first, save_total_limit=1),
        state=SimpleNamespace(global_step=3, best_model_checkpoint=None),
        accelerator=SimpleNamespace(wait_for_everyone=lambda: None),
    )
    with saved_whole(trainer, tmp_path):
        assert trainer.args.save_total_limit is None
        assert (tmp_path / "checkpoint-3" / "checkpoint-is-incomplete.txt").exists() == first
        assert len(checkpoints_of(tmp_path)) == 2 + first
    assert trainer.args.save_total_limit == 1
    assert [path.name for path in checkpoints_of(tmp_path)] == (
        ["checkpoint-3"] if first else ["checkpoint-2", "checkpoint-1"]
    )


@pytest.mark.parametrize("moment", ["start_checkpoint", "finish_checkpoint"])
def test_a_disk_that_is_full_for_the_first_or_last_file_of_a_checkpoint(tmp_path, monkeypatch, moment):
    def full_disk(checkpoint):
        raise OSError("no space")

    monkeypatch.setattr(checkpoint_files, moment, full_disk)
    trainer = SimpleNamespace(
        args=SimpleNamespace(should_save=True, save_total_limit=1),
        state=SimpleNamespace(global_step=3, best_model_checkpoint=None),
        accelerator=SimpleNamespace(wait_for_everyone=lambda: None),
    )
    (tmp_path / "checkpoint-2").mkdir()
    with pytest.raises(OSError, match="checkpoint-3 could not be saved, with"), saved_whole(trainer, tmp_path):
        pass
    assert trainer.args.save_total_limit == 1 and (tmp_path / "checkpoint-2").is_dir()


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
