"""
Every argument of transformers' Trainer works or is refused: the table, and what shows each line of it.

A test is marked with the arguments that it shows to work; others are shown elsewhere. `docs/trainer_arguments.md` is
made of this: `python tests/training/test_trainer_arguments.py`.
"""

import ast
import inspect
import os
import re
import signal
import sys
from dataclasses import fields
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import ModuleType, SimpleNamespace

import pytest
import torch
from transformers import EarlyStoppingCallback, Trainer, TrainerCallback, TrainingArguments, default_data_collator
from transformers.utils import logging

from hf_face import FaceRecognitionModel, FaceTrainer, FaceTrainingArguments
from hf_face.hub import FaceModelCardData, TrainingData
from hf_face.training import MarginSoftmax, TrainingInterrupted
from hf_face.training.evaluating import build_embedder
from hf_face.training.refused import PARAMETERS, SETTINGS, check_settings

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs" / "trainer_arguments.md"
METHODS = ("__init__", "train", "evaluate", "predict", "hyperparameter_search")
NEEDS = {  # what is missing here, so that only what Trainer is handed is shown
    "tf32": "a GPU, where transformers refuses it",
    "fp16": "a GPU",
    "optim_target_modules": "galore-torch and apollo-torch; refused with other optimizers",
    "ddp_backend": "several processes",
    "ddp_bucket_cap_mb": "several processes",
    "ddp_broadcast_buffers": "several processes",
    "ddp_find_unused_parameters": "several processes",
    "ddp_static_graph": "several processes",
    "ddp_timeout": "several processes",
    "log_on_each_node": "several machines",
    "save_on_each_node": "several machines",
    "log_level_replica": "several processes",
    "project": "trackio, with a stand-in",
    "trackio_space_id": "trackio, with a stand-in",
    "trackio_bucket_id": "trackio, with a stand-in",
    "trackio_static_space_id": "trackio, with a stand-in",
    "backend": "optuna, with a stand-in",
}
PARTLY = {"debug": "`underflow_overflow` works", "train_sampling_strategy": "`random` and `sequential` work"}
INPUTS = "test_trainer_inputs.py"
ELSEWHERE = {
    "output_dir": "test_divergence.py::test_a_run_stops_in_the_step_where_it_diverges",
    "per_device_train_batch_size": "test_trainer.py::test_accumulated_batches_step_like_one_large_batch",
    "gradient_accumulation_steps": "test_trainer.py::test_accumulated_batches_step_like_one_large_batch",
    "num_train_epochs": "test_trainer.py::test_a_finished_run_is_not_trained_further",
    "max_steps": f"{INPUTS}::test_no_steps_train_nothing",
    "learning_rate": "test_divergence.py::test_a_learning_rate_without_bounds_is_noticed",
    "lr_scheduler_type": "test_trainer.py::test_schedules_warm_up_and_come_down",
    "warmup_steps": "test_trainer.py::test_schedules_warm_up_and_come_down",
    "optim": "test_trainer.py::test_sgd_on_a_gpu_decays_weights_without_a_copy_of_the_gradient",
    "optim_args": "test_trainer.py::test_sgd_on_a_gpu_decays_weights_without_a_copy_of_the_gradient",
    "weight_decay": "test_trainer.py::test_the_class_centers_have_their_own_learning_rate_and_weight_decay",
    "max_grad_norm": "test_divergence.py::test_a_run_stops_in_the_step_where_it_diverges",
    "bf16": "test_trainer.py::test_ways_to_run_that_change_speed_and_memory_only",
    "fp16": "test_trainer.py::test_a_launcher_that_settings_cannot_work_with_is_refused",
    "gradient_checkpointing": "test_trainer.py::test_ways_to_run_that_change_speed_and_memory_only",
    "gradient_checkpointing_kwargs": f"{INPUTS}::test_adapters_learn_with_checkpointed_gradients",
    "eval_strategy": "test_trainer.py::test_evaluation_gives_verification_metrics_to_choose_the_best_model_by",
    "eval_steps": "test_trainer.py::test_evaluation_gives_verification_metrics_to_choose_the_best_model_by",
    "save_strategy": f"{INPUTS}::test_a_metric_knows_its_direction",
    "save_steps": "test_trainer.py::test_a_resumed_run_repeats_the_uninterrupted_one_exactly",
    "load_best_model_at_end": f"{INPUTS}::test_the_best_model_has_the_smallest_error",
    "metric_for_best_model": f"{INPUTS}::test_a_metric_knows_its_direction",
    "greater_is_better": f"{INPUTS}::test_a_metric_knows_its_direction",
    "ignore_data_skip": "test_streaming_training.py::"
    "test_a_checkpoint_of_another_number_of_workers_is_refused_unless_data_is_not_to_be_skipped",
    "seed": f"{INPUTS}::test_the_draws_of_partial_fc_follow_the_seed",
    "use_cpu": f"{INPUTS}::test_transformers_arguments_are_converted",
    "dataloader_drop_last": f"{INPUTS}::test_a_last_batch_of_one_image_is_refused_where_batch_norm_would_fail",
    "hub_model_id": "../hub/test_trainer.py::test_a_run_becomes_a_published_model_with_its_own_figures",
    "hub_strategy": "../hub/test_trainer.py::test_each_checkpoint_is_one_commit_with_model_and_card",
    "hub_always_push": "../hub/test_trainer.py::test_training_goes_on_while_a_checkpoint_is_sent",
    "hub_revision": "../hub/test_trainer.py::test_a_branch_is_made_before_training",
    "fsdp": "test_engines_head.py::test_every_engine_trains_as_plain_data_parallelism",
    "fsdp_config": "test_engines.py::test_fsdp_that_leaves_loading_to_one_rank_is_refused",
    "deepspeed": "test_engines_head.py::test_every_engine_trains_as_plain_data_parallelism",
    "resume_from_checkpoint": "test_trainer.py::test_a_resumed_run_repeats_the_uninterrupted_one_exactly",
    "logging_nan_inf_filter": "test_divergence.py::test_a_run_stops_in_the_step_where_it_diverges",
    "model": f"{INPUTS}::test_a_backbone_alone_is_told_how_to_get_a_head",
    "args": f"{INPUTS}::test_transformers_arguments_are_converted",
    "train_dataset": f"{INPUTS}::test_people_are_taken_as_load_identities_takes_them",
    "eval_dataset": f"{INPUTS}::test_protocols_have_the_names_of_their_keys",
    "processing_class": f"{INPUTS}::test_the_image_processor_has_two_names_and_the_collator_none",
    "metric_key_prefix": f"{INPUTS}::test_one_protocol_is_run_by_its_name",
    "test_dataset": f"{INPUTS}::test_predictions_are_embeddings",
}
SHOWN: dict[str, str] = {}


