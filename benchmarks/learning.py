"""
Proof that it learns: verification accuracy on people never seen, for each margin and method, with the same budget.

    python benchmarks/learning.py --data lfw_112 --weights mobilefacenet.safetensors --minutes 15
    python benchmarks/learning.py --data lfw_112 --weights mobilefacenet.safetensors --rows cosface distilled --seeds 3

Each row is a recipe, trained by `hf-face train` in a process of its own. The budget is the time of training, in which a
row makes as many steps as a short run before it says, or a number of steps (`--steps`). Loading, embedding the images
with the teacher and the evaluation are not counted.

A row's result is written to `<output>/<row>-<seed>.json`. Rows that have one are not run again, and a row that was
interrupted resumes from its last checkpoint. The table of all results is printed at the end, or alone with `--table`.

`--data` has `train.parquet`, `validation.parquet` and `validation_pairs.csv`; `--weights` are the MobileFaceNet of
foamliu/MobileFaceNet, which teaches and is fine-tuned.
"""

import json
import platform
import statistics
import subprocess
import sys
from dataclasses import dataclass, field
from datetime import date
from pathlib import Path
from typing import Any

import torch
import yaml
from transformers import HfArgumentParser

from hf_face.convert import convert_to_folder
from hf_face.data import load_identities, select_identities
from hf_face.training import add_teacher_embeddings

CALIBRATION_STEPS = 20
TEACHER, TAUGHT = "teacher", "taught.parquet"  # in the output folder

COMMON = {
    "augmentation": ["flip", {"random_affine": {"degrees": 5, "translate": 0.05}}, {"color_jitter": {"p": 0.5}}],
    "scale": 32,
    "per_device_train_batch_size": 32,
    "optim": "adamw_torch",
    "learning_rate": 2e-3,
    "weight_decay": 0.05,
    "max_grad_norm": 5,
    "warmup_steps": 0.05,
    "lr_scheduler_type": "cosine",
    "logging_steps": 50,
    "save_steps": 500,
    "save_total_limit": 1,
    "resume_from_checkpoint": "auto",
    "report_to": "none",
    "disable_tqdm": True,
}
SMALL = {
    "backbone": {
        "model_type": "iresnet",
        "depths": [1, 1, 1, 1],
        "hidden_sizes": [32, 64, 128, 256],
        "embedding_size": 128,
        "image_size": 32,  # a step takes a quarter of the time that 64 takes
    },
    "channels_last": True,
}
VIT = {
    "backbone": {
        "model_type": "vit_face",
        "image_size": 64,
        "patch_size": 8,
        "hidden_size": 128,
        "intermediate_size": 512,
        "num_hidden_layers": 4,
        "num_attention_heads": 4,
        "embedding_size": 128,
        "patch_weighting": True,
        "mask_ratio": 0.0,
    },
    "margin": "cosface",
    "learning_rate": 1e-3,
}
TUNED = {"model_name_or_path": TEACHER, "margin": "cosface", "learning_rate": 2e-4, "channels_last": True}

ROWS: dict[str, dict[str, Any]] = {
    "cosface": {**SMALL, "margin": "cosface"},
    "arcface": {**SMALL, "margin": "arcface"},
    "adaface": {**SMALL, "margin": "adaface"},
    "magface": {**SMALL, "margin": "magface"},
    "elasticface": {**SMALL, "margin": "elastic_arcface"},
    "sphereface": {**SMALL, "margin": "sphereface"},
    "vit": VIT,
    "vit_dpap": {**VIT, "method": {"transface": {"ehsm": None}}},
    "vit_ehsm": {**VIT, "method": {"transface": {"probability": 0.0}}},
    "vit_transface": {**VIT, "method": "transface"},
    "fine_tuned": TUNED,
    "fine_tuned_lora": {
        **TUNED,
        "learning_rate": 1e-3,
        "lora": {
            "r": 8,
            "lora_alpha": 16,
            "target_modules": ["expand.convolution", "project.convolution", "projection.linear"],
        },
    },
    "distilled": {
        **SMALL,
        "train_data": [TAUGHT],
        "method": {"distillation": {"column": "teacher_embeddings", "relational_weight": 10.0, "margin_weight": 0.0}},
    },
    "distilled_and_labels": {
        **SMALL,
        "margin": "cosface",
        "train_data": [TAUGHT],
        "method": {"distillation": {"column": "teacher_embeddings", "relational_weight": 10.0, "margin_weight": 0.02}},
    },
}


@dataclass
class BenchmarkArguments:
    data: str = field(metadata={"help": "Folder of train.parquet, validation.parquet and validation_pairs.csv."})
    weights: str = field(metadata={"help": "Weights of foamliu/MobileFaceNet, in safetensors."})
    output: str = field(default="outputs/learning", metadata={"help": "Folder for results and checkpoints."})
    rows: list[str] = field(default_factory=lambda: list(ROWS), metadata={"help": "Rows to run; all by default."})
    minutes: float = field(default=15.0, metadata={"help": "Time of training a row."})
    steps: int | None = field(default=None, metadata={"help": "Steps of a row, instead of minutes."})
    seeds: int = field(default=1, metadata={"help": "Number of seeds of each row: 0, 1, ..."})
    people: int | None = field(default=None, metadata={"help": "Number of people to train on, for a trial."})
    table: bool = field(default=False, metadata={"help": "Only print the table of the results there are."})


