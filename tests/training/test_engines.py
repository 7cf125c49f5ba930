"""scripts/train.py on two ranks whose weights FSDP or DeepSpeed splits, beside plain data parallelism."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from accelerate.utils import DeepSpeedPlugin, FullyShardedDataParallelPlugin
from transformers import AutoImageProcessor, AutoModel

from hf_face.data import load_orl, make_verification_pairs, split_identities
from hf_face.embedding import Embedder
from hf_face.evaluation import VerificationEvaluator
from hf_face.training import last_complete_checkpoint
from hf_face.training.engines import _check_deepspeed, _prepare_fsdp

ROOT = Path(__file__).parents[2]
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
max_steps: 8
per_device_train_batch_size: 16
learning_rate: 0.001
logging_steps: 1
eval_strategy: steps
eval_steps: 4
save_strategy: steps
save_steps: 4
report_to: none
disable_tqdm: true
resume_from_checkpoint: auto
"""
LAUNCH = ROOT / "recipes" / "accelerate"
DEEPSPEED = {"ACCELERATE_USE_DEEPSPEED": "true", "DS_ACCELERATOR": "cpu"}


def train(folder: Path, *overrides: str, **engine: str) -> list[float]:
    """The losses of all steps of a run on two ranks."""
    folder.mkdir(exist_ok=True)
    (folder / "recipe.yaml").write_text(RECIPE)
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
    script = ["tests/training/engines_on_cpu.py", "scripts/train.py", str(folder / "recipe.yaml")]
    if "ACCELERATE_USE_DEEPSPEED" not in engine:  # it takes --use_cpu for no engine at all
        script += ["--use_cpu", "true"]
    done = subprocess.run(
        [*launch, *script, "--output_dir", str(folder / "run"), *overrides],
        cwd=ROOT,
        env=os.environ | {"OMP_NUM_THREADS": "1"} | engine,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    state = json.loads(Path(last_complete_checkpoint(folder / "run"), "trainer_state.json").read_text())
    return [entry["loss"] for entry in state["log_history"] if "loss" in entry]


@pytest.fixture(scope="module")
def plain(tmp_path_factory) -> tuple[Path, list[float]]:
    """A run of plain data parallelism and its losses."""
    folder = tmp_path_factory.mktemp("plain")
    return folder, train(folder, ACCELERATE_USE_CPU="true")


def embed(run: Path) -> torch.Tensor:
    images = torch.rand(4, 3, 36, 36, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        return AutoModel.from_pretrained(run).eval()(images).pooler_output


def train_twice(folder: Path, *settings: str, **engine: str) -> list[float]:
    """The losses of a run, which are the same where its second half is run again from the checkpoint before."""
    losses = train(folder, *settings, **engine)
    embeddings = embed(folder / "run")
    shutil.rmtree(folder / "run" / "checkpoint-8")
    assert train(folder, *settings, **engine) == losses
    torch.testing.assert_close(embed(folder / "run"), embeddings)
    return losses


def deepspeed(folder: Path, stage: int) -> list[str]:
    """Arguments for a run with DeepSpeed's settings in a file."""
    pytest.importorskip("deepspeed", reason="it is an optional engine: pip install hf_face[deepspeed]")
    settings = {"zero_optimization": {"stage": stage, "stage3_gather_16bit_weights_on_model_save": True}}
    filled_in = ("gradient_clipping", "gradient_accumulation_steps", "train_batch_size")
    settings |= dict.fromkeys([*filled_in, "train_micro_batch_size_per_gpu"], "auto")
    (folder / "settings.json").write_text(json.dumps(settings))
    return ["--deepspeed", str(folder / "settings.json")]


def fsdp() -> dict[str, str]:
    """What `accelerate launch` makes of its launch file, in float32."""
    settings = yaml.safe_load((LAUNCH / "fsdp.yaml").read_text())["fsdp_config"]
    return {"ACCELERATE_USE_FSDP": "true"} | {name.upper(): str(value) for name, value in settings.items()}


def test_fsdp_trains_like_plain_data_parallelism(tmp_path, plain):
    losses = train_twice(tmp_path, **fsdp(), ACCELERATE_USE_CPU="true")
    assert list(tmp_path.glob("run/checkpoint-8/pytorch_model_fsdp*"))  # it was not plain data parallelism itself
    np.testing.assert_allclose(losses, plain[1], atol=1e-4, rtol=0)
    # Adam enlarges what rounding leaves of gradients near zero
    assert (embed(tmp_path / "run") * embed(plain[0] / "run")).sum(1).min() > 0.999


def test_deepspeed_trains_like_plain_data_parallelism(tmp_path, plain):
    losses = train_twice(tmp_path, *deepspeed(tmp_path, stage=2), **DEEPSPEED)
    assert list(tmp_path.glob("run/checkpoint-8/global_step8/*optim_states.pt"))
    np.testing.assert_allclose(losses, plain[1], atol=1e-4, rtol=0)


@pytest.mark.slow  # a minute more, for weights that are split as FSDP's are
def test_deepspeed_that_splits_the_weights_too(tmp_path):
    losses = train_twice(tmp_path, *deepspeed(tmp_path, stage=3), **DEEPSPEED)
    assert list(tmp_path.glob("run/checkpoint-8/global_step8/*zero_pp*"))
    assert losses[-1] < losses[0]  # it draws the first weights in another order


def test_ranks_are_evaluated_with_the_batch_norm_statistics_that_are_saved(plain):
    run = plain[0] / "run"
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


def test_fsdp_casts_no_weights():
    """Batch norm's would not fit its statistics."""
    plugin = FullyShardedDataParallelPlugin(fsdp_version=2, cpu_ram_efficient_loading=False)
    plugin.set_mixed_precision("bf16")
    _prepare_fsdp(plugin)
    assert plugin.mixed_precision_policy is None


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"zero_optimization": {"stage": 3}}, "set stage3_gather_16bit_weights_on_model_save"),
        ({"zero_optimization": {"stage": 2}, "bf16": {"enabled": True}}, "bf16 makes DeepSpeed cast"),
    ],
)
def test_deepspeed_settings_that_cannot_work_are_refused(settings, message):
    pytest.importorskip("deepspeed", reason="it is an optional engine: pip install hf_face[deepspeed]")
    with pytest.raises(ValueError, match=message):
        _check_deepspeed(DeepSpeedPlugin(hf_ds_config=settings), "bf16" if "bf16" in settings else "no")
