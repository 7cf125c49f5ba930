"""
Images a second of training on one CPU rank and on two, each bound to a core of its own.

    python benchmarks/scaling.py

Linear scaling is 2. The batch per rank stays the same, and augmentation and decoding are in the ranks.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

RECIPE = """
train_data: [orl]
held_out_identities: 0
margin: arcface
per_device_train_batch_size: 64
num_train_epochs: 1000
eval_strategy: "no"
save_strategy: "no"
report_to: none
disable_tqdm: true
backbone:
  model_type: timm_face
  architecture: vit_tiny_patch16_224
  model_args: {img_size: 64, patch_size: 8}
  embedding_size: 512
  image_size: 64
"""


def images_per_second(cores: list[int], steps: int, folder: Path) -> float:
    """Train on one rank per core, and return the rate that the trainer reports."""
    recipe = folder / "recipe.yaml"
    recipe.write_text(RECIPE)
    output = folder / f"{len(cores)}_ranks"
    launch = [
        sys.executable,
        "-m",
        "torch.distributed.run",
        "--standalone",
        "--nproc_per_node",
        str(len(cores)),
        __file__,
        "--cores",
        *map(str, cores),
    ]
    train = ["--train", str(recipe), "--max_steps", str(steps), "--output_dir", str(output), "--use_cpu", "true"]
    subprocess.run([*launch, *train], check=True, stdout=sys.stderr, env=os.environ | {"OMP_NUM_THREADS": "1"})
    return json.loads((output / "train_results.json").read_text())["train_samples_per_second"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cores", type=int, nargs="+", default=[0, 1], help="cores of the ranks, one each")
    parser.add_argument("--steps", type=int, default=30, help="steps of a training")
    parser.add_argument("--repeats", type=int, default=3, help="trainings of each kind, in turn; the median counts")
    parser.add_argument("--train", nargs=argparse.REMAINDER, help=argparse.SUPPRESS)  # in a rank
    args = parser.parse_args()
    if args.train:
        os.sched_setaffinity(0, {args.cores[int(os.environ["LOCAL_RANK"])]})
        from hf_face.cli.train import main as train

        train(args.train)
        return
    rates: dict[int, list[float]] = {1: [], len(args.cores): []}
    with tempfile.TemporaryDirectory() as folder:
        for repeat in range(args.repeats):
            for ranks in rates:
                rates[ranks].append(images_per_second(args.cores[:ranks], args.steps, Path(folder)))
                print(f"{repeat + 1}: {ranks} ranks, {rates[ranks][-1]:.1f} images a second", file=sys.stderr)
    one, several = (sorted(each)[len(each) // 2] for each in rates.values())
    print(f"1 rank: {one:.1f}, {len(args.cores)} ranks: {several:.1f} images a second, {several / one:.2f} times")


if __name__ == "__main__":
    main()
