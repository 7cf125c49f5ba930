"""
Show what the demo's model says of two images of one person and of two people, and what SFace says of photographs of
them; write these with the faces found, to photographs.png, and summarize the demo in one line of JSON:

    python scripts/show_demo.py outputs/demo
"""

import argparse
import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from datasets import Dataset
from PIL import Image
from sklearn.decomposition import PCA
from torch.utils.data import DataLoader
from transformers import AutoConfig, pipeline

import hf_face  # noqa: F401  registers the model and the pipelines
from hf_face.cli.errors import run_for_people
from hf_face.cli.loading import check_model
from hf_face.data import FaceCollator, FaceDataset, VerificationPairs
from hf_face.evaluation.metrics import cosine_similarities, cross_validated_accuracy
from hf_face.pipelines import annotate_pair, default_model
from hf_face.training.recipe import load_data
from hf_face.training.recipe_arguments import parse_recipe

ENLARGED = (368, 448)  # ORL's faces are smaller than those of cameras


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


def crops_similarity(output_dir: Path, first: Image.Image, second: Image.Image) -> float:
    """Cosine similarity of two crops with the model that was trained on such crops."""
    embeddings = np.array(pipeline("image-feature-extraction", model=str(output_dir))([first, second]))[:, 0]
    return float(embeddings[0] @ embeddings[1])


def stack(pictures: Sequence[Image.Image]) -> Image.Image:
    """Pictures of one width, one below the other."""
    return Image.fromarray(np.concatenate([np.asarray(picture) for picture in pictures]))


def in_words(similarity: float, threshold: float) -> str:
    decision = "same person" if similarity >= threshold else "two people"
    return f"{decision} ({similarity:.3f}, from {threshold:.3f} on the same)"


def show_photographs(output_dir: Path, pairs: VerificationPairs) -> dict:
    """Print what both models say of a pair of one person and of a pair of two, and draw the pairs."""
    trained = AutoConfig.from_pretrained(output_dir)
    rate = min(trained.similarity_thresholds, key=float)
    verify = pipeline("face-verification", model=str(default_model()))
    pictures, decisions = [], {}
    for truth, row in (("one person", np.flatnonzero(pairs.same)[0]), ("two people", np.flatnonzero(~pairs.same)[0])):
        images = [pairs.images[int(i)]["image"] for i in pairs.pairs[row]]
        photographs = [image.resize(ENLARGED, Image.Resampling.BICUBIC) for image in images]
        answer = verify(*photographs)
        similarity = crops_similarity(output_dir, *images)
        print(f"{truth}, the model just trained: {in_words(similarity, trained.similarity_thresholds[rate])}")
        print(f"{truth}, SFace, faces found and aligned: {in_words(answer['similarity'], answer['threshold'])}")
        decisions[truth] = {"similarity": similarity, "sface_similarity": answer["similarity"]}
        pictures.append(annotate_pair(photographs, answer))
    picture = output_dir / "photographs.png"
    stack(pictures).save(picture)
    return {**decisions, "picture": str(picture)}


def main(argv: Sequence[str]) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("output_dir", type=Path, help="Output folder of a training with the recipe demo/orl.")
    output_dir = parser.parse_args(argv).output_dir
    check_model(str(output_dir))
    _, data_args, *_ = parse_recipe(["demo/orl"])
    train, (evaluator,) = load_data(data_args)
    pairs = evaluator.pairs
    photographs = show_photographs(output_dir, pairs)
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
                "photographs": photographs,
            }
        )
    )


if __name__ == "__main__":
    run_for_people(main)
