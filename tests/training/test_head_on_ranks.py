"""The head in the Trainer: whole on one rank, split over two, sampled, and from one to the other on resuming."""

import json
import runpy
from pathlib import Path

import forked
import numpy as np
import pytest
import torch

from hf_face import FaceRecognitionModel

SCRIPT = Path(__file__).with_name("head_on_ranks.py")
SAMPLED = {"partial_fc_sample_rate": 0.3, "optim": "sgd", "optim_args": "momentum=0.9"}
CASES = {"adamw": {}, "sampled": SAMPLED, "sampled, unclipped": {**SAMPLED, "max_grad_norm": 0.0, "max_steps": 4}}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Runs on one rank in one/CASE, on two in two/CASE, and those that go on from the middle of the other's."""
    folder = tmp_path_factory.mktemp("runs")
    train = runpy.run_path(str(SCRIPT))["train"]

    def start(of, case, resume=None):
        run = {"folder": str(folder / of / case), **CASES[case]}
        if resume is not None:
            run |= {"folder": str(folder / of / f"{case}, resumed"), "resume_from": f"{folder}/{resume}/checkpoint-4"}
        return run

    for case in CASES:
        train(**start("one", case))
    runs = [start("two", case) for case in CASES] + [start("two", "adamw", resume="one/adamw")]
    runs = [{**run, "shard_head": True, "built_split": number == 0} for number, run in enumerate(runs)]
    forked.run([SCRIPT, json.dumps(runs)], num_ranks=2)
    train(**start("one", "sampled", resume="two/sampled"))
    return folder


def logged(run: Path, key: str) -> list[float]:
    last = max(run.glob("checkpoint-*"), key=lambda path: int(path.name.rpartition("-")[2]))
    return [x[key] for x in json.loads((last / "trainer_state.json").read_text())["log_history"] if key in x]


@pytest.mark.parametrize("case", [*CASES, "adamw, resumed"])
def test_a_split_head_trains_as_a_whole_one(case, folder):
    one, two = folder / "one" / case.removesuffix(", resumed"), folder / "two" / case
    for key in ("loss", "grad_norm", "target_cosine"):
        np.testing.assert_allclose(logged(two, key), logged(one, key), rtol=1e-3)
    assert not np.allclose(logged(one, "loss")[0], logged(one, "loss")[1:])
    last = f"checkpoint-{len(logged(one, 'loss'))}"
    whole, split = (FaceRecognitionModel.from_pretrained(run / last).state_dict() for run in (one, two))
    assert whole.keys() == split.keys()
    for name, weight in whole.items():
        torch.testing.assert_close(split[name], weight, rtol=1e-3, atol=2e-4, msg=name)


def test_a_sampled_run_on_two_ranks_goes_on_on_one(folder):
    for key in ("loss", "grad_norm"):
        want = logged(folder / "two" / "sampled", key)
        np.testing.assert_allclose(logged(folder / "one" / "sampled, resumed", key), want, rtol=1e-3)


def test_the_centers_of_a_split_head_and_their_moments_are_on_disk_once(folder):
    checkpoint = folder / "two" / "adamw" / "checkpoint-8"
    shapes = [
        tuple(value.shape)
        for state in torch.load(checkpoint / "optimizer.pt", weights_only=True)["state"].values()
        for value in state.values()
    ]
    assert (20, 16) not in shapes and (24, 24) in shapes
    assert len(list(checkpoint.glob("head-*-of-00002.safetensors"))) == 2


def test_only_sampled_centers_are_trained(folder):
    """After four steps at rate 0.3 some identity that is in no batch was never drawn either, or trained less."""
    start, end = (
        FaceRecognitionModel.from_pretrained(folder / "one" / "sampled" / f"checkpoint-{step}").head.weight
        for step in (4, 8)
    )
    assert (start == end).all(1).any() and not (start == end).all(1).all()
