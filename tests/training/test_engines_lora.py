"""Low-rank adapters under FSDP 2 and DeepSpeed are trained, saved and resumed as in a single process."""

import json

import numpy as np
import pytest
import torch
from engine_runs import EngineRuns
from peft import PeftModel
from safetensors.torch import load_file
from transformers import AutoModel
from under_engines import build

ADAPTED = {
    "model": {"model": "clip", "targets": ["q_proj", "v_proj"]},
    "shard_head": True,
    "max_steps": 4,
    "save_steps": 2,
    "learning_rate": 0.01,
    "adam_epsilon": 0.01,  # with less, Adam enlarges what rounding leaves of gradients near zero
    "lr_scheduler_type": "cosine",
    "ema_decay": 0.5,
    "eval_strategy": "steps",
    "eval_steps": 4,
}
# The statistics of batch norm, which an adapter includes, are those of a rank's own images.
IRESNET = {"model": "iresnet", "targets": ["convolution1"]}
CASES = {"adapted": ADAPTED, "statistics": {**ADAPTED, "model": IRESNET}}
RUNS = [
    "adapted/fsdp",
    "adapted/zero1 from adapted/single",
    "adapted/zero2 from adapted/fsdp",
    "adapted/zero3",
    "adapted/fsdp from adapted/zero3",
]
ON_ONE_RANK = "adapted/single from adapted/zero3"


@pytest.fixture(scope="module")
def runs(tmp_path_factory) -> EngineRuns:
    pytest.importorskip("deepspeed", reason='it is an engine of its own: pip install "hf_face[deepspeed]"')
    runs = EngineRuns(tmp_path_factory.mktemp("runs"), CASES)
    runs.launch("adapted/single", num_ranks=1)
    runs.launch(*RUNS)
    runs.launch(ON_ONE_RANK, num_ranks=1)
    return runs


def embed(model) -> torch.Tensor:
    images = torch.rand(4, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        return model.eval()(pixel_values=images).pooler_output


@pytest.mark.parametrize("name", [*RUNS, ON_ONE_RANK])
def test_adapters_train_as_in_a_single_process(name, runs):
    losses, expected = (runs.logged(each, "loss") for each in (name, "adapted/single"))
    assert len(losses) == 4 and np.ptp(losses) > 5
    np.testing.assert_allclose(losses, expected, atol=1e-4, rtol=0)
    norms, expected = (runs.logged(each, "grad_norm") for each in (name, "adapted/single"))
    np.testing.assert_allclose(norms, expected, rtol=1e-4)
    assert min(norms) > 100, "all are clipped"
    for metric in ("eval_orl_auc", "eval_orl_threshold"):
        np.testing.assert_allclose(runs.logged(name, metric), runs.logged("adapted/single", metric), atol=1e-3)
    assert set(runs.logged(name, "trainable_parameters")) == {2 * 2 * 4 * (16 + 16) + 16 * 12 + 30 * 12}


@pytest.mark.parametrize("name", [*RUNS, ON_ONE_RANK])
def test_checkpoints_have_the_trained_weights_alone(name, runs):
    checkpoint, expected = runs.last_checkpoint(name), runs.last_checkpoint("adapted/single")
    for file in ("model.safetensors", "raw_backbone.safetensors"):
        weights, expected_weights = load_file(checkpoint / file), load_file(expected / file)
        assert weights.keys() == expected_weights.keys() - (set() if name == ON_ONE_RANK else {"head.weight"})
        assert any("lora_B" in key for key in weights) and any("projection" in key for key in weights)
        assert not any(".base_layer." in key or ".original_module." in key for key in weights)
        for key in weights:
            torch.testing.assert_close(weights[key], expected_weights[key], atol=1e-4, rtol=1e-4)
    base, expected_base = (json.loads((each / "base_of_adapter.json").read_text()) for each in (checkpoint, expected))
    assert base == expected_base


@pytest.mark.parametrize("name", [*RUNS, ON_ONE_RANK])
def test_the_adapter_is_saved_merged_and_alone(name, runs):
    saved, expected = (runs.place(each) / "saved" for each in (name, "adapted/single"))
    merged = embed(AutoModel.from_pretrained(saved))
    torch.testing.assert_close(merged, embed(AutoModel.from_pretrained(expected)), atol=1e-4, rtol=0)
    base = build("clip").backbone
    assert not torch.allclose(embed(base), merged, atol=1e-2)
    torch.testing.assert_close(embed(PeftModel.from_pretrained(base, saved / "adapter")), merged, atol=1e-5, rtol=0)


@pytest.mark.slow  # four more runs on two ranks, of what the quick ones show for layers without statistics
def test_adapters_with_statistics_train_as_with_plain_data_parallelism(tmp_path):
    pytest.importorskip("deepspeed", reason='it is an engine of its own: pip install "hf_face[deepspeed]"')
    runs = EngineRuns(tmp_path, CASES)
    names = ["statistics/fsdp", "statistics/zero2 from statistics/fsdp", "statistics/zero3"]
    runs.launch("statistics/ddp", *names)
    expected = embed(AutoModel.from_pretrained(runs.place("statistics/ddp") / "saved"))
    for name in names:
        np.testing.assert_allclose(runs.logged(name, "loss"), runs.logged("statistics/ddp", "loss"), atol=1e-4)
        saved = runs.place(name) / "saved"
        torch.testing.assert_close(embed(AutoModel.from_pretrained(saved)), expected, atol=1e-4, rtol=0)
        adapted = PeftModel.from_pretrained(build("iresnet").backbone, saved / "adapter")
        torch.testing.assert_close(embed(adapted), expected, atol=1e-4, rtol=0)
