"""
Every engine, started by its launch file, trains like a single process, and goes on from what another one saved.

    pytest tests/training/test_engines_matrix.py

ends with a table: the engines, and how far their losses, checkpoints and models are from those of the others.
"""

import json
import os
import shutil
import socket
import stat
import subprocess
import sys
from collections.abc import Sequence
from itertools import groupby
from pathlib import Path

import forked
import numpy as np
import pytest
import torch
import yaml
from safetensors.torch import load_file
from tiny_recipe import TINY_RECIPE
from transformers import AutoModel

from hf_face.heads.head_files import INDEX_NAME, read_weight

HERE, ROOT = Path(__file__).parent, Path(__file__).parents[2]
LAUNCH_FILES = ROOT / "recipes" / "accelerate"
RECIPE = {
    **TINY_RECIPE,
    "augmentation": [],
    "max_steps": 10,
    "adam_epsilon": 0.01,  # with less, Adam enlarges what rounding leaves of gradients near zero
    "eval_strategy": "no",
    "save_steps": 5,
}
SPLIT = ["--shard_head", "true"]
# In the order in which they train, those of one file in one launch. Each goes on from what the one before it saved.
ENGINES = {
    "single": [],
    "zero3": [],
    "multi_gpu": [],
    "multi_gpu, split head": SPLIT,
    "zero2_offload": [],
    "fsdp": [],
    "fsdp, split head": SPLIT,
    "zero1": [],
    "zero3_offload": [],
    "zero2": [],
    "zero2, split head": SPLIT,
    "zero1_offload": [],
}
BEFORE = dict(zip(ENGINES, [list(ENGINES)[-1], *ENGINES], strict=False))

pytest.importorskip("deepspeed", reason='it is an engine of its own: pip install "hf_face[deepspeed]"')
pytestmark = pytest.mark.skipif(not shutil.which("g++"), reason="DeepSpeed compiles its operators with g++")


def launch_file_of(engine: str) -> str:
    return engine.partition(",")[0]


def num_ranks(engine: str) -> int:
    return 1 if engine == "single" else 2


