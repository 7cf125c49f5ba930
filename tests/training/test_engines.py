"""Settings of FSDP and DeepSpeed, and scripts/train.py on two ranks."""

import json
from contextlib import nullcontext
from pathlib import Path
from types import SimpleNamespace

import forked
import pytest
import tiny_models
import torch
from accelerate.utils import DeepSpeedPlugin, DistributedType, FullyShardedDataParallelPlugin, TorchDynamoPlugin
from torch import nn
from transformers import AutoImageProcessor, AutoModel

from hf_face import FaceRecognitionConfig, FaceRecognitionModel
from hf_face.data import load_orl, make_verification_pairs, split_identities
from hf_face.embedding import Embedder
from hf_face.evaluation import VerificationEvaluator
from hf_face.training import engines
from hf_face.training.engines import _check_deepspeed, _prepare_fsdp
from hf_face.training.lora import add_lora

RECIPE = """
held_out_identities: 10
augmentation: flip
backbone:
  model_type: vit_face
  image_size: 36
  hidden_size: 24
  num_hidden_layers: 2
  num_attention_heads: 2
  embedding_size: 16
margin: adaface
max_steps: 4
per_device_train_batch_size: 16
learning_rate: 0.001
logging_steps: 1
save_strategy: "no"
report_to: none
disable_tqdm: true
"""


@pytest.fixture
def run(tmp_path) -> Path:
    """The output of a run of plain data parallelism on two ranks."""
    (tmp_path / "recipe.yaml").write_text(RECIPE)
    script = ["scripts/train.py", tmp_path / "recipe.yaml", "--output_dir", tmp_path / "run", "--use_cpu", "true"]
    forked.run(script, num_ranks=2)
    return tmp_path / "run"


def test_ranks_are_evaluated_with_the_batch_norm_statistics_that_are_saved(run):
    reported = json.loads((run / "eval_results.json").read_text())
    pairs = make_verification_pairs(split_identities(load_orl(), num_held_out=10)[1], name="orl")
    embedder = Embedder(AutoModel.from_pretrained(run), AutoImageProcessor.from_pretrained(run), flip=True)
    metrics = VerificationEvaluator(pairs).evaluate(embedder)
    assert reported["eval_orl_threshold"] == pytest.approx(metrics["threshold"], abs=1e-6)
    assert reported["eval_orl_auc"] == pytest.approx(metrics["auc"], abs=1e-5)


def test_fsdp_that_leaves_loading_to_one_rank_is_refused():
    plugin = FullyShardedDataParallelPlugin(fsdp_version=2, cpu_ram_efficient_loading=True)
    with pytest.raises(ValueError, match="cpu_ram_efficient_loading cannot"):
        _prepare_fsdp(plugin)


def test_fsdp_1_is_refused():
    with pytest.raises(ValueError, match="FSDP 1 is not supported: set version to 2"):
        _prepare_fsdp(SimpleNamespace(fsdp_version=1))  # accelerate's own needs a GPU


def test_fsdp_that_repeats_layers_itself_is_refused():
    plugin = FullyShardedDataParallelPlugin(
        fsdp_version=2, cpu_ram_efficient_loading=False, activation_checkpointing=True
    )
    with pytest.raises(ValueError, match=r"leave it out of fsdp_config .* set --gradient_checkpointing true"):
        _prepare_fsdp(plugin)


def test_fsdp_casts_no_weights():
    """Batch norm's would not fit its statistics."""
    plugin = FullyShardedDataParallelPlugin(fsdp_version=2, cpu_ram_efficient_loading=False)
    plugin.set_mixed_precision("bf16")
    _prepare_fsdp(plugin)
    assert plugin.mixed_precision_policy is None


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"zero_optimization": {"stage": 0}}, "ZeRO stage 0 splits nothing"),
        (
            {"zero_optimization": {"stage": 3, "offload_param": {"device": "nvme"}}},
            "Weights on disks can .* cpu, or leave it out",
        ),
        ({"zero_optimization": {"stage": 2, "compute_grad_norm": False}}, "does not notice .*: leave it out"),
        (
            {"zero_optimization": {"stage": 2}, "optimizer": {"type": "AdamW"}},
            "The optimizer in .* set optim",
        ),
        (
            {"zero_optimization": {"stage": 2}, "scheduler": {"type": "WarmupLR"}},
            "The scheduler in .* set lr_sch",
        ),
        ({"zero_optimization": {"stage": 2}, "bf16": {"enabled": True}}, "bf16 makes DeepSpeed cast"),
    ],
)
def test_deepspeed_settings_that_cannot_work_are_refused(settings, message):
    pytest.importorskip("deepspeed", reason="it is an optional engine: pip install hf_face[deepspeed]")
    with pytest.raises(ValueError, match=message):
        _check_deepspeed(DeepSpeedPlugin(hf_ds_config=settings), "bf16" if "bf16" in settings else "no")


@pytest.mark.parametrize("given", [{}, {"zero_force_ds_cpu_optimizer": True}])
def test_an_optimizer_on_the_cpu_is_the_one_that_was_asked_for(given):
    """accelerate replaces SGD with DeepSpeed's Adam unless it is told not to."""
    pytest.importorskip("deepspeed", reason='it is an optional engine: pip install "hf_face[deepspeed]"')
    settings = {"zero_optimization": {"stage": 2, "offload_optimizer": {"device": "cpu"}}, **given}
    plugin = DeepSpeedPlugin(hf_ds_config=settings)
    _check_deepspeed(plugin, "no")
    assert plugin.deepspeed_config["zero_force_ds_cpu_optimizer"] == bool(given)


