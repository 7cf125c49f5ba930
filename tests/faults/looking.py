"""Looking at what a disturbed run has left, beside one that was not disturbed."""

import json
from pathlib import Path

from killing import Life
from safetensors.torch import load_file

from hf_face.training import find_checkpoint


def files(folder: Path) -> set[str]:
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*")}


def same_files(folder: Path, reference: Path, pattern: str) -> None:
    """Each of the files of `folder` is the one of `reference`."""
    for path in folder.glob(pattern):
        assert path.read_bytes() == (reference / path.relative_to(folder)).read_bytes(), f"{path} is another one"


def check_run(folder: Path, reference: Path, life: Life) -> None:
    """The checkpoint to resume from is the newest that was saved, or one that was all there already."""
    found = find_checkpoint("auto", folder / "run")
    step = 0 if found is None else int(found.name.removeprefix("checkpoint-"))
    assert step >= newest_saved(life)
    if found is not None:
        whole = reference / "run" / "checkpoint-12"
        assert log(found) == [entry for entry in log(whole) if entry[0] <= step]
        assert load_file(found / "model.safetensors").keys() == load_file(whole / "model.safetensors").keys()


def newest_saved(life: Life) -> int:
    """The last step of which a checkpoint was saved to the end, or from which the run had gone on."""
    step = newest = 0
    for stage, what, _ in life.said:
        if stage.startswith("step "):
            step = int(stage.split()[1])
        if (stage, what) == ("checkpoint", "ends") or (stage.startswith("step ") and what == "begins"):
            newest = step
    return newest


def log(checkpoint: Path) -> list[tuple]:
    """The losses and accuracies of all steps so far."""
    history = json.loads((checkpoint / "trainer_state.json").read_text())["log_history"]
    kinds = ("loss", "grad_norm", "learning_rate", "eval_orl_accuracy", "eval_orl_auc")
    return [(entry["step"], *(entry.get(kind) for kind in kinds)) for entry in history if "train_runtime" not in entry]


def compare_runs(folder: Path, reference: Path) -> None:
    """Weights, optimizer, random state and history are the same, bit for bit."""
    run, expected = folder / "run", reference / "run"
    states = [path.relative_to(run) for path in run.glob("checkpoint-12/rng_state*")]
    assert states
    for name in ("model.safetensors", "checkpoint-12/model.safetensors", "checkpoint-12/optimizer.pt", *states):
        assert (run / name).read_bytes() == (expected / name).read_bytes(), f"{name} is another one"
    assert log(run / "checkpoint-12") == log(expected / "checkpoint-12")
