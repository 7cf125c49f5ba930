"""Which checkpoint a run resumes from: one rule for every way to say it."""

import math
from pathlib import Path

import pytest

from hf_face.training import find_checkpoint


@pytest.fixture
def run(make_trainer) -> Path:
    """A run of four steps with its checkpoints 2 and 4."""
    trainer = make_trainer(max_steps=4, save_strategy="steps", save_steps=2)
    trainer.train()
    return Path(trainer.args.output_dir)


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
    losses = []
    for way in (run / "checkpoint-2", str(run / "checkpoint-2")):
        trainer = make_trainer(max_steps=4)
        trainer.train(resume_from_checkpoint=way)
        losses.append([entry["loss"] for entry in trainer.state.log_history if "loss" in entry])
    assert losses[0] == losses[1] and len(losses[0]) == 4