def shows(*names: str):
    """Mark the test that shows arguments to work."""

    def mark(test):
        SHOWN.update(dict.fromkeys(names, f"{Path(__file__).name}::{test.__name__}"))
        return test

    return mark


def losses(trainer) -> list[float]:
    return [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]


def steps(trainer, key: str) -> list[int]:
    return [entry["step"] for entry in trainer.state.log_history if key in entry]


# Settings


@shows("lr_scheduler_kwargs")
def test_a_schedule_takes_arguments(make_trainer):
    trainer = make_trainer(lr_scheduler_type="cosine_with_min_lr", lr_scheduler_kwargs={"min_lr": 0.005})
    trainer.train()
    assert trainer.lr_scheduler.get_last_lr()[0] == pytest.approx(0.005)


@shows("adam_beta1", "adam_beta2", "adam_epsilon")
def test_adam_has_its_settings(make_trainer):
    optimizer = make_trainer(adam_beta1=0.5, adam_beta2=0.6, adam_epsilon=0.1).create_optimizer()
    assert {(*group["betas"], group["eps"]) for group in optimizer.param_groups} == {(0.5, 0.6, 0.1)}


@shows("bf16_full_eval", "fp16_full_eval")
@pytest.mark.parametrize(("name", "dtype"), [("bf16_full_eval", torch.bfloat16), ("fp16_full_eval", torch.float16)])
def test_evaluation_in_half_precision(make_trainer, faces, name, dtype):
    people = faces[0].select(range(3))
    trainer = make_trainer(**{name: True})
    pixels = trainer.processing_class(list(people["image"]), return_tensors="pt").pixel_values
    found, whole = trainer.predict(people).predictions, make_trainer().predict(people).predictions
    assert 1e-6 < abs(found - whole).max() < 0.05
    assert {weight.dtype for weight in trainer.model.parameters()} == {torch.float32}
    assert build_embedder(trainer, flip=False).model(pixels.to(dtype)).norm.dtype in (dtype, torch.float32)
    assert trainer.train().global_step == 4


