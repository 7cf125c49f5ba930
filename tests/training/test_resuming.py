"""Which checkpoint a run resumes from: one rule for every way to say it, whatever has happened to the files."""

import json
import math
import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import Trainer

from hf_face.training import checkpoint_files, find_checkpoint, last_complete_checkpoint
from hf_face.training.checkpoint_files import SENTINEL, find_defect, remove_old_checkpoints

STEPS = {"max_steps": 4, "save_strategy": "steps", "save_steps": 2}
TRAINED: list[Path] = []


@pytest.fixture
def run(make_trainer, tmp_path, tmp_path_factory) -> Path:
    """A run of four steps with its checkpoints 2 and 4, trained once."""
    if not TRAINED:
        trainer = make_trainer(**STEPS, output_dir=str(tmp_path_factory.mktemp("trained")))
        trainer.train()
        TRAINED.append(Path(trainer.args.output_dir))
    return Path(shutil.copytree(TRAINED[0], tmp_path / "run"))


def losses(trainer) -> list[float]:
    return [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]


def test_every_way_to_say_it_finds_the_newest_complete_checkpoint(run):
    ways = (True, "auto", run, str(run), run / "checkpoint-4", str(run / "checkpoint-4"))
    assert {find_checkpoint(way, run) for way in ways} == {run / "checkpoint-4"}
    (run / "checkpoint-4" / "trainer_state.json").write_text('{"half')
    assert {find_checkpoint(way, run) for way in ways[:4]} == {run / "checkpoint-2"}
    assert find_checkpoint(None, run) is find_checkpoint(False, run) is None


def test_nothing_to_resume_from_is_a_fresh_start_or_an_error(tmp_path):
    assert find_checkpoint("auto", tmp_path) is None
    with pytest.raises(ValueError, match=f"No complete checkpoint to resume from in {tmp_path}"):
        find_checkpoint(True, tmp_path)
    with pytest.raises(ValueError, match="nowhere: there is no such folder"):
        find_checkpoint(tmp_path / "nowhere", tmp_path)


def test_an_incomplete_checkpoint_that_is_asked_for_by_name_is_refused(run):
    (run / "checkpoint-4" / "trainer_state.json").unlink()
    with pytest.raises(ValueError, match=r"checkpoint-4: it has no complete trainer_state.json"):
        find_checkpoint(run / "checkpoint-4", run)


@pytest.mark.parametrize("way", [True, "auto", Path, str])
def test_a_finished_run_is_not_trained_further_however_it_is_asked_for(make_trainer, run, way):
    again = make_trainer(max_steps=4, save_strategy="steps", save_steps=2)
    output = again.train(resume_from_checkpoint=way(run) if isinstance(way, type) else way)
    assert output.global_step == 4 and output.metrics == {} and math.isnan(output.training_loss)


def test_a_path_object_resumes_where_its_text_does(make_trainer, run):
    found = []
    for way in (run / "checkpoint-2", str(run / "checkpoint-2")):
        trainer = make_trainer(max_steps=4)
        trainer.train(resume_from_checkpoint=way)
        found.append(losses(trainer))
    assert found[0] == found[1] and len(found[0]) == 4


# Names


def test_a_slash_at_the_end_and_another_name_are_fine(make_trainer, run):
    (run / "checkpoint-2").rename(run / "the good one")
    for way in (str(run / "the good one"), f"{run}/the good one/", run / "the good one"):
        trainer = make_trainer(max_steps=3)
        trainer.train(resume_from_checkpoint=way)
        assert trainer.state.global_step == 3


@pytest.mark.parametrize("way", [True, "auto"])
def test_only_numbered_folders_are_checkpoints_of_the_run(run, way):
    for name in ("checkpoint-best", "checkpoint-9-old", "old-checkpoint-9"):
        shutil.copytree(run / "checkpoint-2", run / name)
    (run / "checkpoint-9").write_text("not a folder")
    assert find_checkpoint(way, run) == run / "checkpoint-4"
    assert find_checkpoint(run / "checkpoint-best", run) == run / "checkpoint-best"


def test_a_saved_state_does_not_make_a_run_a_checkpoint(make_trainer, run):
    trainer = make_trainer(max_steps=4)
    trainer.train(resume_from_checkpoint=run)
    trainer.save_model()
    trainer.save_state()
    assert find_checkpoint(run, run) == find_checkpoint(True, run) == run / "checkpoint-4"


# Damaged checkpoints


