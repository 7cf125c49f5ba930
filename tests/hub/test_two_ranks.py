"""scripts/train.py on two ranks, publishing as it goes."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from huggingface_hub import ModelCard
from safetensors.torch import load
from transformers import AutoModel

from hf_face.hub import FaceModelCardData, push_to_hub

ROOT = Path(__file__).parents[2]
RECIPE = """
held_out_identities: 10
backbone:
  model_type: timm_face
  architecture: vit_tiny_patch16_224
  model_args: {{img_size: 32, patch_size: 8, depth: 1, embed_dim: 24, num_heads: 2}}
  embedding_size: 16
  image_size: 32
shard_head: true
max_steps: 2
save_steps: 1
per_device_train_batch_size: 8
report_to: none
disable_tqdm: true
use_cpu: true
output_dir: {output_dir}
push_to_hub: true
hub_model_id: org/two_ranks
hub_strategy: checkpoint
hub_always_push: true
card: {{license: mit, training_data: [{{name: ORL faces, license: free for research}}]}}
"""


@pytest.mark.slow  # two processes that import everything
def test_two_ranks_publish_one_model(hub, tmp_path):
    (tmp_path / "recipe.yaml").write_text(RECIPE.format(output_dir=tmp_path / "run"))
    environment = {key: value for key, value in os.environ.items() if key not in ("HF_HUB_OFFLINE", "HF_HOME")}
    environment |= {"HF_ENDPOINT": hub.url, "HF_TOKEN": hub.token, "HF_HUB_DISABLE_XET": "1"}
    environment |= {"HF_HOME": str(tmp_path / "home"), "OMP_NUM_THREADS": "1"}
    launch = ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
    command = [sys.executable, *launch, "scripts/train.py", str(tmp_path / "recipe.yaml")]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=240)
    assert done.returncode == 0, done.stderr[-3000:]

    history = hub.store.repos["model", "org/two_ranks"].history("main")
    steps = ["Training in progress, step 2", "Training in progress, step 1"]
    assert [commit.title for commit in history] == ["End of training", *steps, "initial commit"]
    assert "last-checkpoint/head-00002-of-00002.safetensors" in history[0].files
    assert ModelCard.load("org/two_ranks").data.eval_results
    assert AutoModel.from_pretrained("org/two_ranks").config.embedding_size == 16

    card = FaceModelCardData.load(tmp_path / "run")
    push_to_hub(tmp_path / "run" / "checkpoint-2", "org/whole_head", card=card, include_head=True)
    head = load(hub.store.read("org/whole_head", "head-00001-of-00001.safetensors"))
    assert head["weight"].shape == (30, 16)
