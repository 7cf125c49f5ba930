"""scripts/train.py as it is launched: on one rank, on two, killed and started again."""

import json
import subprocess
import sys
import time
from pathlib import Path

import forked
import numpy as np
import pytest
import yaml
from tiny_recipe import TINY_RECIPE

from hf_face.training import last_complete_checkpoint

ROOT = Path(__file__).parents[2]
STEPS = 20
RECIPE = {
    **TINY_RECIPE,
    "augmentation": "flip",
    "max_steps": STEPS,
    "save_steps": 4,
    "resume_from_checkpoint": "auto",
}

# What shrinks a published recipe to a few seconds on a CPU.
HERE = {
    **{name: value for name, value in RECIPE.items() if name not in ("backbone", "margin")},
    "eval_data": [],
    "eval_strategy": "no",
    "bf16": False,
    "dataloader_num_workers": 0,
}
TRANSFACE = {
    "model_type": "vit_face",
    "image_size": 32,
    "patch_size": 8,
    "hidden_size": 16,
    "intermediate_size": 32,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "embedding_size": 16,
    "mask_ratio": 0.0,
    "patch_weighting": True,
}


def arguments(folder: Path, num_ranks: int, *overrides: str) -> list[str]:
    folder.mkdir(exist_ok=True)
    if not (folder / "recipe.yaml").exists():
        (folder / "recipe.yaml").write_text(yaml.safe_dump(RECIPE))
    batch = ["--per_device_train_batch_size", str(16 // num_ranks), "--output_dir", str(folder / "run")]
    return ["scripts/train.py", str(folder / "recipe.yaml"), *batch, *overrides]


def launch_two(folder: Path, *overrides: str) -> list[float]:
    """The losses of all steps of a run that accelerate launches as users do, all its processes new."""
    command = ["-m", "accelerate.commands.launch", "--config_file", "recipes/accelerate/cpu.yaml"]
    command += arguments(folder, 2, *overrides)
    done = subprocess.run([sys.executable, *command], cwd=ROOT, capture_output=True, text=True, timeout=180)
    assert done.returncode == 0, done.stderr[-3000:]
    return losses(folder)


def train(folder: Path, num_ranks: int = 1, *overrides: str) -> list[float]:
    """The losses of all steps of a run that ends well."""
    forked.run(arguments(folder, num_ranks, *overrides), num_ranks)
    return losses(folder)


def losses(folder: Path) -> list[float]:
    state = json.loads(Path(last_complete_checkpoint(folder / "run"), "trainer_state.json").read_text())
    return [entry["loss"] for entry in state["log_history"] if "loss" in entry]


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory) -> list[float]:
    folder = tmp_path_factory.mktemp("uninterrupted")
    command = ["accelerate", "launch", "--cpu", "--num_processes", "1", *arguments(folder, 1)]
    forked.run([Path(__file__).with_name("launches.py"), json.dumps([[command]])])
    return losses(folder)


def kill_after_the_first_checkpoint(folder: Path, num_ranks: int = 1, *overrides: str) -> None:
    run = forked.start(arguments(folder, num_ranks, *overrides), num_ranks)
    while not list(folder.glob("run/checkpoint-*/*")):
        assert all(process.is_alive() for process in run.processes), "the run ended before its first checkpoint"
        time.sleep(0.02)
    run.kill()


def test_a_killed_run_that_is_started_again_repeats_the_uninterrupted_one_exactly(tmp_path, uninterrupted):
    kill_after_the_first_checkpoint(tmp_path)
    assert len(train(tmp_path)) == STEPS
    assert losses(tmp_path) == uninterrupted


@pytest.mark.slow  # three launches of two ranks
def test_transface_on_two_ranks_is_killed_and_goes_on_as_if_it_had_not_been(tmp_path):
    transface = ["--backbone", json.dumps(TRANSFACE), "--method", '{"transface": {"probability": 0.5}}']
    transface += ["--gradient_accumulation_steps", "2", "--ema_decay", "0.9"]
    transface += ["--partial_fc_sample_rate", "0.5", "--shard_head", "true"]
    uninterrupted = train(tmp_path / "whole", 2, *transface)
    kill_after_the_first_checkpoint(tmp_path / "killed", 2, *transface)
    assert len(uninterrupted) == STEPS
    assert train(tmp_path / "killed", 2, *transface) == uninterrupted


@pytest.mark.slow  # three launches of two ranks each
@pytest.mark.parametrize("name", ["transface/ms1mv2_vit_s", "froundation/clip_b16_casia"])
def test_a_published_recipe_on_two_ranks_is_killed_and_goes_on(tmp_path, name, clip):
    own = (
        {"backbone": {**TRANSFACE, "image_size": 32}}
        if name.startswith("transface")
        else {"model_name_or_path": clip, "backbone": {"image_size": 32}}
    )
    for folder in ("whole", "killed"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "recipe.yaml").write_text(yaml.safe_dump({"extends": name, **HERE, **own}))
    uninterrupted = train(tmp_path / "whole", 2)
    kill_after_the_first_checkpoint(tmp_path / "killed", 2)
    assert len(uninterrupted) == STEPS
    assert train(tmp_path / "killed", 2) == uninterrupted


def test_two_ranks_train_like_one(tmp_path):
    settings = ["--augmentation", "[]", "--held_out_identities", "10"]
    one = train(tmp_path / "one", 1, *settings)
    two = launch_two(tmp_path / "two", *settings)
    assert Path(last_complete_checkpoint(tmp_path / "two" / "run"), "rng_state_1.pth").is_file()
    assert len(one) == STEPS
    np.testing.assert_allclose(two, one, atol=1e-4, rtol=0)


@pytest.mark.slow  # two launches of one rank, four of two
def test_memories_and_split_heads_make_no_difference(tmp_path):
    for method in ("lvface", "unitsface"):
        shared = ["--augmentation", "[]", "--method", method, "--margin", "cosface", "--max_steps", "8"]
        one = train(tmp_path / method, 1, *shared)
        for split in ("false", "true"):
            two = train(tmp_path / f"{method}_{split}", 2, *shared, "--shard_head", split)
            np.testing.assert_allclose(two, one, atol=1e-4, rtol=1e-6)  # of float32, for losses above 1,000


def test_a_head_split_over_two_ranks_goes_on_on_one(tmp_path):
    sharded = train(tmp_path, 2, "--augmentation", "[]", "--shard_head", "true")
    for folder in tmp_path.glob("run/checkpoint-*"):
        if folder.name != "checkpoint-8":
            subprocess.run(["rm", "-r", str(folder)], check=True)
    assert len(losses(tmp_path)) == 8
    resumed = train(tmp_path, 1, "--augmentation", "[]", "--shard_head", "true")
    np.testing.assert_allclose(resumed, sharded, atol=1e-4, rtol=0)
