"""Speed of TransFace's patch perturbation (DPAP) of one batch, compared to numpy, patch by patch as it is published.

    OMP_NUM_THREADS=2 python benchmarks/dpap.py [--device cuda]

Both perturb the same patches: 7 of the 144 in a fifth of the images, 112-pixel crops, from uint8 to normalized pixels.
"""

import argparse
import time
from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from hf_face.data import BatchNormalize
from hf_face.training.methods import TransFace

PATCH_SIZE = 9


def perturb_in_numpy(images: np.ndarray, size: int, chosen, dominant, others, places, lam) -> np.ndarray:
    """The images (B, H, W, C), with patches perturbed one by one; draws as from `TransFace.draw`."""
    perturbed, columns = images.copy(), images.shape[2] // size
    for image, *of_image in zip(chosen, dominant, others, places, lam, strict=True):
        for patch, other, place, share in zip(*of_image, strict=True):
            at = patch_at(patch, columns, size)
            mixed = mix_in_numpy(images[image][at], images[other][patch_at(place, columns, size)], share)
            perturbed[image][at] = np.clip(mixed, 0, 255)
    return perturbed


def patch_at(patch: int, columns: int, size: int) -> tuple[slice, slice]:
    row, column = divmod(patch, columns)
    return slice(row * size, (row + 1) * size), slice(column * size, (column + 1) * size)


def mix_in_numpy(source: np.ndarray, random: np.ndarray, lam: float, ratio: float = 1.0) -> np.ndarray:
    """Mix the amplitudes of patches (h, w, C) in the middle of the centered spectrum; keep the phase of `source`."""
    ours, theirs = (np.fft.fft2(patch, axes=(0, 1)) for patch in (source, random))
    amplitude, other = (np.fft.fftshift(np.abs(spectrum), axes=(0, 1)) for spectrum in (ours, theirs))
    height, width = source.shape[:2]
    rows, columns = int(height * ratio**0.5), int(width * ratio**0.5)
    top, left = height // 2 - rows // 2, width // 2 - columns // 2
    middle = slice(top, top + rows), slice(left, left + columns)
    amplitude[middle] = lam * other[middle] + (1 - lam) * amplitude[middle]
    mixed = np.fft.ifftshift(amplitude, axes=(0, 1)) * np.exp(1j * np.angle(ours))
    return np.real(np.fft.ifft2(mixed, axes=(0, 1)))


def milliseconds(function: Callable[[], Tensor], rounds: int) -> float:
    """The shortest time of a call, which ends when its result is on the CPU."""
    best = float("inf")
    for _ in range(rounds + 1):  # the first warms up
        begin = time.perf_counter()
        function()[0, 0, 0, 0].item()
        best = min(best, time.perf_counter() - begin)
    return 1000 * best


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--batch_size", type=int, default=128)
    parser.add_argument("--rounds", type=int, default=30)
    args = parser.parse_args()
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (args.batch_size, 3, 112, 112), dtype=torch.uint8, generator=generator)
    patch_weights = torch.rand(args.batch_size, 144, generator=generator).to(args.device)
    images = images.to(args.device)
    method = TransFace()
    method.patch_size, method.normalize = PATCH_SIZE, BatchNormalize([0.5] * 3, [0.5] * 3).to(args.device)
    method.generator = generator
    pixel_values = method.normalize(images)

    def in_numpy() -> Tensor:
        generator.manual_seed(1)  # the same draws in each call
        chosen, *drawn = (values.tolist() for values in method.draw(*patch_weights.shape))
        dominant = patch_weights.argsort(1, descending=True)[:, : method.num_patches].cpu().numpy()[chosen]
        arrays = images.permute(0, 2, 3, 1).cpu().numpy()
        perturbed = perturb_in_numpy(arrays, PATCH_SIZE, chosen, dominant, *drawn)
        return method.normalize(torch.from_numpy(perturbed).to(args.device).permute(0, 3, 1, 2))

    def batched() -> Tensor:
        generator.manual_seed(1)
        method.perturb(images, pixel_values, patch_weights)
        return pixel_values

    slow, fast = milliseconds(in_numpy, args.rounds), milliseconds(batched, args.rounds)
    print("| perturbation of a batch | ms | |\n|---|---|---|")
    print(f"| numpy, patch by patch | {slow:.1f} | {slow / fast:.1f}x |")
    print(f"| hf_face, batched | {fast:.1f} | 1.0x |")


if __name__ == "__main__":
    main()