@shows("tf32")
def test_tf32_is_for_gpus(tmp_path):
    FaceTrainingArguments(str(tmp_path), use_cpu=True, tf32=False)
    if not torch.cuda.is_available():
        with pytest.raises(ValueError, match="tf32 requires Ampere"):
            FaceTrainingArguments(str(tmp_path), use_cpu=True, tf32=True)


@shows("activation_checkpointing", "activation_checkpointing_kwargs")
def test_activations_are_computed_again(make_trainer):
    known = {each.name for each in fields(TrainingArguments)}
    name = "activation_checkpointing" if "activation_checkpointing" in known else "gradient_checkpointing"
    plain = make_trainer(max_steps=2)
    other = make_trainer(max_steps=2, **{name: True, f"{name}_kwargs": {"use_reentrant": True}})
    calls = []
    other.model.backbone.model.blocks[0].register_forward_pre_hook(lambda *_: calls.append(1))
    plain.train()
    other.train()
    assert losses(other) == pytest.approx(losses(plain), rel=1e-4)
    assert len(calls) == 4  # twice a step


@shows("torch_compile", "torch_compile_backend", "torch_compile_mode")
def test_the_model_is_compiled(make_trainer):
    trainer = make_trainer(max_steps=1, torch_compile=True, torch_compile_backend="eager", torch_compile_mode="default")
    trainer.train()
    plugin = trainer.accelerator.state.dynamo_plugin
    assert (plugin.backend.value.lower(), plugin.mode) == ("eager", "default")
    assert isinstance(trainer.model_wrapped, torch._dynamo.OptimizedModule)


@shows("torch_empty_cache_steps")
def test_the_cache_is_emptied(make_trainer, monkeypatch):
    calls = []
    monkeypatch.setattr("transformers.trainer.clear_device_cache", lambda: calls.append(1))
    make_trainer(max_steps=4, torch_empty_cache_steps=2).train()
    assert len(calls) == 2


class OutOfMemory(MarginSoftmax):
    def losses(self, model, batch):
        if len(batch["labels"]) > 8:
            raise RuntimeError("CUDA out of memory.")
        return super().losses(model, batch)


@shows("auto_find_batch_size")
def test_a_batch_size_is_found(make_trainer):
    trainer = make_trainer(method=OutOfMemory(), auto_find_batch_size=True, max_steps=2, per_device_train_batch_size=9)
    trainer.train()
    assert trainer._train_batch_size <= 8
    assert trainer.state.global_step == 2


@shows("logging_steps", "logging_first_step", "logging_strategy")
def test_what_is_logged_when(make_trainer):
    trainer = make_trainer(max_steps=5, logging_steps=2, logging_first_step=True)
    trainer.train()
    assert steps(trainer, "loss") == [1, 2, 4]
    trainer = make_trainer(max_steps=5, logging_strategy="no")
    trainer.train()
    assert steps(trainer, "loss") == []


@shows("log_level", "log_level_replica", "log_on_each_node", "disable_tqdm")
def test_levels_of_logging(make_trainer, monkeypatch):
    monkeypatch.setattr(logging, "set_verbosity", lambda level: levels.append(level))
    levels: list[int] = []
    trainer = make_trainer(log_level="error", log_level_replica="critical", log_on_each_node=False, disable_tqdm=False)
    assert levels[0] == logging.ERROR
    assert any(type(each).__name__.endswith("ProgressCallback") for each in trainer.callback_handler.callbacks)
    monkeypatch.setattr(FaceTrainingArguments, "process_index", 1)
    assert trainer.args.get_process_log_level() == logging.CRITICAL


