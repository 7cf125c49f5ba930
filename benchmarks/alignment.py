"""
Alignment alone: a batch of crops on the device, by hf_face and by OpenCV for each face and a copy to the device.

    python benchmarks/alignment.py --device cuda
    python benchmarks/alignment.py --device cpu --threads 2

The photographs are noise with one face each, turned up to 20 degrees, whose crop shows as many pixels on a side as
`--crop_pixels` says. They are in memory, uint8: all of one size, so that they can be a batch too, on the host and on
the device. OpenCV's crops are without antialiasing; hf_face's are compared to them.
"""

import argparse
import statistics
import time
from collections.abc import Callable

import cv2
import numpy as np
import torch
from torch import Tensor

from hf_face.models.alignment import ARCFACE_LANDMARKS, ARCFACE_SIZE, align_faces, similarity_transforms


def make_faces(faces: int, height: int, width: int, crop_pixels: tuple[float, float]) -> tuple[np.ndarray, np.ndarray]:
    """Photographs (N, H, W, 3), uint8, and landmarks (N, 5, 2)."""
    rng = np.random.default_rng(0)
    photographs = rng.integers(0, 256, (faces, height, width, 3), dtype=np.uint8)
    turns = np.deg2rad(rng.uniform(-20, 20, faces))
    scales = rng.uniform(*crop_pixels, faces) / ARCFACE_SIZE
    slopes = (scales * np.exp(1j * turns))[:, None]
    centered = ARCFACE_LANDMARKS - ARCFACE_SIZE / 2
    points = slopes * (centered[:, 0] + 1j * centered[:, 1])
    centers = rng.uniform(0.4, 0.6, (faces, 1, 2)) * [width, height]
    return photographs, np.stack([points.real, points.imag], axis=2) + centers


def with_opencv(photographs: list[np.ndarray], landmarks: np.ndarray, device: torch.device) -> Tensor:
    matrices = similarity_transforms(landmarks).numpy()
    size = (ARCFACE_SIZE, ARCFACE_SIZE)
    crops = [cv2.warpAffine(image, each, size) for image, each in zip(photographs, matrices, strict=True)]
    return torch.from_numpy(np.stack(crops)).to(device).permute(0, 3, 1, 2)


def median_ms(method: Callable[[], Tensor], device: torch.device, repeats: int) -> float:
    taken = []
    for _ in range(repeats + 1):  # the first warms up
        start = time.perf_counter()
        method()
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        taken.append(time.perf_counter() - start)
    return statistics.median(taken[1:]) * 1e3


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", type=torch.device, default="cpu", help="where the crops go (default: cpu)")
    parser.add_argument("--faces", type=int, default=256, help="faces at once (default: 256)")
    parser.add_argument("--size", type=int, nargs=2, default=[480, 640], help="height and width of the photographs")
    parser.add_argument("--crop_pixels", type=float, nargs=2, default=[90, 220], help="what crops show, least and most")
    parser.add_argument("--threads", type=int, default=2, help="of OpenCV and torch on the CPU (default: 2)")
    parser.add_argument("--repeats", type=int, default=10)
    args = parser.parse_args()

    torch.set_num_threads(args.threads)
    cv2.setNumThreads(args.threads)
    device = args.device
    photographs, landmarks = make_faces(args.faces, *args.size, args.crop_pixels)
    on_host = list(photographs)
    batch = torch.from_numpy(photographs).permute(0, 3, 1, 2).contiguous().to(device)
    on_device = list(batch)
    methods = {
        "OpenCV for each face, and a copy": lambda: with_opencv(on_host, landmarks, device),
        "hf_face, a batch on the device": lambda: align_faces(batch, landmarks),
        "hf_face, a list on the device": lambda: align_faces(on_device, landmarks),
        "hf_face, a list on the host": lambda: align_faces(on_host, landmarks, device=device),
        "hf_face, a batch on the device, antialiased": lambda: align_faces(batch, landmarks, antialias=True),
        "hf_face, a list on the host, antialiased": lambda: align_faces(
            on_host, landmarks, antialias=True, device=device
        ),
    }
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else f"{device}, {args.threads} threads"
    print(f"{args.faces} faces in photographs of {args.size[1]} x {args.size[0]}; {name}; torch {torch.__version__}")
    expected = methods["OpenCV for each face, and a copy"]().int()
    milliseconds = {name: median_ms(method, device, args.repeats) for name, method in methods.items()}
    opencv_ms = next(iter(milliseconds.values()))
    for name, taken in milliseconds.items():
        farthest = "" if "antialiased" in name else f"{(methods[name]().int() - expected).abs().max()} gray levels off"
        print(f"{name:44} {taken:8.2f} ms {opencv_ms / taken:7.1f}x  {farthest}", flush=True)


if __name__ == "__main__":
    main()
