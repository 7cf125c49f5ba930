"""Settings of a run: what they may be, together and under a launcher."""

import re
from types import SimpleNamespace

import pytest
from transformers import TrainingArguments
from transformers.training_args import OptimizerNames

from hf_face.training import FaceTrainingArguments, arguments
from hf_face.training.arguments import as_face_arguments, compute_in_bfloat16


@pytest.fixture
def make(tmp_path, monkeypatch):
    """`make(world_size=..., n_gpu=..., **settings)`: the arguments of one of several ranks, with several GPUs."""

    def make(world_size: int = 1, n_gpu: int = 0, **settings) -> FaceTrainingArguments:
        monkeypatch.setattr(FaceTrainingArguments, "world_size", world_size)
        monkeypatch.setattr(FaceTrainingArguments, "n_gpu", n_gpu)
        return FaceTrainingArguments(str(tmp_path), use_cpu=True, report_to="none", **settings)

    return make


@pytest.mark.parametrize(
    ("setting", "value"),
    [
        ("lr_milestones", 0.5),
        ("lr_milestones", [0.5, 1.0]),
        ("lr_milestones", [0.0, 0.5]),
        ("lr_milestones", [0.5, 1.5]),
        ("ema_decay", 0.0),
        ("ema_decay", 1.0),
        ("partial_fc_sample_rate", 0.0),
        ("partial_fc_sample_rate", 1.5),
        ("on_divergence", "ignore"),
    ],
)
def test_a_share_is_inside_its_bounds(make, setting, value):
    with pytest.raises(ValueError, match=rf"{setting} must be .*, found {re.escape(repr(value))}"):
        make(**{setting: value})


@pytest.mark.parametrize(
    "settings",
    [
        {"lr_milestones": [0.001, 0.999]},
        {"ema_decay": 0.001},
        {"ema_decay": 0.999},
        {"partial_fc_sample_rate": 0.001},
        {"partial_fc_sample_rate": 1.0, "world_size": 2},
        {"partial_fc_sample_rate": 1.0, "n_gpu": 2},
        {"partial_fc_sample_rate": 0.5, "shard_head": True, "world_size": 2, "n_gpu": 1},
        {"partial_fc_sample_rate": 0.5, "n_gpu": 1},
        {"shard_head": True, "n_gpu": 1},
        {"n_gpu": 2},
        {"warmup_steps": 5},
        {"on_divergence": "skip", "fsdp": "full_shard"},
        {"optim": "sgd", "fsdp": "full_shard"},
        {"optim": OptimizerNames.RMSPROP, "fsdp": "full_shard"},
        {"optim": "adagrad"},
    ],
)
def test_what_works(make, settings):
    args = make(**settings)
    assert all(getattr(args, name) == value for name, value in settings.items() if name != "fsdp")


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"partial_fc_sample_rate": 0.5, "world_size": 2}, "partial_fc_sample_rate below 1 on several ranks requires"),
        (
            {"partial_fc_sample_rate": 0.5, "n_gpu": 2},
            "partial_fc_sample_rate requires one process per GPU, not one for 2",
        ),
        ({"shard_head": True, "n_gpu": 2}, "shard_head requires one process per GPU, not one for 2 GPUs"),
        ({"fp16_full_eval": True, "fsdp": "full_shard"}, "fp16_full_eval does not work with FSDP"),
        ({"auto_find_batch_size": True, "fsdp": "full_shard"}, "auto_find_batch_size does not work with FSDP"),
        (
            {"optim": "adafactor", "fsdp": "full_shard"},
            "optim=adafactor does not work with FSDP, .* rmsprop or sgd, or",
        ),
        (
            {"optim": OptimizerNames.ADAGRAD, "fsdp": "full_shard"},
            "optim=adagrad does not work with FSDP, .* Set optim",
        ),
        ({"optim": OptimizerNames.GALORE_ADAMW, "fsdp": "full_shard"}, "optim=galore_adamw does not work with FSDP"),
    ],
)
def test_what_does_not(make, settings, message):
    with pytest.raises(ValueError, match=message):
        make(**settings)


