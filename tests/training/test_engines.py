"""Settings of FSDP and DeepSpeed, and scripts/train.py on two ranks."""

import json
from pathlib import Path
from types import SimpleNamespace

import forked
import pytest
from accelerate.utils import DeepSpeedPlugin, FullyShardedDataParallelPlugin
from transformers import AutoImageProcessor, AutoModel

from hf_face.data import load_orl, make_verification_pairs, split_identities
from hf_face.embedding import Embedder
from hf_face.evaluation import VerificationEvaluator
from hf_face.training.engines import _check_deepspeed, _prepare_fsdp

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
