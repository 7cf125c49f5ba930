"""The trainer's methods, one at a time and without training."""

from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from torch import nn
from torch.optim.lr_scheduler import MultiStepLR
from transformers import Trainer, TrainerState

from hf_face.training import FaceTrainer, FaceTrainingArguments, further_parts, safe_trainer, trainer
from hf_face.training.engine_trainer import EngineTrainer


def first_batch(trainer: FaceTrainer) -> dict[str, torch.Tensor]:
    return next(iter(trainer.get_train_dataloader()))


@pytest.mark.parametrize("device", ["cpu", "cuda"])
@pytest.mark.parametrize("asked_for", [True, False])
def test_images_stay_encoded_for_a_gpu_that_decodes_them(make_trainer, monkeypatch, device, asked_for):
    class Made(Exception):
        """The collator is made; what follows needs the device."""

    kept = []

    def collator(*given, keep_jpeg):
        kept.append(keep_jpeg)
        raise Made

    monkeypatch.setattr(FaceTrainingArguments, "device", torch.device(device))
    monkeypatch.setattr(trainer, "NumberedCollator", collator)
    with pytest.raises(Made):
        make_trainer(decode_on_device=asked_for)
    assert kept == [asked_for and device == "cuda"]


@pytest.mark.parametrize(
    ("checkpoints", "training", "requires_grad"),
    [(None, True, False), (True, True, True), (True, False, False), (False, True, False)],
)
def test_pixels_have_a_gradient_for_reentrant_checkpoints_only(make_trainer, checkpoints, training, requires_grad):
    settings = {} if checkpoints is None else {"gradient_checkpointing_kwargs": {"use_reentrant": checkpoints}}
    trainer = make_trainer(gradient_checkpointing=checkpoints is not None, **settings)
    trainer.model.train(training)
    assert trainer.prepare_batch(first_batch(trainer))["pixel_values"].requires_grad == requires_grad


@pytest.mark.parametrize(("splits", "moves"), [(False, True), (True, False)])
def test_a_new_model_moves_to_the_device_unless_an_engine_moves_it(make_trainer, monkeypatch, splits, moves):
    own = make_trainer()
    own.model_init = lambda: own.model
    monkeypatch.setattr(FaceTrainingArguments, "device", torch.device("meta"))
    for module in (trainer, further_parts):
        monkeypatch.setattr(module, "splits_weights", lambda accelerator: splits)
    assert own.call_model_init() is own.model
    assert own.model.head.weight.is_meta == moves


def test_a_card_is_checked_before_training_but_not_before_each_trial(make_trainer):
    own, calls = make_trainer(max_steps=0), []
    own.publisher.check_card = lambda: calls.append("checked")
    own.train(trial="a trial")
    assert calls == []
    assert own.train().global_step == 0 and calls == ["checked"]


def test_workers_of_a_stream_have_seeds_of_their_own(make_trainer, faces):
    loader = make_trainer(train_dataset=faces[0].to_iterable_dataset()).get_train_dataloader()
    assert loader.worker_init_fn is not None
    assert len(next(iter(loader))["labels"]) == 16  # a batch of the stream


def test_milestones_are_of_the_optimizer_that_is_given(make_trainer):
    own = make_trainer(lr_milestones=[0.25, 0.75])
    own.create_optimizer()
    schedule = own.create_scheduler(8)
    assert isinstance(schedule, MultiStepLR) and sorted(schedule.milestones) == [2, 6]
    assert schedule.optimizer is own.optimizer
    assert own._created_lr_scheduler, "for a second training to begin with another one"
    assert own.create_scheduler(100) is schedule
    other = torch.optim.SGD([nn.Parameter(torch.ones(1))], lr=1.0)
    own.lr_scheduler = None
    assert own.create_scheduler(8, other).optimizer is other


def test_the_backbone_to_publish_is_the_models_own_or_an_average(make_trainer):
    own = make_trainer()
    assert own.backbone is own.model.backbone and own.adapter is None
    own = make_trainer(ema_decay=0.5)
    own.ema.on_step_end(None, None, None)
    before = {name: weight.clone() for name, weight in own.model.backbone.state_dict().items()}
    with torch.no_grad():
        for weight in own.model.backbone.parameters():
            weight += 2
    own.ema.on_step_end(None, None, None)
    for name, weight in own.backbone.named_parameters():
        torch.testing.assert_close(weight, before[name] + 1)
        torch.testing.assert_close(own.model.backbone.get_parameter(name), before[name] + 2)