@pytest.mark.parametrize(
    ("launcher", "settings", "message"),
    [
        ({"ACCELERATE_MIXED_PRECISION": "fp16"}, {}, None),
        ({"ACCELERATE_MIXED_PRECISION": "bf16"}, {"shard_head": True}, None),
        ({"ACCELERATE_MIXED_PRECISION": "fp16"}, {"shard_head": True}, "shard_head does not work with fp16"),
        ({"ACCELERATE_USE_FSDP": "true"}, {"bf16_full_eval": True}, "bf16_full_eval does not work with FSDP"),
        ({"ACCELERATE_USE_DEEPSPEED": "true"}, {}, None),
        ({"ACCELERATE_USE_DEEPSPEED": "true"}, {"on_divergence": "skip"}, None),
        ({"ACCELERATE_USE_DEEPSPEED": "true"}, {"optim": "sgd"}, None),
        ({"ACCELERATE_USE_DEEPSPEED": "true"}, {"optim": "stable_adamw"}, "stable_adamw does not work with DeepSpeed"),
        ({}, {"optim": "adafactor"}, None),
        ({"ACCELERATE_USE_DEEPSPEED": "true"}, {"bf16_full_eval": True}, "bf16_full_eval does not work with DeepSpeed"),
    ],
)
def test_a_launcher_counts_as_settings_do(make, monkeypatch, launcher, settings, message):
    for name, value in launcher.items():
        monkeypatch.setenv(name, value)
    if message is None:
        make(**settings)
        return
    with pytest.raises(ValueError, match=message):
        make(**settings)


@pytest.mark.parametrize(("given", "expected"), [("true", "FSDP"), (True, "FSDP"), ("false", None), (None, None)])
def test_fsdp_is_set_like_other_settings(make, given, expected):
    assert make(fsdp=given).engine == expected


@pytest.mark.parametrize(
    ("settings", "group"),
    [
        ({"world_size": 2, "shard_head": True}, "all ranks"),
        ({"world_size": 2}, None),
        ({"world_size": 1, "shard_head": True}, None),
    ],
)
def test_the_ranks_that_class_centers_are_split_over(make, monkeypatch, settings, group):
    monkeypatch.setattr(arguments.dist, "group", SimpleNamespace(WORLD="all ranks"))
    assert make(**settings).head_group == group


@pytest.mark.parametrize(("precision", "becomes"), [("bf16", "no"), ("fp16", "fp16"), ("no", "no")])
def test_deepspeed_computes_with_autocast_where_bf16_is_set(precision, becomes):
    settings = {precision: {"enabled": True}}
    plugin = SimpleNamespace(deepspeed_config=dict(settings))
    args = SimpleNamespace(deepspeed_plugin=plugin, mixed_precision=precision)
    compute_in_bfloat16(args)
    autocast = {"torch_autocast": {"enabled": True, "dtype": "bfloat16"}}
    assert args.mixed_precision == becomes
    assert plugin.deepspeed_config == (autocast if precision == "bf16" else settings)


def test_without_deepspeed_bf16_stays():
    args = SimpleNamespace(deepspeed_plugin=None, mixed_precision="bf16")
    compute_in_bfloat16(args)
    assert args.mixed_precision == "bf16"


@pytest.mark.parametrize(
    ("metric", "given", "direction"),
    [
        (None, None, None),
        ("eval_loss", None, None),
        ("eval_loss", True, True),
        ("orl_eer", None, None),
        ("orl_eer", False, False),
    ],
)
def test_transformers_guess_of_a_direction_is_not_converted(tmp_path, metric, given, direction):
    """The protocol knows it. A direction of the user's own is kept, where it is not the same as the guess."""
    plain = TrainingArguments(
        str(tmp_path), use_cpu=True, metric_for_best_model=metric, greater_is_better=given, max_steps=3
    )
    converted = as_face_arguments(plain)
    assert (converted.metric_for_best_model, converted.greater_is_better) == (metric, direction)
    assert converted.max_steps == 3
    assert as_face_arguments(converted) is converted


def test_what_is_not_used_stays_off(make):
    args = make(remove_unused_columns=True, enable_jit_checkpoint=True, accelerator_config={"non_blocking": False})
    assert not args.remove_unused_columns and not args.enable_jit_checkpoint
    assert not args.accelerator_config.non_blocking
    assert make(dataloader_pin_memory=True).accelerator_config.non_blocking
    assert make().greater_is_better is None and make(greater_is_better=True).greater_is_better is True
