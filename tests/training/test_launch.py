"""scripts/train.py as it is launched: on one rank, on two, killed and started again."""

import json
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from hf_face.training import last_complete_checkpoint

ROOT = Path(__file__).parents[2]
STEPS = 20
RECIPE = """
held_out_identities: 10
augmentation: flip
backbone:
  model_type: timm_face
  architecture: vit_tiny_patch16_224
  model_args: {img_size: 32, patch_size: 8, depth: 1, embed_dim: 24, num_heads: 2}
  embedding_size: 16
  image_size: 32
margin: adaface
max_steps: 20
learning_rate: 0.001
logging_steps: 1
save_strategy: steps
save_steps: 4
report_to: none
disable_tqdm: true
use_cpu: true
resume_from_checkpoint: auto
"""


def command(folder: Path, num_ranks: int, *overrides: str) -> list[str]:
    folder.mkdir(exist_ok=True)
    (folder / "recipe.yaml").write_text(RECIPE)
    launch = ["-m", "accelerate.commands.launch", "--cpu", "--num_processes", "1"]
    if num_ranks > 1:  # accelerate itself starts several ranks without GPUs through MPI only
        launch = ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node", str(num_ranks)]
    batch = ["--per_device_train_batch_size", str(16 // num_ranks), "--output_dir", str(folder / "run")]
    return [sys.executable, *launch, "scripts/train.py", str(folder / "recipe.yaml"), *batch, *overrides]


def train(folder: Path, num_ranks: int = 1, *overrides: str) -> list[float]:
    """The losses of all steps of a run that ends well."""
    done = subprocess.run(command(folder, num_ranks, *overrides), cwd=ROOT, capture_output=True, text=True, timeout=180)
    assert done.returncode == 0, done.stderr[-3000:]
    return losses(folder)


def losses(folder: Path) -> list[float]:
    state = json.loads(Path(last_complete_checkpoint(folder / "run"), "trainer_state.json").read_text())
    return [entry["loss"] for entry in state["log_history"] if "loss" in entry]


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory) -> list[float]:
    return train(tmp_path_factory.mktemp("uninterrupted"))


def test_a_killed_run_that_is_started_again_repeats_the_uninterrupted_one_exactly(tmp_path, uninterrupted):
    process = subprocess.Popen(
        command(tmp_path, 1), cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True
    )
    while not list(tmp_path.glob("run/checkpoint-*/*")):
        assert process.poll() is None, "the run ended before its first checkpoint"
        time.sleep(0.02)
    subprocess.run(["pkill", f"-{signal.SIGKILL.value}", "-s", str(process.pid)], check=False)
    process.wait()
    assert len(train(tmp_path)) == STEPS
    assert losses(tmp_path) == uninterrupted


def test_two_ranks_train_like_one(tmp_path):
    one = train(tmp_path / "one", 1, "--augmentation", "[]")
    two = train(tmp_path / "two", 2, "--augmentation", "[]")
    assert Path(last_complete_checkpoint(tmp_path / "two" / "run"), "rng_state_1.pth").is_file()
    assert len(one) == STEPS
    np.testing.assert_allclose(two, one, atol=1e-4, rtol=0)


def test_a_head_split_over_two_ranks_goes_on_on_one(tmp_path):
    sharded = train(tmp_path, 2, "--augmentation", "[]", "--shard_head", "true")
    for folder in tmp_path.glob("run/checkpoint-*"):
        if folder.name != "checkpoint-8":
            subprocess.run(["rm", "-r", str(folder)], check=True)
    assert len(losses(tmp_path)) == 8
    resumed = train(tmp_path, 1, "--augmentation", "[]", "--shard_head", "true")
    np.testing.assert_allclose(resumed, sharded, atol=1e-4, rtol=0)