def prepare(args: BenchmarkArguments) -> None:
    """Convert the teacher, and embed the training images with it, once."""
    output = Path(args.output)
    if not (output / TEACHER / "preprocessor_config.json").is_file():
        convert_to_folder(args.weights, output / TEACHER, source="mobilefacenet")
    if any(TAUGHT in ROWS[name].get("train_data", ()) for name in args.rows) and not (output / TAUGHT).is_file():
        people = select_identities(load_identities(Path(args.data, "train.parquet")), args.people, seed=0)
        unfinished = output / f"{TAUGHT}.unfinished"
        add_teacher_embeddings(people, output / TEACHER, batch_size=16).to_parquet(unfinished)
        unfinished.rename(output / TAUGHT)


def recipe_of(row: dict[str, Any], args: BenchmarkArguments, run: Path, seed: int) -> dict[str, Any]:
    """The complete recipe of a row."""
    output, data = Path(args.output), Path(args.data)
    recipe = {"train_data": [str(data / "train.parquet")], **COMMON, **row, "seed": seed, "output_dir": str(run)}
    if args.people is not None:
        recipe["num_identities"] = args.people
    pairs = {"data": str(data / "validation_pairs.csv"), "images": str(data / "validation.parquet")}
    recipe["eval_data"] = [{"verification": pairs}]
    if recipe["train_data"] == [TAUGHT]:
        recipe["train_data"] = [str(output / TAUGHT)]
    if "model_name_or_path" in recipe:
        recipe["model_name_or_path"] = str(output / TEACHER)
    return recipe


def train(recipe: dict[str, Any], **overrides) -> dict[str, float]:
    """Train a recipe in a process of its own; return its measurements."""
    recipe = recipe | overrides
    run = Path(recipe["output_dir"])
    run.mkdir(parents=True, exist_ok=True)
    (run / "recipe.yaml").write_text(yaml.safe_dump(recipe, sort_keys=False), encoding="utf-8")
    subprocess.run([sys.executable, "-m", "hf_face.train", str(run / "recipe.yaml")], check=True)
    return json.loads((run / "all_results.json").read_text(encoding="utf-8"))


def steps_of(recipe: dict[str, Any], run: Path, args: BenchmarkArguments) -> int:
    """The number of steps of a row; kept, so that an interrupted one resumes with the same."""
    if args.steps is not None:
        return args.steps
    plan = run.with_suffix(".steps")
    if not plan.is_file():
        trial = {"max_steps": CALIBRATION_STEPS, "save_strategy": "no", "eval_data": [], "resume_from_checkpoint": None}
        measured = train(recipe, output_dir=str(run.with_suffix(".trial")), **trial)
        steps = round(60 * args.minutes * CALIBRATION_STEPS / measured["train_runtime"])
        plan.write_text(str(max(CALIBRATION_STEPS, steps)), encoding="utf-8")
    return int(plan.read_text(encoding="utf-8"))


def run_row(name: str, seed: int, args: BenchmarkArguments) -> None:
    """Train a row with a seed, unless there is a result, and write the result."""
    result = Path(args.output, f"{name}-{seed}.json")
    if result.is_file():
        return
    run = result.with_suffix("")
    recipe = recipe_of(ROWS[name], args, run, seed)
    steps = steps_of(recipe, run, args)
    measured = train(recipe, max_steps=steps)
    found = {
        "row": name,
        "seed": seed,
        "accuracy": measured["eval_validation_pairs_accuracy"],
        "accuracy_std_over_folds": measured["eval_validation_pairs_accuracy_std"],
        "steps": steps,
        "images": steps * recipe["per_device_train_batch_size"],
        "minutes": measured["train_runtime"] / 60,  # of the last part, if the row was interrupted
        "machine": machine(),
        "date": date.today().isoformat(),
    }
    result.write_text(json.dumps(found, indent=2) + "\n", encoding="utf-8")


def machine() -> str:
    if torch.cuda.is_available():
        return torch.cuda.get_device_name()
    return f"{platform.processor() or platform.machine()}, {torch.get_num_threads()} threads"


def table(output: Path) -> str:
    """The results in Markdown, in the order of the rows."""
    found = [json.loads(path.read_text(encoding="utf-8")) for path in sorted(output.glob("*-*.json"))]
    lines = ["| row | accuracy | seeds | steps | minutes | machine | date |", "|---|---|---|---|---|---|---|"]
    for name in ROWS:
        runs = [each for each in found if each["row"] == name]
        if not runs:
            continue
        accuracies = [each["accuracy"] for each in runs]
        spread = f" ± {statistics.stdev(accuracies):.4f}" if len(runs) > 1 else ""
        steps, minutes = (statistics.mean(each[key] for each in runs) for key in ("steps", "minutes"))
        last = runs[-1]
        lines.append(
            f"| {name} | {statistics.mean(accuracies):.4f}{spread} | {len(runs)} | {steps:,.0f} | {minutes:.1f} | "
            f"{last['machine']} | {last['date']} |"
        )
    return "\n".join(lines)


def main() -> None:
    (args,) = HfArgumentParser(BenchmarkArguments, description=__doc__).parse_args_into_dataclasses()
    if unknown := [name for name in args.rows if name not in ROWS]:
        raise SystemExit(f"There are no rows {', '.join(unknown)}. The rows are: {', '.join(ROWS)}.")
    if not args.table:
        prepare(args)
        for seed in range(args.seeds):
            for name in args.rows:
                run_row(name, seed, args)
    print(table(Path(args.output)))


if __name__ == "__main__":
    main()