@shows("report_to", "run_name", "project", "trackio_space_id", "trackio_bucket_id", "trackio_static_space_id")
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


@shows("eval_delay", "eval_on_start")
def test_when_protocols_run(make_trainer):
    trainer = make_trainer(max_steps=3, eval_strategy="steps", eval_steps=1, eval_delay=2, eval_on_start=True)
    trainer.train()
    assert steps(trainer, "eval_orl_accuracy") == [0, 2, 3]


@shows("per_device_eval_batch_size")
def test_protocols_embed_in_batches(make_trainer):
    trainer = make_trainer(per_device_eval_batch_size=20)
    sizes = []
    trainer.model.backbone.register_forward_pre_hook(
        lambda module, args, kwargs: sizes.append(len(kwargs["pixel_values"])), with_kwargs=True
    )
    trainer.evaluate()
    assert set(sizes) == {20}


@shows("save_only_model", "save_total_limit", "save_on_each_node")
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


@shows("enable_jit_checkpoint")
def test_a_checkpoint_is_saved_when_the_run_is_to_stop(make_trainer, tmp_path):
    trainer = make_trainer(enable_jit_checkpoint=True, eval_dataset=None)
    trainer.add_callback(SendSignal(step=3))
    with pytest.raises(TrainingInterrupted) as stopped:
        trainer.train()
    assert stopped.value.code == 75 and stopped.value.checkpoint == tmp_path / "run" / "checkpoint-3"
    resumed = make_trainer(eval_dataset=None)
    resumed.train(resume_from_checkpoint="auto")
    assert resumed.state.global_step == 4


@shows("push_to_hub", "hub_token", "hub_private_repo")
def test_the_repository_is_made_with_a_token(make_trainer, hub, monkeypatch):
    monkeypatch.delenv("HF_TOKEN")
    card = FaceModelCardData(license="mit", training_data=[TrainingData("ORL", "free for research")])
    settings = {"push_to_hub": True, "hub_model_id": "alice/private", "hub_private_repo": True}
    trainer = make_trainer(parameters={"card": card}, hub_token=hub.token, **settings)
    assert trainer.publisher.api.repo_info("alice/private").private


@shows("restore_callback_states_from_checkpoint")
def test_callbacks_go_on_from_their_state(make_trainer, tmp_path):
    settings = {"eval_strategy": "steps", "eval_steps": 1, "save_strategy": "steps", "save_steps": 1}
    settings |= {"load_best_model_at_end": True, "restore_callback_states_from_checkpoint": True}
    make_trainer(max_steps=2, parameters={"callbacks": [EarlyStoppingCallback(5)]}, **settings).train()
    stopping = EarlyStoppingCallback(1)
    trainer = make_trainer(max_steps=3, parameters={"callbacks": [stopping]}, **settings)
    trainer.train(resume_from_checkpoint=True)
    (restored,) = [each for each in trainer.callback_handler.callbacks if isinstance(each, EarlyStoppingCallback)]
    assert restored.early_stopping_patience == 5


@shows("full_determinism")
def test_only_deterministic_operations(make_trainer, monkeypatch):
    calls = []
    monkeypatch.setattr("transformers.trainer.enable_full_determinism", calls.append)
    make_trainer(full_determinism=True, seed=7)
    assert calls == [7]


@shows("data_seed", "accelerator_config")
def test_the_order_of_the_images_has_a_seed_of_its_own(make_trainer):
    def first(**settings):
        return next(iter(make_trainer(**settings).get_train_dataloader()))["rows"].tolist()

    assert first(data_seed=1) == first(data_seed=1, seed=5) != first(data_seed=2)
    assert make_trainer(accelerator_config={"split_batches": True}).accelerator.split_batches


