"""Steps that are not finite, under FSDP 2 and DeepSpeed: skipped as in a single process, or the last of a run."""

import json

import numpy as np
import pytest
import torch
from engine_runs import EngineRuns
from safetensors.torch import load_file

# Of two batches in each step: the second step's first has a gradient that is not finite, the fourth step's second only
# a loss.
SKIPPED = {
    "on_divergence": "skip",
    "poisoned": {"3": "gradient", "8": "loss"},
    "gradient_accumulation_steps": 2,
    "adam_epsilon": 0.01,  # with less, Adam enlarges what rounding leaves of gradients near zero
    "lr_scheduler_type": "cosine",
    "max_steps": 5,
    "save_steps": 5,
}
STOPPED = {"poisoned": {"2": "loss"}, "max_steps": 3, "save_steps": 1}
CASES = {"whole": SKIPPED, "split": {**SKIPPED, "shard_head": True}, "stopped": STOPPED}
STOPPED_RUNS = ["stopped/zero2", "stopped/zero3"]
RUNS = ["whole/fsdp", "split/zero1", "whole/zero2", "split/zero3"]


@pytest.fixture(scope="module")
def runs(tmp_path_factory) -> EngineRuns:
    pytest.importorskip("deepspeed", reason='it is an engine of its own: pip install "hf_face[deepspeed]"')
    runs = EngineRuns(tmp_path_factory.mktemp("runs"), CASES)
    runs.launch("whole/single", num_ranks=1)
    runs.launch(*RUNS, *STOPPED_RUNS)
    return runs


@pytest.mark.parametrize("name", RUNS)
def test_a_step_that_diverges_on_one_rank_is_skipped_on_all(name, runs):
    losses = runs.logged(name, "loss")
    assert len(losses) == 3 and np.ptp(losses) > 5
    np.testing.assert_allclose(losses, runs.logged("whole/single", "loss"), atol=1e-4, rtol=0)
    for key in ("skipped_steps", "learning_rate"):
        assert runs.logged(name, key) == runs.logged("whole/single", key)
    written = [json.loads(line) for line in (runs.place(name) / "not_finite.jsonl").open()]
    assert [(entry["step"], len(entry["rows"])) for entry in written] == [(2, 4), (4, 4)]


@pytest.mark.parametrize("name", RUNS)
def test_training_goes_on_from_before_the_skipped_step(name, runs):
    checkpoint, expected = runs.last_checkpoint(name), runs.last_checkpoint("whole/single")
    weights, expected_weights = (load_file(each / "model.safetensors") for each in (checkpoint, expected))
    for key in weights:
        torch.testing.assert_close(weights[key], expected_weights[key], atol=1e-4, rtol=1e-4, msg=key)
    states, expected_states = (
        torch.load(each / "optimizer.pt", weights_only=True)["state"] for each in (checkpoint, expected)
    )
    assert {int(state["step"]) for state in states.values()} == {3}
    for number, state in states.items():
        torch.testing.assert_close(state["exp_avg"], expected_states[number]["exp_avg"], atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("name", STOPPED_RUNS)
def test_a_run_that_stops_has_the_weights_from_before(name, runs):
    assert [path.name for path in runs.place(name).glob("checkpoint-*")] == ["checkpoint-1"]
    before = load_file(runs.place(name) / "checkpoint-1" / "model.safetensors")
    for key, weight in load_file(runs.place(name) / "saved" / "model.safetensors").items():
        assert torch.equal(weight, before[f"backbone.{key}"]), key
