"""
What each setting of the recipe demo/own_people does, for some dozens of people of LFW as a distant camera sees them.

    python benchmarks/own_people.py --data lfw_112 --mobilefacenet mobilefacenet.safetensors

60 people with up to 12 crops each, reduced to 14 x 14 pixels and enlarged again; 12 of the people are held out. Every
row is the recipe with other fields, run by `hf-face train` in its own process; "untrained" is the evaluation before
the first step. `--data` has `train.parquet`; `--mobilefacenet` are the weights of foamliu/MobileFaceNet.
"""

import json
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import yaml
from datasets import Dataset
from PIL import Image
from transformers import HfArgumentParser

from hf_face.convert import convert_to_folder
from hf_face.data import load_identities
from hf_face.pipelines import default_model
from hf_face.training import last_complete_checkpoint

PEOPLE, CROPS, CAMERA = 60, 12, 14  # pixels of a face in the camera's image
ROWS = {
    "batch norms not frozen": {"freeze_batch_norm": False},
    "random centers": {"head_from": None},
    "the recipe": {},
    "learning rate 1e-3": {"learning_rate": 1e-3},
}


@dataclass
class BenchmarkArguments:
    data: str = field(metadata={"help": "Folder of train.parquet."})
    mobilefacenet: str = field(metadata={"help": "Weights of foamliu/MobileFaceNet, in safetensors."})
    output: str = field(default="outputs/own_people", metadata={"help": "Folder for crops and runs."})
    models: list[str] = field(default_factory=lambda: ["mobilefacenet", "sface"], metadata={"help": "Where to start."})
    rows: list[str] = field(default_factory=lambda: list(ROWS), metadata={"help": "Rows to run; all by default."})


def write_people(faces: Dataset, folder: Path) -> None:
    """A folder per person, with the crops as the camera takes them."""
    labels = np.array(faces["label"])
    draw = np.random.default_rng(0)
    chosen = draw.permutation(np.flatnonzero(np.bincount(labels) >= CROPS - 2))[:PEOPLE]
    for person in chosen.tolist():
        place = folder / faces.features["label"].int2str(person)
        place.mkdir(parents=True)
        for row in draw.permutation(np.flatnonzero(labels == person))[:CROPS].tolist():
            far = faces[row]["image"].convert("RGB").resize((CAMERA, CAMERA), Image.Resampling.BOX)
            far.resize((112, 112), Image.Resampling.BICUBIC).save(place / f"{row}.png")


def train(start: Path, people: Path, run: Path, overrides: dict) -> tuple[dict, dict]:
    """The metrics before training and those of the best epoch."""
    recipe = {
        "extends": "demo/own_people",
        "model_name_or_path": str(start),
        "train_data": [str(people)],
        "held_out_identities": 12,
        "output_dir": str(run),
        "use_cpu": True,
        **overrides,
    }
    run.mkdir(parents=True, exist_ok=True)
    (run / "recipe.yaml").write_text(yaml.safe_dump(recipe), encoding="utf-8")
    subprocess.run([sys.executable, "-m", "hf_face.train", str(run / "recipe.yaml")], check=True)
    state = json.loads(Path(last_complete_checkpoint(run), "trainer_state.json").read_text(encoding="utf-8"))
    before = next(entry for entry in state["log_history"] if "eval_runtime" in entry)
    return before, json.loads((run / "eval_results.json").read_text(encoding="utf-8"))


def shown(metrics: dict) -> str:
    return f"{metrics['eval_people_accuracy']:.4f} | {metrics['eval_people_tar@far=1e-2']:.4f}"


def main() -> None:
    (args,) = HfArgumentParser(BenchmarkArguments, description=__doc__).parse_args_into_dataclasses()
    output = Path(args.output)
    if not (output / "people").is_dir():
        write_people(load_identities(Path(args.data, "train.parquet")), output / "people")
    starts = {"sface": default_model(), "mobilefacenet": output / "mobilefacenet"}
    if not starts["mobilefacenet"].is_dir():
        convert_to_folder(args.mobilefacenet, starts["mobilefacenet"], source="mobilefacenet")
    print("| start | trained with | accuracy | TAR at FAR 1e-2 |\n|---|---|---|---|")
    for model in args.models:
        for number, name in enumerate(args.rows):
            run = output / f"{model}-{name.replace(' ', '_')}"
            before, after = train(starts[model], output / "people", run, ROWS[name])
            if number == 0:
                print(f"| {model} | untrained | {shown(before)} |")
            print(f"| | {name} | {shown(after)} |", flush=True)


if __name__ == "__main__":
    main()