@shows(
    "dataloader_num_workers",
    "dataloader_pin_memory",
    "dataloader_persistent_workers",
    "dataloader_prefetch_factor",
    "dataloader_multiprocessing_context",
    "dataloader_in_order",
)
def test_workers_read_ahead(make_trainer, people_stream):
    settings = {"num_workers": 1, "pin_memory": False, "persistent_workers": True, "prefetch_factor": 3}
    settings |= {"multiprocessing_context": "fork", "in_order": False}
    settings = {f"dataloader_{name}": value for name, value in settings.items()}
    trainer, plain = make_trainer(max_steps=2, **settings), make_trainer(max_steps=2)
    loader = trainer.get_train_dataloader()
    assert (loader.num_workers, loader.pin_memory, loader.persistent_workers) == (1, False, True)
    assert (loader.prefetch_factor, loader.in_order) == (3, False)
    assert loader.multiprocessing_context.get_start_method() == "fork"
    trainer.train()
    plain.train()
    assert losses(trainer) == losses(plain)
    with pytest.raises(ValueError, match="dataloader_in_order=False does not work with a stream"):
        make_trainer(train_dataset=people_stream, dataloader_in_order=False)
    with pytest.raises(ValueError, match="split_batches does not work with a stream"):
        make_trainer(train_dataset=people_stream, accelerator_config={"split_batches": True})


@pytest.fixture
def people_stream(faces):
    return faces[0].to_iterable_dataset()


@shows("remove_unused_columns")
def test_columns_that_nothing_reads(make_trainer, faces):
    more = faces[0].add_column("more", ["text"] * len(faces[0]))
    trainer, plain = make_trainer(train_dataset=more, remove_unused_columns=True), make_trainer()
    trainer.train()
    plain.train()
    assert losses(trainer) == losses(plain)


@shows(
    "ddp_find_unused_parameters",
    "ddp_bucket_cap_mb",
    "ddp_broadcast_buffers",
    "ddp_static_graph",
    "ddp_backend",
    "ddp_timeout",
)
def test_data_parallelism_has_its_settings(make_trainer, tmp_path, monkeypatch):
    settings = {"find_unused_parameters": True, "bucket_cap_mb": 7, "broadcast_buffers": False, "static_graph": True}
    trainer = make_trainer(**{f"ddp_{name}": value for name, value in settings.items()}, ddp_timeout=60)
    handler = trainer.accelerator.ddp_handler
    assert {name: getattr(handler, name) for name in settings} == settings
    assert trainer.args.ddp_timeout_delta.seconds == 60
    started = []
    monkeypatch.setattr("transformers.training_args.PartialState", lambda **kwargs: started.append(kwargs))
    with pytest.raises(AttributeError):  # of the state that is not there
        TrainingArguments(str(tmp_path), use_cpu=True, ddp_backend="gloo")
    assert started[0]["backend"] == "gloo"


@shows("skip_memory_metrics")
def test_memory_is_measured(make_trainer):
    trainer = make_trainer(max_steps=1, skip_memory_metrics=False)
    assert "train_mem_cpu_alloc_delta" in trainer.train().metrics
    assert "eval_mem_cpu_alloc_delta" in trainer.evaluate()


@shows("do_train", "do_eval", "local_rank")
def test_flags_of_scripts_change_nothing(make_trainer):
    """Trainer does not read them: scripts/train.py trains and, with protocols, evaluates."""
    trainer, plain = make_trainer(max_steps=1, do_train=True, do_eval=True, local_rank=0), make_trainer(max_steps=1)
    trainer.train()
    plain.train()
    assert losses(trainer) == losses(plain)


@shows("optim_target_modules")
def test_modules_are_chosen_by_some_optimizers_only(tmp_path):
    FaceTrainingArguments(str(tmp_path), use_cpu=True, optim="galore_adamw", optim_target_modules=["qkv"])
    with pytest.raises(ValueError, match=r"optim_target_modules=.* only GaLore and APOLLO choose modules"):
        FaceTrainingArguments(str(tmp_path), use_cpu=True, optim_target_modules=["qkv"])


