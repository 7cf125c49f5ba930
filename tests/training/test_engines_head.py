"""Split and sampled class centers and averaged weights under FSDP 2 and DeepSpeed, beside plain data parallelism."""

import json

import numpy as np
import pytest
import torch
from engine_runs import EngineRuns
from safetensors.torch import load_file
from transformers import AutoModel

from hf_face.training.checkpoint_files import find_defect
from hf_face.training.hub_checkpoint import as_saved, publish_checkpoint

SPLIT = {
    "shard_head": True,
    "max_steps": 20,
    "save_steps": 10,
    "gradient_accumulation_steps": 2,
    "lr_scheduler_type": "cosine",
    "ema_decay": 0.9,
    "eval_strategy": "steps",
    "eval_steps": 20,
}
SAMPLED = {
    "shard_head": True,
    "partial_fc_sample_rate": 0.3,
    "max_steps": 8,
    "save_steps": 4,
    "optim": "sgd",
    "optim_args": "momentum=0.9",
    "max_grad_norm": 0.0,
}
BEST = {
    "max_steps": 4,
    "save_steps": 2,
    "eval_strategy": "steps",
    "eval_steps": 2,
    "load_best_model_at_end": True,
    "metric_for_best_model": "orl_num_genuine",  # never gets better than at the first evaluation
    "greater_is_better": True,
}
STOPPED = {**SPLIT, "save_strategy": "no", "stop_in": 2}
CASES = {"split": SPLIT, "sampled": SAMPLED, "whole": {**SPLIT, "shard_head": False}, "best": BEST, "stopped": STOPPED}
RUNS = [
    *(f"split/{engine}" for engine in ("ddp", "fsdp", "zero2", "zero3")),
    *(f"sampled/{engine}" for engine in ("ddp", "fsdp", "zero3")),
    "whole/fsdp",
    # second halves, under one engine from the middle of a run under another
    "split/zero1 from split/fsdp",
    "split/ddp from split/zero3",
    "split/zero3 from whole/fsdp",
    "whole/fsdp from split/zero2",
    "whole/zero3 from split/ddp",
    "sampled/zero2 from sampled/fsdp",
    "sampled/fsdp from sampled/zero3",
]
BEST_RUNS = ["best/fsdp", "best/zero3"]
STOPPED_RUNS = ["stopped/fsdp", "stopped/zero3"]


@pytest.fixture(scope="module")
def runs(tmp_path_factory) -> EngineRuns:
    pytest.importorskip("deepspeed", reason="it is an optional engine: pip install hf_face[deepspeed]")
    runs = EngineRuns(tmp_path_factory.mktemp("runs"), CASES)
    runs.launch(*RUNS, *BEST_RUNS, *STOPPED_RUNS)
    return runs


def plain(name: str) -> str:
    """The run of plain data parallelism that a run must equal."""
    return "sampled/ddp" if name.startswith("sampled") else "split/ddp"


@pytest.mark.parametrize("name", RUNS)
def test_every_engine_trains_as_plain_data_parallelism(name, runs):
    """The argument fsdp or deepspeed chooses the engine."""
    losses, norms = (runs.logged(name, key) for key in ("loss", "grad_norm"))
    assert len(losses) == runs.settings(name)["max_steps"] and np.ptp(losses) > 5
    np.testing.assert_allclose(losses, runs.logged(plain(name), "loss"), atol=1e-4, rtol=0)
    np.testing.assert_allclose(norms, runs.logged(plain(name), "grad_norm"), rtol=1e-4)
    for metric in ("eval_orl_auc", "eval_orl_threshold"):
        np.testing.assert_allclose(runs.logged(name, metric), runs.logged(plain(name), metric), atol=1e-3)


@pytest.mark.parametrize("name", RUNS)
def test_every_engine_saves_the_same(name, runs):
    run, expected = runs.last_checkpoint(name), runs.last_checkpoint(plain(name))
    names, expected_names = ({path.name for path in each.iterdir()} for each in (run, expected))
    head = {name for name in expected_names if name.startswith("head")}
    assert names == (expected_names - head if name.startswith("whole") else expected_names)
    for file in names & {"model.safetensors", "raw_backbone.safetensors", *head} - {"head.index.json"}:
        weights, expected_weights = load_file(run / file), load_file(expected / file)
        weights.pop("head.weight", None)
        assert {key: each.shape for key, each in weights.items()} == {k: e.shape for k, e in expected_weights.items()}
    images = torch.rand(4, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        embeddings, expected_embeddings = (
            AutoModel.from_pretrained(runs.place(each) / "saved").eval()(images).pooler_output
            for each in (name, plain(name))
        )
    torch.testing.assert_close(embeddings, expected_embeddings, atol=1e-3, rtol=0)


@pytest.mark.parametrize("name", ["split/ddp", "split/fsdp", "split/zero3"])
def test_the_average_is_saved_beside_the_weights_to_go_on_from(name, runs):
    run = runs.last_checkpoint(name)
    average, raw = load_file(run / "model.safetensors"), load_file(run / "raw_backbone.safetensors")
    exported = load_file(runs.place(name) / "saved" / "model.safetensors")
    for key, weight in exported.items():
        torch.testing.assert_close(weight, average[f"backbone.{key}"])
        assert not torch.equal(weight, raw[key])


@pytest.mark.parametrize("name", BEST_RUNS)
def test_the_best_weights_are_loaded_evaluated_and_saved(name, runs):
    run = runs.place(name)
    saved = load_file(run / "saved" / "model.safetensors")
    best, last = (load_file(run / f"checkpoint-{step}" / "model.safetensors") for step in (2, 4))
    for key, weight in saved.items():
        assert torch.equal(weight, best[f"backbone.{key}"])
    assert not torch.equal(best["head.weight"], last["head.weight"])
    again = json.loads((run / "eval_results.json").read_text())
    assert again["eval_orl_auc"] == runs.logged(name, "eval_orl_auc")[0]


@pytest.mark.parametrize("name", STOPPED_RUNS)
def test_a_scheduler_s_signal_at_one_rank_stops_all_with_a_checkpoint(name, runs):
    (checkpoint,) = runs.place(name).glob("checkpoint-*")
    assert checkpoint.name == "checkpoint-2" and find_defect(checkpoint) is None
    losses = [entry["loss"] for entry in json.loads((checkpoint / "trainer_state.json").read_text())["log_history"]]
    np.testing.assert_allclose(losses, runs.logged("split/ddp", "loss")[:2], atol=1e-4, rtol=0)


def test_checkpoints_of_engines_are_published_without_pickles(runs, tmp_path):
    checkpoint = runs.last_checkpoint("split/zero3")
    publish_checkpoint(checkpoint, tmp_path / "published")
    assert {path.suffix for path in (tmp_path / "published").iterdir()} == {".safetensors", ".json"}
    with as_saved(tmp_path / "published") as resumable:
        state, saved = (torch.load(each / "optimizer.pt", weights_only=True) for each in (resumable, checkpoint))
    torch.testing.assert_close(state, saved)