@pytest.mark.parametrize("internal", [True, False])
def test_a_checkpoint_is_the_whole_model_and_not_pushed(make_trainer, monkeypatch, tmp_path, internal):
    own, calls = make_trainer(), []
    monkeypatch.setattr(EngineTrainer, "save_model", lambda self, folder, **given: calls.append((folder, given)))
    own.further_parts.save = lambda folder: calls.append(folder)
    own.save_model(tmp_path / "saved", internal)
    if internal:
        assert calls == [(str(tmp_path / "saved"), {"_internal_call": True}), tmp_path / "saved"]
    else:
        assert calls == [] and (tmp_path / "saved" / "preprocessor_config.json").is_file()
        own.save_model()
        assert (Path(own.args.output_dir) / "config.json").is_file()


@pytest.mark.parametrize(("given", "expected"), [(None, "set"), ("given", "given")])
@pytest.mark.parametrize(("private", "expected_private"), [(None, True), (False, False)])
def test_a_push_is_as_set_unless_it_is_told_otherwise(make_trainer, given, expected, private, expected_private):
    own = make_trainer(hub_token="set", hub_revision="set", hub_private_repo=True)
    own.publisher.push = lambda include_head, **named: (include_head, named)
    named = {"commit_message": "mine", "token": expected, "revision": expected, "private": expected_private}
    pushed = own.push_to_hub("mine", token=given, revision=given, private=private)
    assert pushed == (False, named)


@pytest.mark.parametrize(
    ("settings", "step", "finished"),
    [
        ({"max_steps": 4}, 3, False),
        ({"max_steps": 4}, 4, True),
        ({"max_steps": 4}, 5, True),
        ({"max_steps": -1, "num_train_epochs": 1}, 17, False),
        ({"max_steps": -1, "num_train_epochs": 1}, 18, True),
    ],
)
def test_a_run_is_finished_at_its_last_step(make_trainer, monkeypatch, tmp_path, settings, step, finished):
    own, loaded = make_trainer(**settings), []
    TrainerState(global_step=step).save_to_json(str(tmp_path / "trainer_state.json"))
    monkeypatch.setattr(safe_trainer, "final_weights", lambda state, checkpoint, args: (Path("best"), 2))
    own._load_from_checkpoint = loaded.append
    own.further_parts.load = loaded.append
    assert own._load_finished(tmp_path) == finished
    assert loaded == (["best", Path("best")] if finished else [])
    assert (own.state.global_step, own.publisher.weights_step) == ((step, 2) if finished else (0, 0))


@pytest.mark.parametrize(("scaler", "norm"), [(None, 3.0), ("a scaler", None)])
def test_a_gradient_that_is_scaled_may_be_infinite(make_trainer, scaler, norm):
    own, checked = make_trainer(), []
    own.accelerator = SimpleNamespace(scaler=scaler, distributed_type="NO")
    own.divergence = SimpleNamespace(check=lambda trainer, norm: checked.append(norm))
    assert own._get_grad_norm(own.model, 3.0) == 3.0
    assert checked == [norm]


def test_no_weights_are_counted_in_a_step(make_trainer):
    assert make_trainer().floating_point_ops({}) == 0


@pytest.mark.parametrize(
    ("objective", "direction", "expected"),
    [(None, None, "maximize"), (None, "minimize", "minimize"), (len, None, "minimize"), (len, "maximize", "maximize")],
)
def test_a_search_has_an_objective_and_a_direction(make_trainer, monkeypatch, objective, direction, expected):
    monkeypatch.setattr(
        Trainer, "hyperparameter_search", lambda self, space, objective, number, way, **given: (objective, number, way)
    )
    found, number, way = make_trainer().hyperparameter_search(None, objective, direction=direction)
    assert (number, way) == (20, expected)
    assert found({"eval_orl_accuracy": 0.75}) == (0.75 if objective is None else 1)