@shows("debug", "train_sampling_strategy")
def test_values_that_work_of_settings_that_are_refused_otherwise(make_trainer):
    trainer = make_trainer(max_steps=1, debug="underflow_overflow", train_sampling_strategy="sequential")
    assert next(iter(trainer.get_train_dataloader()))["rows"].tolist() == list(range(16))
    trainer.train()


# Parameters


@shows("callbacks")
def test_callbacks_are_called(make_trainer):
    class Counting(TrainerCallback):
        steps = 0

        def on_step_end(self, args, state, control, **kwargs):
            self.steps += 1

    counting = Counting()
    make_trainer(max_steps=3, parameters={"callbacks": [counting]}).train()
    assert counting.steps == 3


@shows("optimizers")
def test_a_ready_optimizer_is_used(make_trainer):
    model = make_trainer().model
    optimizer = torch.optim.SGD(model.parameters(), lr=0.5, momentum=0.9)
    parameters = {"model": model, "optimizers": (optimizer, None)}
    trainer = make_trainer(max_steps=1, parameters=parameters, partial_fc_sample_rate=0.5)
    before = model.head.weight.detach().clone()
    trainer.train()
    assert trainer.optimizer.optimizer is optimizer
    changed = (model.head.weight != before).any(1)
    assert 0 < changed.sum() < len(changed)  # sampled rows only
    for name in ("head_learning_rate", "head_weight_decay"):
        with pytest.raises(ValueError, match=f"{name} has no effect on optimizers="):
            make_trainer(parameters=parameters, **{name: 0.1})


def test_the_learning_rate_is_divided_at_milestones(make_trainer):
    trainer = make_trainer(max_steps=8, learning_rate=0.01, lr_milestones=[0.25, 0.75])
    trainer.train()
    rates = [entry["learning_rate"] for entry in trainer.state.log_history if "learning_rate" in entry]
    assert rates == pytest.approx([0.01] * 2 + [0.001] * 4 + [0.0001] * 2)
    with pytest.raises(ValueError, match=r"lr_milestones must be shares between 0 and 1, found \[12.0\]"):
        make_trainer(lr_milestones=[12.0])
    with pytest.raises(ValueError, match="lr_milestones is a schedule without warm-up"):
        make_trainer(lr_milestones=[0.5], warmup_steps=2)


@shows("optimizer_cls_and_kwargs")
def test_a_class_of_optimizers_is_used(make_trainer):
    parameters = {"optimizer_cls_and_kwargs": (torch.optim.SGD, {"lr": 0.25})}
    optimizer = make_trainer(parameters=parameters, head_learning_rate=0.5).create_optimizer()
    assert isinstance(optimizer, torch.optim.SGD)
    assert {group["lr"] for group in optimizer.param_groups} == {0.25, 0.5}


@shows("model_init")
def test_each_training_has_a_fresh_model(make_trainer):
    config = make_trainer().model.config
    parameters = {"model": None, "model_init": lambda: FaceRecognitionModel(config)}
    trainer = make_trainer(parameters=parameters, ema_decay=0.5, head_learning_rate=0.5, channels_last=True)
    trainer.train()
    first, model = losses(trainer), trainer.model
    trainer.train()
    assert losses(trainer) == first
    assert trainer.model is not model
    assert trainer.model.method is trainer.method and trainer.class_centers.head is trainer.model.head
    assert trainer.ema.model is trainer.model
    assert sum(type(each).__name__ == "WeightAverage" for each in trainer.callback_handler.callbacks) == 1
    with pytest.raises(ValueError, match="optimizers= hold the weights of one model: with model_init="):
        make_trainer(parameters=parameters | {"optimizers": (torch.optim.SGD(model.parameters()), None)})


class Trial(SimpleNamespace):
    """Stands in for optuna's."""


class Study:
    """Stands in for optuna's: two trials."""

    def __init__(self, direction, **settings):
        self.direction, self.trials = direction, []

    def optimize(self, objective, n_trials, **settings):
        for number in range(n_trials):
            trial = Trial(number=number, params={"learning_rate": 0.0 if number else 0.01})
            trial.value = objective(trial)
            self.trials.append(trial)

    def _is_multi_objective(self):
        return False

    @property
    def best_trial(self):
        choose = max if self.direction == "maximize" else min
        return choose(self.trials, key=lambda trial: trial.value)


