"""Split and sampled class centers and averaged weights under FSDP 2 and DeepSpeed, beside plain data parallelism."""

import json
from pathlib import Path

import forked
import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModel

from hf_face.training.checkpoint_files import find_defect
from hf_face.training.hub_checkpoint import as_saved, publish_checkpoint

SCRIPT = Path(__file__).with_name("engines_with_head.py")
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
def folder(tmp_path_factory):
    pytest.importorskip("deepspeed", reason="it is an optional engine: pip install hf_face[deepspeed]")
    folder = tmp_path_factory.mktemp("runs")
    ranks = forked.start(
        [SCRIPT, json.dumps([run_of(folder, name) for name in RUNS + BEST_RUNS + STOPPED_RUNS])],
        2,
        DS_ACCELERATOR="cpu",
    )
    assert ranks.wait(timeout=400) == 0, ranks.stderr[-3000:]
    return folder


def run_of(folder: Path, name: str) -> dict:
    (case, engine), start = name.partition(" from ")[0].split("/"), name.partition(" from ")[2]
    settings = CASES[case]
    resume = {"resume_from": f"{place(folder, start)}/checkpoint-{settings['save_steps']}"} if start else {}
    return {"folder": str(place(folder, name)), "engine": engine, **settings, **resume}


def place(folder: Path, name: str) -> Path:
    return folder / name.replace("/", "-").replace(" ", "-")


def last_checkpoint(folder: Path, name: str) -> Path:
    return place(folder, name) / f"checkpoint-{CASES[name.partition('/')[0]]['max_steps']}"


def logged(folder: Path, name: str, key: str) -> list[float]:
    state = json.loads((last_checkpoint(folder, name) / "trainer_state.json").read_text())
    return [entry[key] for entry in state["log_history"] if key in entry]


def plain(name: str) -> str:
    """The run of plain data parallelism that a run must equal."""
    return "sampled/ddp" if name.startswith("sampled") else "split/ddp"


@pytest.mark.parametrize("name", RUNS)
def test_every_engine_trains_as_plain_data_parallelism(name, folder):
    """The argument fsdp or deepspeed chooses the engine."""
    losses, norms = (logged(folder, name, key) for key in ("loss", "grad_norm"))
    assert len(losses) == CASES[name.partition("/")[0]]["max_steps"] and np.ptp(losses) > 5
    np.testing.assert_allclose(losses, logged(folder, plain(name), "loss"), atol=1e-4, rtol=0)
    np.testing.assert_allclose(norms, logged(folder, plain(name), "grad_norm"), rtol=1e-4)
    for metric in ("eval_orl_auc", "eval_orl_threshold"):
        np.testing.assert_allclose(logged(folder, name, metric), logged(folder, plain(name), metric), atol=1e-3)


@pytest.mark.parametrize("name", RUNS)
def test_every_engine_saves_the_same(name, folder):
    run, expected = last_checkpoint(folder, name), last_checkpoint(folder, plain(name))
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
            AutoModel.from_pretrained(place(folder, each) / "saved").eval()(images).pooler_output
            for each in (name, plain(name))
        )
    torch.testing.assert_close(embeddings, expected_embeddings, atol=1e-3, rtol=0)


@pytest.mark.parametrize("name", ["split/ddp", "split/fsdp", "split/zero3"])
def test_the_average_is_saved_beside_the_weights_to_go_on_from(name, folder):
    run = last_checkpoint(folder, name)
    average, raw = load_file(run / "model.safetensors"), load_file(run / "raw_backbone.safetensors")
    exported = load_file(place(folder, name) / "saved" / "model.safetensors")
    for key, weight in exported.items():
        torch.testing.assert_close(weight, average[f"backbone.{key}"])
        assert not torch.equal(weight, raw[key])


@pytest.mark.parametrize("name", BEST_RUNS)
def test_the_best_weights_are_loaded_evaluated_and_saved(name, folder):
    run = place(folder, name)
    saved = load_file(run / "saved" / "model.safetensors")
    best, last = (load_file(run / f"checkpoint-{step}" / "model.safetensors") for step in (2, 4))
    for key, weight in saved.items():
        assert torch.equal(weight, best[f"backbone.{key}"])
    assert not torch.equal(best["head.weight"], last["head.weight"])
    again = json.loads((run / "eval_results.json").read_text())
    assert again["eval_orl_auc"] == logged(folder, name, "eval_orl_auc")[0]


@pytest.mark.parametrize("name", STOPPED_RUNS)
def test_a_scheduler_s_signal_at_one_rank_stops_all_with_a_checkpoint(name, folder):
    (checkpoint,) = place(folder, name).glob("checkpoint-*")
    assert checkpoint.name == "checkpoint-2" and find_defect(checkpoint) is None
    losses = [entry["loss"] for entry in json.loads((checkpoint / "trainer_state.json").read_text())["log_history"]]
    np.testing.assert_allclose(losses, logged(folder, "split/ddp", "loss")[:2], atol=1e-4, rtol=0)


def test_checkpoints_of_engines_are_published_without_pickles(folder, tmp_path):
    checkpoint = last_checkpoint(folder, "split/zero3")
    publish_checkpoint(checkpoint, tmp_path / "published")
    assert {path.suffix for path in (tmp_path / "published").iterdir()} == {".safetensors", ".json"}
    with as_saved(tmp_path / "published") as resumable:
        state, saved = (torch.load(each / "optimizer.pt", weights_only=True) for each in (resumable, checkpoint))
    torch.testing.assert_close(state, saved)