def settings(engine: str) -> list[str]:
    batch = ["--per_device_train_batch_size", str(16 // num_ranks(engine)), *ENGINES[engine]]
    return [*batch, "--ddp_backend", "gloo"] if engine.startswith("zero") else batch


class Runs:
    """
    Trainings in a folder, each named by its engine or as going on from another engine's checkpoint.

    Args:
        folder: The folder.
        settings: Arguments of all of them.
    """

    def __init__(self, folder: Path, settings: Sequence[str] = ()):
        self.folder, self.settings = folder, settings
        (folder / "recipe.yaml").write_text(yaml.safe_dump(RECIPE))

    def launch(self, launch_file: str, trainings: list[list[str]]) -> list[list[str]]:
        """The launch of trainings one after the other, on one machine."""
        launch = ["launch", "--config_file", str(LAUNCH_FILES / f"{launch_file}.yaml"), "--main_process_port", "0"]
        launch += ["--num_processes", str(num_ranks(launch_file)), str(HERE / "trainings.py"), json.dumps(trainings)]
        return [["accelerate", *launch]]

    def launch_all(self) -> None:
        """Train under every engine, in the order of `ENGINES`, and from what the one before it saved."""
        launches = []
        for launch_file, engines in groupby(ENGINES, launch_file_of):
            launches.append(self.launch(launch_file, [training for each in engines for training in self.all_of(each)]))
        run([*launches, self.launch("single", self.go_on("single", BEFORE["single"]))])

    def to(self, name: str) -> list[str]:
        return [str(self.folder / "recipe.yaml"), "--output_dir", str(self.folder / name), *self.settings]

    def train(self, engine: str) -> list[list[str]]:
        own = settings(engine)
        return [
            ["float32", *self.to(engine), *own],
            [*self.to(f"{engine} in bfloat16"), *own, "--save_steps", "10"],
        ]

    def go_on(self, engine: str, source: str) -> list[list[str]]:
        """A training from the middle of another, and the model of one that has ended."""
        halfway, end = (str(self.folder / source / f"checkpoint-{step}") for step in (5, 10))
        own = [*settings(engine), "--resume_from_checkpoint"]
        return [
            ["float32", *self.to(f"{engine} from {source}"), *own, halfway],
            ["float32", *self.to(f"{engine} of {source}"), *own, end],
        ]

    def all_of(self, engine: str) -> list[list[str]]:
        """What an engine does in its turn. The first one cannot go on from another yet."""
        return self.train(engine) + (self.go_on(engine, BEFORE[engine]) if engine != "single" else [])

    def losses(self, name: str) -> np.ndarray:
        state = json.loads((self.folder / name / "checkpoint-10" / "trainer_state.json").read_text())
        return np.array([entry["loss"] for entry in state["log_history"] if "loss" in entry])

    def saved(self, name: str) -> dict[str, torch.Tensor]:
        """What a checkpoint has of weights and of the optimizer's state, but for that of a head in parts."""
        checkpoint = self.folder / name / "checkpoint-5"
        weights = load_file(checkpoint / "model.safetensors")
        if (checkpoint / INDEX_NAME).is_file():
            weights["head.weight"] = read_weight(checkpoint)
        states = torch.load(checkpoint / "optimizer.pt", weights_only=True)["state"]
        return weights | {f"{i}.{key}": value for i, state in states.items() for key, value in state.items()}

    def exported(self, name: str) -> torch.Tensor:
        images = torch.rand(4, 3, 32, 32, generator=torch.Generator().manual_seed(0))
        with torch.no_grad():
            return AutoModel.from_pretrained(self.folder / name).eval()(images).pooler_output

    def check(self, engine: str) -> dict[str, str]:
        """Fails unless an engine does as a single process and as the engine before it; how far it is from these."""
        source = BEFORE[engine]
        single, saved = self.saved("single"), self.saved(engine)
        found = {
            "train": largest_difference(self.losses(engine), self.losses("single")),
            "bfloat16": largest_difference(self.losses(f"{engine} in bfloat16"), self.losses("single in bfloat16")),
            "save": max(largest_difference(saved[name], single[name]) for name in saved),
            "resume": largest_difference(self.losses(f"{engine} from {source}"), self.losses(source)),
            "export": largest_difference(self.exported(f"{engine} of {source}"), self.exported(source)),
        }
        assert found["train"] < 1e-4 and found["resume"] < 1e-4 and found["save"] < 1e-4
        assert found["bfloat16"] < 0.2  # of losses up to 60, with 8 bits
        assert found["export"] == 0
        assert len(self.losses(engine)) == 10 and np.ptp(self.losses(engine)) > 1
        assert saved.keys() == single.keys() or "split head" in engine  # whose optimizer's state is in other files
        return {"engine": engine, **{name: f"{cell:.0e}" for name, cell in found.items()}, "from": source}


def run(launches: list[list[list[str]]]) -> None:
    # accelerate does not start DeepSpeed where it is told to use the CPU
    environment = {"DS_ACCELERATOR": "cpu", "ACCELERATE_USE_CPU": "false"}
    ranks = forked.start([HERE / "launches.py", json.dumps(launches)], **environment)
    assert ranks.wait(timeout=900) == 0, ranks.stderr[-3000:]


def largest_difference(found, wanted) -> float:
    return float(abs(np.asarray(found) - np.asarray(wanted)).max())


@pytest.fixture(scope="module")
def runs(tmp_path_factory) -> Runs:
    runs = Runs(tmp_path_factory.mktemp("engines"))
    runs.launch_all()
    return runs


@pytest.mark.parametrize("engine", ENGINES)
def test_an_engine_trains_saves_resumes_and_exports(engine, runs, record_property):
    record_property("row", runs.check(engine))


@pytest.mark.slow  # the launches of every engine once more; test_engines_lora.py has the engines without launchers
def test_every_engine_does_so_with_adapters(tmp_path, record_property):
    settings = ["--lora", json.dumps({"r": 4, "target_modules": ["qkv"]}), "--ema_decay", "0.9"]
    runs = Runs(tmp_path, [*settings, "--gradient_checkpointing", "true"])
    runs.launch_all()
    for engine in ENGINES:
        record_property("row", {**runs.check(engine), "engine": f"{engine}, adapters"})
        assert (tmp_path / engine / "adapter" / "adapter_model.safetensors").is_file()


@pytest.mark.slow  # each engine from each other one: what the ring of all engines shows is that they save the same
def test_each_engine_goes_on_from_each_other(runs):
    pairs = [(engine, source) for engine in ENGINES for source in ENGINES if source not in (engine, BEFORE[engine])]
    launches = groupby(pairs, lambda pair: launch_file_of(pair[0]))
    run([runs.launch(file, [run for pair in group for run in runs.go_on(*pair)]) for file, group in launches])
    for engine, source in pairs:
        assert largest_difference(runs.losses(f"{engine} from {source}"), runs.losses(source)) < 1e-4, (engine, source)
        assert torch.equal(runs.exported(f"{engine} of {source}"), runs.exported(source)), (engine, source)


@pytest.mark.parametrize("path", sorted(LAUNCH_FILES.glob("*.yaml")), ids=lambda path: path.stem)
def test_a_launch_file_says_how_it_is_used(path):
    text = path.read_text()
    assert f"    accelerate launch --config_file recipes/accelerate/{path.name} scripts/train.py RECIPE" in text
    assert yaml.safe_load(text)["mixed_precision"] == ("no" if path.stem == "cpu" else "bf16")
    assert path.stem == "cpu" or path.stem in map(launch_file_of, ENGINES)
    assert f"`{path.stem}`" in (LAUNCH_FILES / "README.md").read_text()


@pytest.fixture
def programs(tmp_path, monkeypatch) -> Path:
    """A folder of programs that take the place of SLURM's, and of launchers that only write down their arguments."""
    folder = tmp_path / "programs"
    folder.mkdir()
    note = f"""printf '%s\\0' "${{0##*/}}" "$@" > {tmp_path}/call$SLURM_NODEID"""
    scripts = {
        "hf-face": f'exec {sys.executable} -m hf_face.cli "$@"',
        "scontrol": "printf 'localhost\\nother\\n'",
        "srun": 'for SLURM_NODEID in 0 1; do export SLURM_NODEID; "$@"; done',
        **dict.fromkeys(("accelerate", "torchrun"), note),
    }
    for name, script in scripts.items():
        (folder / name).write_text(f"#!/bin/bash\n{script}\n")
        (folder / name).chmod(stat.S_IRWXU)
    monkeypatch.setenv("PATH", f"{folder}{os.pathsep}{os.environ['PATH']}")
    return folder


@pytest.mark.parametrize("script", ["slurm", "torchrun"])
def test_several_machines_train_like_one(script, programs, runs, tmp_path):
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = str(free.getsockname()[1])
    names = {"PORT": port, "FIRST_NODE": "localhost", "NODES": "2", "GPUS_PER_NODE": "1"}
    names |= {"SLURM_JOB_NUM_NODES": "2", "SLURM_GPUS_ON_NODE": "1", "SLURM_JOB_NODELIST": "nodes"}
    launch_file = ["multi_gpu"] if script == "slurm" else []
    training = [*runs.to(script), "--per_device_train_batch_size", "8"]
    training += ["--use_cpu", "true"]  # without which transformers refuses --bf16 here
    command = ["bash", str(LAUNCH_FILES / f"{script}.sh"), *launch_file, *training]
    subprocess.run(command, env=os.environ | names | {"PYTHONPATH": str(ROOT)}, check=True)
    calls = [call.read_text().split("\0")[:-1] for call in sorted(tmp_path.glob("call*"))]
    run([calls if script == "slurm" else calls * 2])
    assert largest_difference(runs.losses(script), runs.losses("multi_gpu in bfloat16")) < 1e-4