@shows("hp_space", "compute_objective", "n_trials", "direction", "backend", "hp_name", "trial", "kwargs")
def test_settings_are_searched_for(make_trainer, monkeypatch, tmp_path):
    studies: list[Study] = []
    optuna = ModuleType("optuna")
    optuna.__spec__ = ModuleSpec("optuna", None)
    optuna.Trial, optuna.TrialPruned, optuna.trial = Trial, StopIteration, SimpleNamespace(BaseTrial=Trial)
    optuna.create_study = lambda **settings: studies.append(Study(**settings)) or studies[-1]
    monkeypatch.setitem(sys.modules, "optuna", optuna)
    monkeypatch.setattr("transformers.hyperparameter_search.OptunaBackend.is_available", lambda *_: True)
    config, rates = make_trainer().model.config, []
    trainer = make_trainer(
        parameters={"model": None, "model_init": lambda trial: FaceRecognitionModel(config)},
        max_steps=2,
        save_strategy="steps",
        save_steps=2,
    )

    def space(trial):
        return {**trial.params, "ema_decay": 0.5, "partial_fc_sample_rate": 0.5, "optim": "sgd"}

    trainer.add_callback(
        SimpleCallback(lambda: rates.append((trainer.args.learning_rate, trainer.model.head.sample_rate, trainer.ema)))
    )
    best = trainer.hyperparameter_search(
        hp_space=space, n_trials=2, backend="optuna", hp_name=lambda trial: f"trial-{trial.number}"
    )
    assert [(rate, sampled) for rate, sampled, _ in rates] == [(0.01, 0.5), (0.0, 0.5)]
    assert rates[0][2] is not rates[1][2]
    assert studies[0].direction == "maximize"  # accuracy, the primary metric of the first protocol
    assert best.objective == max(trial.value for trial in studies[0].trials) <= 1
    assert (tmp_path / "run" / "trial-1" / "checkpoint-2").is_dir()
    trainer.hyperparameter_search(space, lambda metrics: metrics["eval_orl_eer"], n_trials=1, backend="optuna")
    assert studies[1].direction == "minimize"
    trainer.hyperparameter_search(
        space, compute_objective=lambda metrics: 1.0, direction="maximize", n_trials=1, backend="optuna"
    )
    assert studies[2].direction == "maximize"


class SimpleCallback(TrainerCallback):
    def __init__(self, call):
        self.call = call

    def on_train_begin(self, args, state, control, **kwargs):
        self.call()


# What is refused

REFUSED_VALUES = {
    "average_tokens_across_devices": False,
    "debug": "tpu_metrics_debug",
    "eval_do_concat_batches": False,
    "eval_accumulation_steps": 2,
    "include_for_metrics": ["inputs"],
    "label_names": ["who"],
    "label_smoothing_factor": 0.3,
    "length_column_name": "size",
    "liger_kernel_config": {"rope": True},
    "neftune_noise_alpha": 5.0,
    "optim_target_modules": ["qkv"],
    "train_sampling_strategy": "group_by_length",
}


@pytest.mark.parametrize("name", sorted(SETTINGS))
def test_settings_without_effect_are_refused_with_the_reason(make_trainer, name):
    if name == "parallelism_config":
        args = make_trainer().args
        args.parallelism_config = object()
        with pytest.raises(
            ValueError, match=r"parallelism_config=.* it splits language models; use shard_head or FSDP"
        ):
            check_settings(args)
        return
    with pytest.raises(ValueError, match=re.escape(f" is not supported: {SETTINGS[name]}.")) as raised:
        make_trainer(**{name: REFUSED_VALUES.get(name, True)})
    assert str(raised.value).startswith(f"{name}=")


