"""Speed of augmentation on the device, compared to other ways to draw independently for each image of a batch.

    python benchmarks/augmentation.py [--device cuda]

`torchvision.transforms.v2` draws once per call, so independent draws require one call per image. kornia draws per image
in a batch, but works in float and has neither AdaFace's augmentations nor FRoundation's RandAugment; it is included if
it is installed.
"""

import argparse
import time
from collections.abc import Callable
from importlib.util import find_spec

import torch
from torch import Tensor
from torchvision.transforms import v2

from hf_face.data import build_augmentation

SPECS = {
    "flip": "flip",
    "flip + ColorJitter(0.1, 0.1, 0.1, 0.1)": [
        "flip",
        {"color_jitter": {"brightness": 0.1, "contrast": 0.1, "saturation": 0.1, "hue": 0.1}},
    ],
    "RandAugment(4, 16) + flip": "froundation",
}


def torchvision_transforms() -> list[Callable[[Tensor], Tensor]]:
    """The torchvision equivalents, in the order of SPECS."""
    flip = v2.RandomHorizontalFlip()
    return [flip, v2.Compose([flip, v2.ColorJitter(0.1, 0.1, 0.1, 0.1)]), v2.Compose([v2.RandAugment(4, 16), flip])]


def kornia_transforms() -> list[Callable[[Tensor], Tensor] | None]:
    import kornia.augmentation as K

    flip = K.RandomHorizontalFlip(p=0.5)
    chains = [flip, torch.nn.Sequential(flip, K.ColorJitter(0.1, 0.1, 0.1, 0.1, p=1.0))]
    return [*(lambda images, chain=chain: (chain(images / 255) * 255).to(torch.uint8) for chain in chains), None]


def images_per_second(augment: Callable[[Tensor], Tensor], images: Tensor, rounds: int) -> float:
    best = float("inf")
    for _ in range(rounds + 1):  # the first warms up
        begin = time.perf_counter()
        augment(images)[0, 0, 0, 0].item()  # waits for the device
        best = min(best, time.perf_counter() - begin)
    return len(images) / best


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--batch_size", type=int, default=256)
    parser.add_argument("--rounds", type=int, default=5)
    args = parser.parse_args()
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (args.batch_size, 3, 112, 112), dtype=torch.uint8, generator=generator)
    images = images.to(args.device)

    others = [torchvision_transforms()] + ([kornia_transforms()] if find_spec("kornia") else [[None] * len(SPECS)])
    print("| images/s | hf_face | v2, one call an image | kornia | v2, one draw a batch |\n|---|---|---|---|---|")
    for (name, spec), torchvision, kornia in zip(SPECS.items(), *others, strict=True):
        ways = [
            build_augmentation(spec, image_size=112),
            lambda images, augment=torchvision: torch.stack([augment(image) for image in images]),
            kornia,
            torchvision,
        ]
        rates = [f"{images_per_second(way, images, args.rounds):,.0f}" if way else "" for way in ways]
        print(f"| {name} | {' | '.join(rates)} |")


if __name__ == "__main__":
    main()
