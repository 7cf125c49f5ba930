"""Which of a run's checkpoints is chosen, whatever they contain."""

from pathlib import Path
from types import SimpleNamespace

import pytest
from transformers import TrainerState

from hf_face.training import find_checkpoint, last_complete_checkpoint
from hf_face.training.resuming import final_weights, find_best_checkpoint, keep_best_checkpoint


@pytest.fixture
def intact(monkeypatch):
    """Lets every checkpoint be complete that has no file `damaged`."""
    for name in ("find_defect", "find_weights_defect"):
        look = lambda checkpoint: "it is damaged" if (checkpoint / "damaged").exists() else None  # noqa: E731
        monkeypatch.setattr(f"hf_face.training.resuming.{name}", look)


def folders(run: Path, *steps: int, damaged: int | None = None) -> Path:
    for step in steps:
        (run / f"checkpoint-{step}").mkdir(parents=True)
    if damaged is not None:
        (run / f"checkpoint-{damaged}" / "damaged").touch()
    return run


def test_the_best_checkpoint_is_looked_for_where_it_may_be(tmp_path, intact):
    before, now = folders(tmp_path / "before", 1, 2, 4), folders(tmp_path / "now", 3)
    checkpoint = before / "checkpoint-4"

    def best(step: int, output_dir: Path = now) -> Path | None:
        return find_best_checkpoint(TrainerState(global_step=4, best_global_step=step), checkpoint, output_dir)

    assert [best(1), best(3), best(4), best(5)] == [before / "checkpoint-1", now / "checkpoint-3", checkpoint, None]
    (before / "checkpoint-1" / "damaged").touch()
    assert best(1) is None
    folders(now, 4)
    assert best(4) == checkpoint, "not one of another run at that step"


@pytest.mark.parametrize(("load_best", "best_step", "expected"), [(False, 2, 4), (True, 2, 2), (True, None, 4)])
def test_a_finished_run_ends_with_its_best_or_last_weights(tmp_path, intact, load_best, best_step, expected):
    run = folders(tmp_path, 2, 4)
    state = TrainerState(global_step=4, best_global_step=best_step)
    args = SimpleNamespace(load_best_model_at_end=load_best, output_dir=run)
    assert final_weights(state, run / "checkpoint-4", args) == (run / f"checkpoint-{expected}", expected)
    assert state.best_model_checkpoint == (str(run / "checkpoint-2") if load_best and best_step else None)
    if expected == 2:
        (run / "checkpoint-2" / "damaged").touch()
        with pytest.raises(ValueError, match="best checkpoint of this finished run, of step 2, is not beside"):
            final_weights(state, run / "checkpoint-4", args)


def test_a_resumed_run_knows_its_best_checkpoint_or_none(tmp_path, intact):
    run = folders(tmp_path, 2, 4)
    state = TrainerState(global_step=4, best_global_step=2, best_metric=0.5)
    keep_best_checkpoint(state, run / "checkpoint-4", run)
    assert (state.best_model_checkpoint, state.best_global_step) == (str(run / "checkpoint-2"), 2)
    (run / "checkpoint-2" / "damaged").touch()
    keep_best_checkpoint(state, run / "checkpoint-4", run)
    assert (state.best_model_checkpoint, state.best_global_step, state.best_metric) == (None, None, None)


def test_the_newest_complete_checkpoint_of_a_run_or_the_one_that_is_named(tmp_path, intact, caplog):
    run, named = folders(tmp_path / "run", 2, 4, damaged=4), folders(tmp_path / "named", 7) / "checkpoint-7"
    for way in (True, "auto", run):
        assert find_checkpoint(way, run) == run / "checkpoint-2"
    assert find_checkpoint(named, run) == named
    assert find_checkpoint(None, run) is find_checkpoint(False, run) is None
    assert last_complete_checkpoint(run) == str(run / "checkpoint-2") and last_complete_checkpoint(tmp_path) is None
    with pytest.raises(ValueError, match=r"checkpoint-4: it is damaged\.$"):
        find_checkpoint(run / "checkpoint-4", run)
    assert f"Resuming from {run / 'checkpoint-2'}, not from checkpoint-4: it is damaged." in caplog.text
    (run / "checkpoint-2" / "damaged").touch()
    with pytest.raises(ValueError, match=r"checkpoint-4: it is damaged; checkpoint-2: it is damaged\.$"):
        find_checkpoint(True, run)
    assert find_checkpoint("auto", run) is None
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match="it contains no checkpoints"):
        find_checkpoint(True, tmp_path / "empty")
