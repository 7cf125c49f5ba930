"""What the Trainer's arguments on optimizers, precision and devices do; each test is marked with those it shows."""

from dataclasses import fields

import pytest
import torch
from transformers import TrainingArguments

from hf_face import FaceTrainingArguments
from hf_face.training import MarginSoftmax
from hf_face.training.evaluating import build_embedder


def losses(trainer) -> list[float]:
    return [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]


@pytest.mark.shows("lr_scheduler_kwargs")
def test_a_schedule_takes_arguments(make_trainer):
    trainer = make_trainer(lr_scheduler_type="cosine_with_min_lr", lr_scheduler_kwargs={"min_lr": 0.005})
    trainer.train()
    assert trainer.lr_scheduler.get_last_lr()[0] == pytest.approx(0.005)


@pytest.mark.shows("adam_beta1", "adam_beta2", "adam_epsilon")
def test_adam_has_its_settings(make_trainer):
    optimizer = make_trainer(adam_beta1=0.5, adam_beta2=0.6, adam_epsilon=0.1).create_optimizer()
    assert {(*group["betas"], group["eps"]) for group in optimizer.param_groups} == {(0.5, 0.6, 0.1)}


@pytest.mark.shows("bf16_full_eval", "fp16_full_eval")
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


@pytest.mark.shows("tf32")
def test_tf32_is_for_gpus(tmp_path):
    FaceTrainingArguments(str(tmp_path), use_cpu=True, tf32=False)
    if not torch.cuda.is_available():
        with pytest.raises(ValueError, match="tf32 requires Ampere"):
            FaceTrainingArguments(str(tmp_path), use_cpu=True, tf32=True)


@pytest.mark.shows("activation_checkpointing", "activation_checkpointing_kwargs")
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


@pytest.mark.shows("torch_compile", "torch_compile_backend", "torch_compile_mode")
def test_the_model_is_compiled(make_trainer):
    trainer = make_trainer(max_steps=1, torch_compile=True, torch_compile_backend="eager", torch_compile_mode="default")
    trainer.train()
    plugin = trainer.accelerator.state.dynamo_plugin
    assert (plugin.backend.value.lower(), plugin.mode) == ("eager", "default")
    assert isinstance(trainer.model_wrapped, torch._dynamo.OptimizedModule)


@pytest.mark.shows("torch_empty_cache_steps")
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


@pytest.mark.shows("auto_find_batch_size")
def test_a_batch_size_is_found(make_trainer):
    trainer = make_trainer(method=OutOfMemory(), auto_find_batch_size=True, max_steps=2, per_device_train_batch_size=9)
    trainer.train()
    assert trainer._train_batch_size <= 8
    assert trainer.state.global_step == 2


@pytest.mark.shows("full_determinism")
def test_only_deterministic_operations(make_trainer, monkeypatch):
    calls = []
    monkeypatch.setattr("transformers.trainer.enable_full_determinism", calls.append)
    make_trainer(full_determinism=True, seed=7)
    assert calls == [7]


@pytest.mark.shows(
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


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({}, True),
        ({"ddp_find_unused_parameters": False}, False),
        ({"gradient_checkpointing": True}, True),
        ({"gradient_checkpointing": True, "gradient_checkpointing_kwargs": {"use_reentrant": True}}, False),
    ],
)
def test_data_parallelism_allows_weights_without_a_gradient(make_trainer, settings, expected):
    """As some backbones' mask token, also with checkpoints, unless these are of the kind that needs all gradients."""
    assert make_trainer(**settings).accelerator.ddp_handler.find_unused_parameters == expected


@pytest.mark.shows("skip_memory_metrics")
def test_memory_is_measured(make_trainer):
    trainer = make_trainer(max_steps=1, skip_memory_metrics=False)
    assert "train_mem_cpu_alloc_delta" in trainer.train().metrics
    assert "eval_mem_cpu_alloc_delta" in trainer.evaluate()


@pytest.mark.shows("optim_target_modules")
def test_modules_are_chosen_by_some_optimizers_only(tmp_path):
    FaceTrainingArguments(str(tmp_path), use_cpu=True, optim="galore_adamw", optim_target_modules=["qkv"])
    with pytest.raises(ValueError, match=r"optim_target_modules=.* only GaLore and APOLLO choose modules"):
        FaceTrainingArguments(str(tmp_path), use_cpu=True, optim_target_modules=["qkv"])


@pytest.mark.shows("optimizers")
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
    with pytest.raises(ValueError, match=r"lr_milestones must be a list of shares between 0 and 1, found \[12.0\]"):
        make_trainer(lr_milestones=[12.0])
    with pytest.raises(ValueError, match="lr_milestones is a schedule without warm-up"):
        make_trainer(lr_milestones=[0.5], warmup_steps=2)


@pytest.mark.shows("optimizer_cls_and_kwargs")
def test_a_class_of_optimizers_is_used(make_trainer):
    parameters = {"optimizer_cls_and_kwargs": (torch.optim.SGD, {"lr": 0.25})}
    optimizer = make_trainer(parameters=parameters, head_learning_rate=0.5).create_optimizer()
    assert isinstance(optimizer, torch.optim.SGD)
    assert {group["lr"] for group in optimizer.param_groups} == {0.25, 0.5}