@pytest.mark.parametrize(
    ("asked_for", "started", "grouped", "message"),
    [
        (
            "FSDP",
            DistributedType.MULTI_CPU,
            True,
            "has not started FSDP, .*recipes accelerate/fsdp.*, or leave fsdp out",
        ),
        (
            "DeepSpeed",
            DistributedType.NO,
            False,
            "has not started DeepSpeed, .*accelerate/zero2.*or leave deepspeed out",
        ),
        ("DeepSpeed", DistributedType.DEEPSPEED, False, "has not started DeepSpeed"),
        ("FSDP", DistributedType.FSDP, True, None),
        (None, DistributedType.NO, False, None),
    ],
)
def test_an_engine_that_accelerate_leaves_out_is_not_left_out_in_silence(
    monkeypatch, asked_for, started, grouped, message
):
    monkeypatch.setattr("torch.distributed.is_initialized", lambda: grouped)
    plugins: dict = {"dynamo_plugin": TorchDynamoPlugin(backend="no")}
    plugins["fsdp_plugin"] = FullyShardedDataParallelPlugin(fsdp_version=2, cpu_ram_efficient_loading=False)
    with nullcontext() if message is None else pytest.raises(ValueError, match=message):
        engines.prepare_engine(accelerator_of(started, **plugins), asked_for)


def accelerator_of(engine: DistributedType, mixed_precision: str = "no", **plugins) -> SimpleNamespace:
    state = SimpleNamespace(**plugins)
    return SimpleNamespace(distributed_type=engine, state=state, mixed_precision=mixed_precision)


@pytest.mark.parametrize(
    ("engine", "stage", "message"),
    [
        (DistributedType.FSDP, None, "torch_compile with FSDP renames the weights.*: leave it out"),
        (DistributedType.DEEPSPEED, 3, "torch_compile reads weights that ZeRO-3 .*: leave it out, or set the stage"),
        (DistributedType.DEEPSPEED, 2, None),
        (DistributedType.MULTI_GPU, None, None),
    ],
)
def test_which_engines_are_compiled(engine, stage, message):
    plugins: dict = {"dynamo_plugin": TorchDynamoPlugin(backend="eager")}
    plugins["fsdp_plugin"] = FullyShardedDataParallelPlugin(fsdp_version=2, cpu_ram_efficient_loading=False)
    if stage is not None:
        pytest.importorskip("deepspeed", reason='it is an engine of its own: pip install "hf_face[deepspeed]"')
        plugins["deepspeed_plugin"] = DeepSpeedPlugin(hf_ds_config={"zero_optimization": {"stage": stage}})
    with nullcontext() if message is None else pytest.raises(ValueError, match=message):
        engines.prepare_engine(accelerator_of(engine, **plugins))


@pytest.mark.parametrize(
    ("engine", "prepared"),
    [
        (DistributedType.FSDP, ["fsdp"]),
        (DistributedType.DEEPSPEED, ["whole", ("deepspeed", "bf16")]),
        (DistributedType.MULTI_CPU, []),
        (DistributedType.NO, []),
    ],
)
def test_each_engine_has_its_settings_checked(monkeypatch, engine, prepared):
    calls = []
    monkeypatch.setattr(engines, "_prepare_fsdp", lambda plugin, compiles: calls.append(plugin))
    monkeypatch.setattr(engines, "_check_deepspeed", lambda *given: calls.append(given[:2]))
    monkeypatch.setattr(engines, "create_models_whole", lambda: calls.append("whole"))
    plugins = {"fsdp_plugin": "fsdp", "deepspeed_plugin": "deepspeed", "dynamo_plugin": TorchDynamoPlugin(backend="no")}
    accelerator = accelerator_of(engine, mixed_precision="bf16", **plugins)
    engines.prepare_engine(accelerator)
    assert calls == prepared
    assert engines.splits_weights(accelerator) == bool(prepared)


def test_a_weight_without_a_dimension_is_refused():
    model = nn.Linear(2, 2)
    engines.check_shapes(model)
    model.offset = nn.Parameter(torch.tensor(1.0))
    model.register_buffer("count", torch.tensor(1))
    with pytest.raises(ValueError, match=r"offset has the shape \(\), .*: give it the shape \(1,\), or train"):
        engines.check_shapes(model)


@pytest.mark.parametrize("family", tiny_models.CASES)
def test_fsdp_gathers_layers_that_the_model_has(family):
    config, targets = tiny_models.CASES[family]
    model = FaceRecognitionModel(FaceRecognitionConfig(backbone_config=config, num_identities=2))
    layers = engines.layers_to_gather(model)
    found = [module for module in model.modules() if type(module).__name__ in layers]
    assert layers and len(found) > 1
    assert layers == {type(module).__name__ for module in found}
    add_lora(model, {"target_modules": targets})
    assert engines.layers_to_gather(model) == layers


@pytest.mark.parametrize(
    ("checkpointing", "settings", "expected"),
    [
        (True, {"use_reentrant": True}, True),
        (True, {"use_reentrant": False}, False),
        (True, {}, False),
        (True, None, False),
        (False, {"use_reentrant": True}, False),
        (False, None, False),
    ],
)
def test_reentrant_checkpoints_are_asked_for(checkpointing, settings, expected):
    args = SimpleNamespace(gradient_checkpointing=checkpointing, gradient_checkpointing_kwargs=settings)
    assert engines.uses_reentrant_checkpoints(args) is expected


@pytest.mark.parametrize("stage", [1, 2, 3])
@pytest.mark.parametrize("offload", [{}, {"offload_param": {"device": "cpu"}}])
def test_deepspeed_settings_that_work(stage, offload):
    plugin = SimpleNamespace(zero_stage=stage, deepspeed_config={"zero_optimization": {"stage": stage, **offload}})
    _check_deepspeed(plugin, "no")
    assert plugin.deepspeed_config["zero_force_ds_cpu_optimizer"] is False
