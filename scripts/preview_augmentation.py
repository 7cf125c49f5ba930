"""
Preview an augmentation as a grid of images: each row shows a face, followed by augmented versions of it.

    python scripts/preview_augmentation.py adaface adaface.png
    python scripts/preview_augmentation.py '[flip, {random_erasing: {p: 1.0}}]' erasing.png --source crops.parquet
"""

import argparse
from collections.abc import Sequence
from pathlib import Path

import torch
from torch.utils.data import DataLoader
from torchvision.utils import make_grid, save_image

from hf_face.cli.errors import run_for_people
from hf_face.cli.parser import HelpFormatter
from hf_face.data import FaceCollator, FaceDataset, build_augmentation, load_identities, load_orl
from hf_face.registry import load_plugins
from hf_face.user_input import check_at_least, check_output_file, parse_yaml


def main(argv: Sequence[str]) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=HelpFormatter)
    parser.add_argument("augmentation", type=parse_yaml, help="Augmentation as in a recipe: a name or a YAML list.")
    parser.add_argument("output", type=Path, help="PNG, JPEG or WebP file to write.")
    parser.add_argument("--source", help="Identity data, see load_identities; the ORL faces by default.")
    parser.add_argument("--image_size", type=int, default=112, help="Pixels of a side.")
    parser.add_argument("--num_faces", type=int, default=8, help="Number of rows.")
    parser.add_argument("--num_draws", type=int, default=11, help="Number of augmented images per row.")
    parser.add_argument("--seed", type=int, default=0, help="Seed of the augmentation.")
    parser.add_argument(
        "--plugins", nargs="+", default=[], metavar="MODULE", help="Modules with your own augmentations."
    )
    args = parser.parse_args(argv)
    check_output_file(args.output, [".png", ".jpg", ".jpeg", ".webp"])
    check_at_least(1, image_size=args.image_size, num_faces=args.num_faces, num_draws=args.num_draws)
    load_plugins(args.plugins)

    augment = build_augmentation(args.augmentation, args.image_size)
    dataset = load_identities(args.source) if args.source else load_orl()
    chosen = FaceDataset(dataset.select(torch.linspace(0, len(dataset) - 1, args.num_faces).long().tolist()))
    loader = DataLoader(chosen, batch_size=args.num_faces, collate_fn=FaceCollator(args.image_size))
    faces = next(iter(loader))["pixel_values"]
    repeated = faces.repeat_interleave(args.num_draws, dim=0)
    augmented = augment(repeated, torch.Generator().manual_seed(args.seed)).unflatten(0, (args.num_faces, -1))
    pictures = torch.cat([faces[:, None], augmented], dim=1).flatten(0, 1)  # (num_faces * (1 + num_draws), 3, H, W)
    args.output.parent.mkdir(parents=True, exist_ok=True)
    save_image(make_grid(pictures, nrow=1 + args.num_draws, padding=2) / 255, args.output)
    print(f"wrote {args.output}: {args.num_faces} faces, each with {args.num_draws} augmented versions")


if __name__ == "__main__":
    run_for_people(main)
