"""What the Trainer's arguments on logging, evaluating, saving and resuming do; a test is marked with those it shows."""

import os
import signal
import sys
from types import ModuleType, SimpleNamespace

import pytest
from transformers import EarlyStoppingCallback, TrainerCallback
from transformers.utils import logging

from hf_face import FaceTrainingArguments
from hf_face.hub import FaceModelCardData, TrainingData
from hf_face.training import TrainingInterrupted


def losses(trainer) -> list[float]:
    return [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]


def steps(trainer, key: str) -> list[int]:
    return [entry["step"] for entry in trainer.state.log_history if key in entry]


@pytest.mark.shows("logging_steps", "logging_first_step", "logging_strategy")
def test_what_is_logged_when(make_trainer):
    trainer = make_trainer(max_steps=5, logging_steps=2, logging_first_step=True)
    trainer.train()
    assert steps(trainer, "loss") == [1, 2, 4]
    trainer = make_trainer(max_steps=5, logging_strategy="no")
    trainer.train()
    assert steps(trainer, "loss") == []


@pytest.mark.shows("log_level", "log_level_replica", "log_on_each_node", "disable_tqdm")
def test_levels_of_logging(make_trainer, monkeypatch):
    monkeypatch.setattr(logging, "set_verbosity", lambda level: levels.append(level))
    levels: list[int] = []
    trainer = make_trainer(log_level="error", log_level_replica="critical", log_on_each_node=False, disable_tqdm=False)
    assert levels[0] == logging.ERROR
    assert any(type(each).__name__.endswith("ProgressCallback") for each in trainer.callback_handler.callbacks)
    monkeypatch.setattr(FaceTrainingArguments, "process_index", 1)
    assert trainer.args.get_process_log_level() == logging.CRITICAL


@pytest.mark.shows(
    "report_to", "run_name", "project", "trackio_space_id", "trackio_bucket_id", "trackio_static_space_id"
)
def test_where_to_log_to(make_trainer, tmp_path, monkeypatch):
    make_trainer(max_steps=1, report_to="tensorboard", logging_steps=1).train()
    assert list((tmp_path / "run").rglob("events.out.tfevents*"))
    trackio, started = ModuleType("trackio"), []
    trackio.init = lambda **settings: started.append(settings)
    trackio.config, trackio.log, trackio.finish = {}, lambda *_: None, lambda: None
    trackio.context_vars = SimpleNamespace(current_space_id=SimpleNamespace(get=lambda: None))
    trackio.config = type("Config", (dict,), {"update": lambda *_, **__: None})()
    monkeypatch.setitem(sys.modules, "trackio", trackio)
    monkeypatch.setattr("transformers.integrations.integration_utils.is_trackio_available", lambda: True)
    names = {"project": "faces", "run_name": "first", "trackio_space_id": "a/b", "trackio_bucket_id": "c/d"}
    trainer = make_trainer(max_steps=1, report_to="trackio", trackio_static_space_id=False, **names)
    trainer.train()
    assert trainer.args.trackio_static_space_id is False
    assert started[0] | {"project": "faces", "name": "first", "space_id": "a/b", "bucket_id": "c/d"} == started[0]


@pytest.mark.shows("eval_delay", "eval_on_start")
def test_when_protocols_run(make_trainer):
    trainer = make_trainer(max_steps=3, eval_strategy="steps", eval_steps=1, eval_delay=2, eval_on_start=True)
    trainer.train()
    assert steps(trainer, "eval_orl_accuracy") == [0, 2, 3]


@pytest.mark.shows("save_only_model", "save_total_limit", "save_on_each_node")
def test_what_is_kept_of_checkpoints(make_trainer, tmp_path):
    trainer = make_trainer(save_strategy="steps", save_steps=1, save_total_limit=2, save_only_model=True)
    trainer.train()
    kept = sorted((tmp_path / "run").glob("checkpoint-*"))
    assert [each.name for each in kept] == ["checkpoint-3", "checkpoint-4"]
    assert not (kept[0] / "optimizer.pt").exists()
    assert make_trainer(save_on_each_node=True).args.should_save


class SendSignal(TrainerCallback):
    """Sends SIGTERM to this process in the middle of a step."""

    def __init__(self, step: int):
        self.step = step

    def on_step_begin(self, args, state, control, **kwargs):
        if state.global_step + 1 == self.step:
            os.kill(os.getpid(), signal.SIGTERM)


@pytest.mark.shows("enable_jit_checkpoint")
def test_a_checkpoint_is_saved_when_the_run_is_to_stop(make_trainer, tmp_path):
    # With a fused optimizer, the host looks at a step after the next.
    trainer = make_trainer(enable_jit_checkpoint=True, eval_dataset=None, optim="adamw_torch")
    trainer.add_callback(SendSignal(step=3))
    with pytest.raises(TrainingInterrupted) as stopped:
        trainer.train()
    assert stopped.value.code == 75 and stopped.value.checkpoint == tmp_path / "run" / "checkpoint-3"
    resumed = make_trainer(eval_dataset=None, optim="adamw_torch")
    resumed.train(resume_from_checkpoint="auto")
    assert resumed.state.global_step == 4


@pytest.mark.shows("push_to_hub", "hub_token", "hub_private_repo")
def test_the_repository_is_made_with_a_token(make_trainer, hub, monkeypatch):
    monkeypatch.delenv("HF_TOKEN")
    card = FaceModelCardData(license="mit", training_data=[TrainingData("ORL", "free for research")])
    settings = {"push_to_hub": True, "hub_model_id": "alice/private", "hub_private_repo": True}
    trainer = make_trainer(parameters={"card": card}, hub_token=hub.token, **settings)
    assert trainer.publisher.api.repo_info("alice/private").private


@pytest.mark.shows("restore_callback_states_from_checkpoint")
def test_callbacks_go_on_from_their_state(make_trainer, tmp_path):
    settings = {"eval_strategy": "steps", "eval_steps": 1, "save_strategy": "steps", "save_steps": 1}
    settings |= {"load_best_model_at_end": True, "restore_callback_states_from_checkpoint": True}
    make_trainer(max_steps=2, parameters={"callbacks": [EarlyStoppingCallback(5)]}, **settings).train()
    stopping = EarlyStoppingCallback(1)
    trainer = make_trainer(max_steps=3, parameters={"callbacks": [stopping]}, **settings)
    trainer.train(resume_from_checkpoint=True)
    (restored,) = [each for each in trainer.callback_handler.callbacks if isinstance(each, EarlyStoppingCallback)]
    assert restored.early_stopping_patience == 5


@pytest.mark.shows("do_train", "do_eval", "local_rank")
def test_flags_of_scripts_change_nothing(make_trainer):
    """Trainer does not read them: scripts/train.py trains and, with protocols, evaluates."""
    trainer, plain = make_trainer(max_steps=1, do_train=True, do_eval=True, local_rank=0), make_trainer(max_steps=1)
    trainer.train()
    plain.train()
    assert losses(trainer) == losses(plain)


@pytest.mark.shows("callbacks")
def test_callbacks_are_called(make_trainer):
    class Counting(TrainerCallback):
        steps = 0

        def on_step_end(self, args, state, control, **kwargs):
            self.steps += 1

    counting = Counting()
    make_trainer(max_steps=3, parameters={"callbacks": [counting]}).train()
    assert counting.steps == 3