@pytest.mark.parametrize("name", sorted(PARAMETERS))
def test_parameters_without_effect_are_refused_with_the_way_out(make_trainer, name):
    with pytest.raises(ValueError, match=re.escape(f"{name}= is not supported: {PARAMETERS[name]}.")):
        if name == "ignore_keys":
            make_trainer().evaluate(ignore_keys=["logits"])
        elif name == "ignore_keys_for_eval":
            make_trainer().train(ignore_keys_for_eval=["logits"])
        else:
            make_trainer(parameters={name: default_data_collator})


def test_predictions_have_no_keys_to_ignore(make_trainer, faces):
    with pytest.raises(ValueError, match="ignore_keys= is not supported"):
        make_trainer().predict(faces[0], ignore_keys=["logits"])


# The table


def arguments() -> dict[str, list[str]]:
    """The names of transformers' arguments, by what takes them."""
    taken = {"TrainingArguments": [each.name for each in fields(TrainingArguments)]}
    for method in METHODS:
        title = "Trainer" if method == "__init__" else f"Trainer.{method}"
        taken[title] = [name for name in inspect.signature(getattr(Trainer, method)).parameters if name != "self"]
    return taken


def make_page() -> str:
    """The text of docs/trainer_arguments.md."""
    lines = [
        "# The Trainer's arguments",
        "",
        "What `FaceTrainer` does with every argument of transformers' `Trainer` and `TrainingArguments`. The test that",
        "shows it made this page: `python tests/training/test_trainer_arguments.py`.",
    ]
    for title, names in arguments().items():
        lines += ["", f"## `{title}`", "", "| argument | | why not, or the test that shows it |", "|---|---|---|"]
        lines += [f"| `{name}` | {' | '.join(describe(name))} |" for name in names]
    return "\n".join(lines) + "\n"


def describe(name: str) -> tuple[str, str]:
    shown = (SHOWN | ELSEWHERE).get(name, "").partition("::")[2]
    words = shown.removeprefix("test_").replace("_", " ")
    if name in (*SETTINGS, *PARAMETERS) and name not in NEEDS:
        reason = SETTINGS.get(name) or PARAMETERS[name]
        return "refused", f"{PARTLY[name]}; {reason}" if name in PARTLY else reason
    return "works", f"{words} (as far as it can be seen without {NEEDS[name]})" if name in NEEDS else words


def test_every_argument_is_in_the_table():
    known = {*SHOWN, *ELSEWHERE, *SETTINGS, *PARAMETERS}
    for title, names in arguments().items():
        assert set(names) - known == set(), f"new in {title}: show that it works, or refuse it in training/refused.py"
    both = ((SHOWN.keys() | ELSEWHERE.keys()) & (SETTINGS.keys() | PARAMETERS.keys())) - PARTLY.keys()
    assert both == {"optim_target_modules"}


def test_what_shows_an_argument_to_work_is_there_and_uses_it():
    for name, place in ELSEWHERE.items():
        file, _, test = place.partition("::")
        source = (Path(__file__).parent / file).read_text(encoding="utf-8")
        (node,) = [each for each in ast.parse(source).body if isinstance(each, ast.FunctionDef) and each.name == test]
        first = min(line.lineno for line in [node, *node.decorator_list])
        text = "\n".join(source.splitlines()[first - 1 : node.end_lineno])
        assert re.search(rf"\b{name}\b", text) or name in ("model", "args", "logging_nan_inf_filter", "fsdp_config"), (
            name
        )


def test_our_own_trainer_takes_what_transformers_takes():
    for method in METHODS[1:]:
        ours, theirs = (list(inspect.signature(getattr(each, method)).parameters) for each in (FaceTrainer, Trainer))
        assert set(theirs) - set(ours) <= {"backend", "hp_name"}, method  # in kwargs


@pytest.mark.skipif(
    "activation_checkpointing" not in {each.name for each in fields(TrainingArguments)}, reason="an older transformers"
)
def test_the_page_is_up_to_date():
    assert PAGE.read_text(encoding="utf-8") == make_page(), "run python tests/training/test_trainer_arguments.py"


if __name__ == "__main__":
    PAGE.write_text(make_page(), encoding="utf-8")
