"""
Show the similarity of two images of one person and of two people with the demo's model, and summarize the demo in one
line of JSON:

    python scripts/show_demo.py outputs/demo
"""

import argparse
import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from datasets import Dataset
from sklearn.decomposition import PCA
from torch.utils.data import DataLoader
from transformers import pipeline

import hf_face  # noqa: F401  registers the model
from hf_face.cli.errors import run_for_people
from hf_face.cli.loading import check_model
from hf_face.data import FaceCollator, FaceDataset, VerificationPairs
from hf_face.evaluation.metrics import cosine_similarities, cross_validated_accuracy
from hf_face.training.recipe import load_data, parse_recipe


def eigenfaces_accuracy(train: Dataset, pairs: VerificationPairs, num_components: int = 100) -> float:
    """Ten-fold accuracy of the cosine between eigenface coefficients (Turk and Pentland 1991), whitened."""
    loaders = (
        DataLoader(FaceDataset(faces), batch_size=len(faces), collate_fn=FaceCollator(image_size=64))
        for faces in (train, pairs.images)
    )
    known, unseen = (next(iter(loader))["pixel_values"].float().mean(1).flatten(1).numpy() for loader in loaders)
    coefficients = PCA(num_components, whiten=True, random_state=0).fit(known).transform(unseen)
    first, second = (coefficients[rows] for rows in pairs.pairs.T)
    return cross_validated_accuracy(pairs.same, cosine_similarities(first, second), pairs.fold).accuracies.mean()


def main(argv: Sequence[str]) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("output_dir", type=Path, help="output folder of a training with the recipe demo/orl")
    output_dir = parser.parse_args(argv).output_dir
    check_model(str(output_dir))
    _, data_args, *_ = parse_recipe(["demo/orl"])
    train, (evaluator,) = load_data(data_args)
    pairs = evaluator.pairs
    extract = pipeline("image-feature-extraction", model=str(output_dir))
    for word, row in (("one person ", np.flatnonzero(pairs.same)[0]), ("two people ", np.flatnonzero(~pairs.same)[0])):
        first, second = (np.array(extract(pairs.images[int(i)]["image"])[0]) for i in pairs.pairs[row])
        print(f"{word}: cosine similarity {first @ second:.3f}")

    results = {
        split: json.loads(Path(output_dir, f"{split}_results.json").read_text(encoding="utf-8"))
        for split in ("train", "eval")
    }
    print(
        json.dumps(
            {
                "accuracy": results["eval"]["eval_orl_accuracy"],
                "eigenfaces_accuracy": eigenfaces_accuracy(train, pairs),
                "train_seconds": results["train"]["train_runtime"],
                "output_dir": str(output_dir),
            }
        )
    )


if __name__ == "__main__":
    run_for_people(main)
