"""
CPU time and page faults per embedded image on the CPU, by batch size.

    python benchmarks/embedding_batch.py                                  # four models, one and two threads
    python benchmarks/embedding_batch.py --models mobilefacenet --batch_sizes 16 128 --rounds 5

Every model embeds the same crops with an `Embedder`, decoding included and without flipped images. CPU time (user and
system, of all threads) is less affected by other work on the machine than elapsed time; the fastest round counts.
`kept` is the same in a process whose C library keeps freed memory (`mallopt`: no mmap, no trim) instead of returning
it to the system: large batches lose most of their time to the pages of freshly mapped activations.
"""

import argparse
import ctypes
import io
import json
import resource
import subprocess
import sys
from collections.abc import Callable

import numpy as np
import torch
from datasets import Dataset, Features, Image
from inference import settle_batch_norms
from PIL import Image as PillowImage

from hf_face import (
    FaceImageProcessor,
    IResNetConfig,
    IResNetModel,
    MobileFaceNetConfig,
    MobileFaceNetModel,
    TimmFaceConfig,
    TimmFaceModel,
)
from hf_face.embedding import Embedder

VIT_TINY = {"architecture": "vit_tiny_patch16_224", "model_args": {"img_size": 112, "patch_size": 8}}
MODELS: dict[str, Callable] = {
    "iresnet18": lambda: IResNetModel(IResNetConfig(depths=[2, 2, 2, 2])),
    "iresnet50": lambda: IResNetModel(IResNetConfig()),
    "mobilefacenet": lambda: MobileFaceNetModel(MobileFaceNetConfig()),
    "vit_tiny": lambda: TimmFaceModel(TimmFaceConfig(**VIT_TINY)),
}
M_TRIM_THRESHOLD, M_MMAP_MAX = -1, -4  # of glibc's malloc.h


def make_crops(count: int) -> Dataset:
    rng = np.random.default_rng(0)
    encoded = []
    for _ in range(count):
        buffer = io.BytesIO()
        PillowImage.fromarray(rng.integers(0, 256, (112, 112, 3), dtype=np.uint8)).save(buffer, "JPEG")
        encoded.append({"bytes": buffer.getvalue(), "path": None})
    return Dataset.from_dict({"image": encoded}, Features({"image": Image()}))


def keep_freed_memory() -> None:
    libc = ctypes.CDLL(None)
    assert libc.mallopt(M_MMAP_MAX, 0) and libc.mallopt(M_TRIM_THRESHOLD, -1)


def measure(arguments: argparse.Namespace) -> None:
    """Print a line of JSON for every measurement of this process."""
    if arguments.kept:
        keep_freed_memory()
    torch.set_num_threads(arguments.threads)
    crops, model = make_crops(arguments.images), MODELS[arguments.model]()
    settle_batch_norms(model, torch.randn(4, 3, 112, 112))
    for batch_size in arguments.batch_sizes:
        embedder = Embedder(model, FaceImageProcessor(), batch_size, flip=False, progress=False)
        embedder.embed(crops, rows=range(batch_size))  # warm up
        before = resource.getrusage(resource.RUSAGE_SELF)
        embedder.embed(crops)
        after = resource.getrusage(resource.RUSAGE_SELF)
        seconds = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
        faults = after.ru_minflt - before.ru_minflt
        print(json.dumps([batch_size, 1000 * seconds / len(crops), faults / len(crops)]))


def measure_in_a_process(model: str, threads: int, kept: bool, arguments: argparse.Namespace) -> list:
    command = [sys.executable, __file__, "--model", model, "--threads", threads, "--images", arguments.images]
    command += ["--batch_sizes", *arguments.batch_sizes, *(["--kept"] if kept else [])]
    done = subprocess.run([*map(str, command)], check=True, stdout=subprocess.PIPE, text=True)
    return [json.loads(line) for line in done.stdout.splitlines()]


def main(arguments: argparse.Namespace) -> None:
    print(f"torch {torch.__version__}, {torch.backends.cpu.get_cpu_capability()}, best of {arguments.rounds} rounds")
    print("| model | threads | batch | CPU ms per image | page faults | kept: CPU ms | page faults |")
    print("|---|---|---|---|---|---|---|")
    for model in arguments.models:
        for threads in arguments.num_threads:
            best: dict[tuple[int, bool], list] = {}
            for _ in range(arguments.rounds):
                for kept in (False, True):
                    for batch_size, *found in measure_in_a_process(model, threads, kept, arguments):
                        best[batch_size, kept] = min(best.get((batch_size, kept), found), found)
            for batch_size in arguments.batch_sizes:
                cells = [
                    f"{best[batch_size, kept][0]:.1f} | {best[batch_size, kept][1]:,.0f}" for kept in (False, True)
                ]
                print(f"| {model} | {threads} | {batch_size} | {' | '.join(cells)} |", flush=True)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", nargs="+", choices=MODELS, default=list(MODELS))
    parser.add_argument("--num_threads", nargs="+", type=int, default=[1, 2])
    parser.add_argument("--batch_sizes", nargs="+", type=int, default=[8, 16, 32, 64, 128])
    parser.add_argument("--images", type=int, default=128)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--model", help=argparse.SUPPRESS)  # of one process
    parser.add_argument("--threads", type=int, help=argparse.SUPPRESS)
    parser.add_argument("--kept", action="store_true", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    main(arguments) if arguments.model is None else measure(arguments)
