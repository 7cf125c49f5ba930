"""
Draws the pictures of the README and of the docs, from the model that `make demo` left.

    python docs/make_images.py outputs/demo

The photographs are the ORL Database of Faces, courtesy of AT&T Laboratories Cambridge.
"""

import shutil
from argparse import ArgumentParser, RawDescriptionHelpFormatter
from pathlib import Path

import numpy as np
import torch
from matplotlib.figure import Figure
from torch.utils.data import DataLoader
from torchvision.transforms.functional import to_pil_image
from torchvision.utils import make_grid
from transformers import AutoModel

from hf_face.data import FaceCollator, FaceDataset, VerificationPairs, build_augmentation, load_orl
from hf_face.embedding import Embedder
from hf_face.evaluation.metrics import cosine_similarities
from hf_face.models.loading import load_image_processor
from hf_face.training.recipe import load_data
from hf_face.training.recipe_arguments import parse_recipe

IMAGES = Path(__file__).parent / "images"


def main() -> None:
    parser = ArgumentParser(description=__doc__, formatter_class=RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path, help="output folder of `make demo`")
    model = parser.parse_args().model
    IMAGES.mkdir(exist_ok=True)
    _, data_args, *_ = parse_recipe(["demo/orl"])
    _, (evaluator,) = load_data(data_args)
    draw_pairs(model, evaluator.pairs).savefig(IMAGES / "pairs.png", dpi=110)
    shutil.copy(model / "figures" / "orl_roc.png", IMAGES / "roc.png")
    draw_augmentation(data_args.augmentation).save(IMAGES / "augmentation.png")
    for path in sorted(IMAGES.glob("*.png")):
        print(f"{path}: {path.stat().st_size / 1024:.0f} KB")


def draw_pairs(folder: Path, pairs: VerificationPairs) -> Figure:
    """A pair of one person and a pair of two people, each the median of its kind, with their similarities."""
    model = AutoModel.from_pretrained(folder).eval()
    embeddings = Embedder(model, load_image_processor(folder), flip=False)(pairs.images, None).embeddings
    similarities = cosine_similarities(*(embeddings[rows] for rows in pairs.pairs.T))
    far, threshold = list(model.config.similarity_thresholds.items())[-1]
    figure = Figure(figsize=(3.6, 4.6), layout="constrained")
    for part, kind, same in zip(figure.subfigures(2), ("one person", "two people"), (True, False), strict=True):
        index = nearest(similarities, np.median(similarities[pairs.same == same]), pairs.same == same)
        for axis, image in zip(part.subplots(1, 2), pairs.pairs[index], strict=True):
            axis.imshow(pairs.images[int(image)]["image"], cmap="gray")
            axis.set_axis_off()
        sign = "≥" if similarities[index] >= threshold else "<"
        part.suptitle(f"{kind}: {similarities[index]:.2f} {sign} {threshold:.2f} (FAR {far})", fontsize=11)
    return figure


def nearest(values: np.ndarray, target: float, among: np.ndarray) -> int:
    candidates = np.flatnonzero(among)
    return int(candidates[np.abs(values[candidates] - target).argmin()])


def draw_augmentation(augmentation: list, num_faces: int = 4, num_draws: int = 6, size: int = 72):
    """Each row a face as it is, then augmented anew."""
    people = load_orl()
    chosen = FaceDataset(people.select(range(0, len(people), len(people) // num_faces)))
    faces = next(iter(DataLoader(chosen, batch_size=num_faces, collate_fn=FaceCollator(size))))["pixel_values"]
    augment = build_augmentation(augmentation, size)
    drawn = augment(faces.repeat_interleave(num_draws, dim=0), torch.Generator().manual_seed(0))
    rows = torch.cat([faces[:, None], drawn.unflatten(0, (num_faces, num_draws))], dim=1)  # (faces, 1 + draws, 3, H, W)
    return to_pil_image(make_grid(rows.flatten(0, 1), nrow=1 + num_draws, padding=2))


if __name__ == "__main__":
    main()