def cut(name: str) -> Callable[[Path], None]:
    return lambda checkpoint: os.truncate(checkpoint / name, (checkpoint / name).stat().st_size // 2)


def remove(*names: str) -> Callable[[Path], None]:
    return lambda checkpoint: [(checkpoint / name).unlink() for name in names]  # type: ignore[return-value]


def write(name: str, content: bytes) -> Callable[[Path], None]:
    return lambda checkpoint: (checkpoint / name).write_bytes(content)  # type: ignore[return-value]


def without_list(damage: Callable[[Path], None]) -> Callable[[Path], None]:
    return lambda checkpoint: (remove("checkpoint_files.json")(checkpoint), damage(checkpoint))  # type: ignore


def spoil(checkpoint: Path) -> None:
    """Put a NaN into the weights, which leaves the file's size as it is."""
    tensors = load_file(checkpoint / "model.safetensors")
    tensors["head.weight"][1, 3] = math.nan
    save_file(tensors, checkpoint / "model.safetensors", {"format": "pt"})


STATE = "it has no complete trainer_state.json"
DAMAGE = {
    "no optimizer": (remove("optimizer.pt"), "optimizer.pt is missing"),
    "no scheduler": (remove("scheduler.pt"), "scheduler.pt is missing"),
    "no random state": (remove("rng_state.pth"), "rng_state.pth is missing"),
    "no weights": (remove("model.safetensors"), "model.safetensors is missing"),
    "half the weights": (cut("model.safetensors"), "model.safetensors has .* bytes instead of"),
    "half the optimizer": (cut("optimizer.pt"), "optimizer.pt has .* bytes instead of"),
    "half the state": (cut("trainer_state.json"), STATE),
    "an empty state": (write("trainer_state.json", b"{}"), STATE),
    "a state of something else": (write("trainer_state.json", b"[1]"), STATE),
    "a state that is no text": (write("trainer_state.json", b"\xff\xfe\x00"), STATE),
    "half the list": (cut("checkpoint_files.json"), "checkpoint_files.json is not a complete JSON file"),
    "a list of files elsewhere": (write("checkpoint_files.json", b'{"sizes": {"/etc/hosts": 1}}'), "file outside it"),
    "NaN": (spoil, "head.weight in model.safetensors is not finite"),
    "no list, no optimizer": (without_list(remove("optimizer.pt")), "optimizer.pt is missing"),
    "no list, no weights": (without_list(remove("model.safetensors")), "model.safetensors is missing"),
    "no list, half the optimizer": (without_list(cut("optimizer.pt")), "optimizer.pt is not a complete torch file"),
    "no list, half the weights": (without_list(cut("model.safetensors")), "model.safetensors is not a complete safe"),
}


@pytest.mark.parametrize(("damage", "complaint"), DAMAGE.values(), ids=DAMAGE.keys())
def test_a_damaged_checkpoint_is_named_and_the_one_before_is_taken(run, caplog, damage, complaint):
    damage(run / "checkpoint-4")
    for way in (True, "auto", run):
        caplog.clear()
        assert find_checkpoint(way, run) == run / "checkpoint-2"
        (warning,) = (record.getMessage() for record in caplog.records if record.levelname == "WARNING")
        assert re.search(rf"Resuming from {run}/checkpoint-2, not from checkpoint-4: .*{complaint}", warning)
    with pytest.raises(ValueError, match=rf"checkpoint-4: .*{complaint}"):
        find_checkpoint(run / "checkpoint-4", run)
    assert last_complete_checkpoint(run) == str(run / "checkpoint-2")


def test_nothing_is_left_to_resume_from(run, caplog):
    for name in ("checkpoint-2", "checkpoint-4"):
        (run / name / "optimizer.pt").unlink()
    with pytest.raises(ValueError, match=r"checkpoint-4: optimizer.pt is missing; checkpoint-2: optimizer.pt is miss"):
        find_checkpoint(True, run)
    assert find_checkpoint("auto", run) is None
    assert sum("Starting from scratch, not from checkpoint" in record.getMessage() for record in caplog.records) == 2


def test_a_checkpoint_of_transformers_own_trainer_has_no_list(make_trainer, run):
    (run / "checkpoint-2" / "checkpoint_files.json").unlink()
    trainer = make_trainer(max_steps=4)
    trainer.train(resume_from_checkpoint=run / "checkpoint-2")
    straight = make_trainer(max_steps=4)
    straight.train()
    assert losses(trainer) == losses(straight)


def test_the_list_has_every_file(run):
    checkpoint = run / "checkpoint-4"
    sizes = json.loads((checkpoint / "checkpoint_files.json").read_text())["sizes"]
    names = {path.name for path in checkpoint.iterdir()} - {"checkpoint_files.json"}
    assert sizes == {name: (checkpoint / name).stat().st_size for name in names}
    assert {"model.safetensors", "optimizer.pt", "scheduler.pt", "rng_state.pth", "trainer_state.json"} < names


def test_a_save_that_is_interrupted_leaves_no_mixture(make_trainer, run, monkeypatch):
    """The files of an earlier run under the same name, of the same sizes, do not complete a half-written checkpoint."""

    def interrupted(self, output_dir):
        if output_dir.endswith("checkpoint-4"):
            raise KeyboardInterrupt

    monkeypatch.setattr(Trainer, "_save_optimizer_and_scheduler", interrupted)
    with pytest.raises(KeyboardInterrupt):
        make_trainer(**STEPS).train(resume_from_checkpoint=run / "checkpoint-2")
    assert find_checkpoint(True, run) == run / "checkpoint-2"


def test_what_a_killed_run_has_left_is_removed(make_trainer, run):
    for name in ("checkpoint-3", "_removing-checkpoint-1", "_push-3", "checkpoint-of-mine"):
        shutil.copytree(run / "checkpoint-2", run / name)
    (run / "checkpoint-3" / SENTINEL).touch()
    with pytest.raises(ValueError, match="checkpoint-3: saving it was interrupted"):
        find_checkpoint(run / "checkpoint-3", run)
    make_trainer(max_steps=4).train(resume_from_checkpoint=True)
    assert {path.name for path in run.glob("*/")} == {"checkpoint-2", "checkpoint-4", "checkpoint-of-mine"}


def test_old_checkpoints_go_when_the_new_one_is_complete(make_trainer, run, monkeypatch):
    """Also the newest ones of an earlier run are older than the one that has just been saved."""
    shutil.copytree(run / "checkpoint-4", run / "checkpoint-8")
    found = []

    def remove(newest, best, limit):
        found.append((find_defect(newest), len(list(run.glob("checkpoint-*")))))
        remove_old_checkpoints(newest, best, limit)

    monkeypatch.setattr(checkpoint_files, "remove_old_checkpoints", remove)
    trainer = make_trainer(max_steps=3, save_strategy="steps", save_steps=1, save_total_limit=1)
    trainer.train(resume_from_checkpoint=run / "checkpoint-2")
    assert found == [(None, 4)] and trainer.args.save_total_limit == 1
    assert [path.name for path in run.glob("checkpoint-*")] == ["checkpoint-3"]


@pytest.mark.parametrize(("limit", "kept"), [(None, "24567"), (0, "24567"), (1, "25"), (2, "25"), (3, "257")])
def test_the_checkpoints_to_keep(tmp_path, limit, kept):
    for step in (2, 4, 5, 6, 7):
        (tmp_path / f"checkpoint-{step}").mkdir()
    remove_old_checkpoints(tmp_path / "checkpoint-5", str(tmp_path / "checkpoint-2"), limit)
    assert sorted(path.name[-1] for path in tmp_path.iterdir()) == list(kept)


# Finished runs, and the best checkpoint


def test_a_run_of_epochs_is_finished_too(make_trainer, tmp_path):
    epoch = {"max_steps": -1, "num_train_epochs": 1, "save_strategy": "epoch"}
    trainer = make_trainer(**epoch)
    trainer.train()
    weight = trainer.model.head.weight.clone()
    for way in (True, "auto", tmp_path / "run", tmp_path / "run" / "checkpoint-18"):
        again = make_trainer(**epoch)
        output = again.train(resume_from_checkpoint=way)
        assert (output.global_step, output.metrics) == (18, {}) and torch.equal(again.model.head.weight, weight)


@pytest.fixture
def best_run(make_trainer, tmp_path) -> Path:
    """A run of four steps of which the second is the best, with the settings to load it at the end."""
    trainer = make_trainer(**BEST)
    trainer.train()
    assert trainer.state.best_global_step == 2
    return Path(trainer.args.output_dir)


BEST = {
    **STEPS,
    "eval_strategy": "steps",
    "eval_steps": 2,
    "load_best_model_at_end": True,
    "metric_for_best_model": "orl_num_genuine",  # never gets better than at the first evaluation
    "greater_is_better": True,
}


def saved_head(checkpoint: Path) -> torch.Tensor:
    return load_file(checkpoint / "model.safetensors")["head.weight"]


def test_a_finished_run_loads_its_best_weights_wherever_it_is_now(make_trainer, best_run):
    moved = best_run.rename(best_run.with_name("moved"))
    state = json.loads((moved / "checkpoint-4" / "trainer_state.json").read_text())
    assert state["best_model_checkpoint"] == str(best_run / "checkpoint-2"), "where it was"
    for way in (True, str(moved / "checkpoint-4"), moved / "checkpoint-4"):
        trainer = make_trainer(**BEST, output_dir=str(moved))
        assert trainer.train(resume_from_checkpoint=way).metrics == {}
        assert torch.equal(trainer.model.head.weight, saved_head(moved / "checkpoint-2"))
        assert trainer.publisher.weights_step == 2
    shutil.rmtree(moved / "checkpoint-2")
    with pytest.raises(ValueError, match=r"best checkpoint of this finished run, of step 2, is not beside"):
        make_trainer(**BEST, output_dir=str(moved)).train(resume_from_checkpoint=True)
    last = make_trainer(**{**BEST, "load_best_model_at_end": False}, output_dir=str(moved))
    last.train(resume_from_checkpoint=True)
    assert torch.equal(last.model.head.weight, saved_head(moved / "checkpoint-4"))


def test_the_best_checkpoint_of_a_moved_run_is_loaded_after_more_training(make_trainer, best_run, caplog):
    moved = best_run.rename(best_run.with_name("moved"))
    trainer = make_trainer(**{**BEST, "max_steps": 6, "save_total_limit": 1}, output_dir=str(moved))
    trainer.train(resume_from_checkpoint=True)
    assert trainer.state.best_model_checkpoint == str(moved / "checkpoint-2")
    assert torch.equal(trainer.model.head.weight, saved_head(moved / "checkpoint-2"))


def test_a_state_from_elsewhere_cannot_name_the_weights_to_load(make_trainer, best_run, tmp_path, caplog):
    private = shutil.copytree(best_run / "checkpoint-4", tmp_path / "private")
    received = shutil.copytree(best_run / "checkpoint-4", tmp_path / "received" / "checkpoint-4")
    (received / "checkpoint_files.json").unlink()
    state = json.loads((received / "trainer_state.json").read_text()) | {"best_model_checkpoint": str(private)}
    (received / "trainer_state.json").write_text(json.dumps(state))
    trainer = make_trainer(**{**BEST, "max_steps": 6}, output_dir=str(tmp_path / "new"))
    trainer.train(resume_from_checkpoint=received)
    assert any("best checkpoint so far, of step 2, is not beside" in record.getMessage() for record in caplog.records)
    assert trainer.state.best_model_checkpoint == str(tmp_path / "new" / "checkpoint-6")


def test_a_damaged_best_checkpoint_does_not_take_the_trained_model_with_it(make_trainer, caplog):
    trainer = make_trainer(**BEST)
    original = trainer._load_best_model
    trainer._load_best_model = lambda: (cut("model.safetensors")(Path(trainer.state.best_model_checkpoint)), original())
    assert trainer.train().global_step == 4
    assert any("The best weights cannot be loaded, the last ones are kept" in r.getMessage() for r in caplog.records)
    assert trainer.publisher.weights_step == 4
    assert torch.equal(trainer.model.head.weight, saved_head(Path(trainer.args.output_dir) / "checkpoint-4"))


# One training at a time

HOLD = """
import sys, filelock
lock = filelock.FileLock(sys.argv[1])
lock.acquire()
print("held", flush=True)
sys.stdin.read()
"""


def test_two_trainings_do_not_share_a_folder(make_trainer, run):
    command = [sys.executable, "-c", HOLD, str(run / ".training.lock")]
    other = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert other.stdout.readline() == "held\n"
    for resume in (None, "auto", True):
        with pytest.raises(ValueError, match=f"Another training is running in {run}: wait for it, or set another"):
            make_trainer(max_steps=4).train(resume_from_checkpoint=resume)
    other.send_signal(signal.SIGKILL)
    other.wait()
    assert make_trainer(max_steps=4).train(resume_from_checkpoint=True).global_step == 4


def test_a_training_that_fails_leaves_the_folder_free(make_trainer, run, monkeypatch):
    trainer = make_trainer(max_steps=5)
    monkeypatch.setattr(trainer, "training_step", lambda *args, **kwargs: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        trainer.train(resume_from_checkpoint=True)
    command = [sys.executable, "-c", HOLD, str(run / ".training.lock")]
    other = subprocess.run(command, input="", capture_output=True, text=True, timeout=30)
    assert other.stdout == "held\n"
