r"""Time and peak memory of the margin softmax, forward and backward, compared to other ways to compute it.

    python benchmarks/margin_softmax.py --identities 100000 1000000
    python benchmarks/margin_softmax.py --device cuda --identities 1000000 10000000 --batch_size 1024 \
        --chunk_size 65536 --optimizer sgd --tf32

`--optimizer sgd` adds a step of SGD with momentum and weight decay on the class centers.

Ways:
    naive     cross-entropy over logits modified by the margin, as in most implementations
    whole     margin_softmax_loss, logits of all identities at once
    chunked   margin_softmax_loss, logits of --chunk_size identities at a time
    sampled   Partial FC: the batch's identities and --sample_rate of the others, chunked
    pml       ArcFaceLoss of pytorch-metric-learning (pip install pytorch-metric-learning)

Each measurement runs in its own process. "above" is the peak memory in addition to the class centers, their gradient
and their momentum; "share" is "above" as a percentage of the batch x identities matrix in float32. A way that runs out
of memory is reported as such.
"""

import argparse
import json
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Callable

import torch
import torch.nn.functional as F

from hf_face.heads import ArcFaceMargin, MarginHead, margin_logits, margin_softmax_loss, step_sampled_rows_only
from hf_face.heads.margin_softmax import unit_and_norm

WAYS = ("naive", "whole", "chunked", "sampled", "pml")


def build(way: str, args: argparse.Namespace) -> tuple[torch.nn.Parameter, Callable]:
    """The class centers, and the loss as a function of embeddings and labels."""
    shape = (args.embedding_size, args.identities[0])
    if way == "pml":
        from pytorch_metric_learning.losses import ArcFaceLoss

        loss = ArcFaceLoss(shape[1], shape[0]).to(args.device)
        return loss.W, loss
    if way == "sampled":
        head = MarginHead(*shape, chunk_size=args.chunk_size, sample_rate=args.sample_rate).to(args.device)
        return head.weight, lambda embeddings, labels: head(*unit_and_norm(embeddings), labels).loss
    centers = torch.nn.Parameter(torch.empty(shape[1], shape[0], device=args.device).normal_(std=0.01))
    margin = ArcFaceMargin()
    if way == "naive":
        return centers, lambda e, labels: F.cross_entropy(margin_logits(e, centers, labels, margin), labels)
    chunk_size = args.chunk_size if way == "chunked" else None
    return centers, lambda e, labels: margin_softmax_loss(e, centers, labels, margin, chunk_size=chunk_size)


def measure(way: str, args: argparse.Namespace) -> dict[str, float]:
    """Measure the median seconds per step, and the peak bytes above the centers and their gradient."""
    torch.manual_seed(0)
    torch.set_float32_matmul_precision("high" if args.tf32 else "highest")
    centers, loss = build(way, args)
    optimizer = build_optimizer(centers) if args.optimizer else None
    labels = torch.randint(args.identities[0], (args.batch_size,), device=args.device)
    embeddings = torch.randn(args.batch_size, args.embedding_size, device=args.device, requires_grad=True)
    if args.device == "cuda":
        torch.cuda.reset_peak_memory_stats()
    before, seconds = memory(args.device, "VmRSS"), []
    for _ in range(args.steps + 1):
        centers.grad = embeddings.grad = None
        synchronize(args.device)
        start = time.perf_counter()
        loss(embeddings, labels).backward()
        kept = (centers.grad._values() if centers.grad.is_sparse else centers.grad).nbytes
        if optimizer is not None:
            optimizer.step()
            kept += sum(value.nbytes for value in optimizer.state[centers].values())
        synchronize(args.device)
        seconds.append(time.perf_counter() - start)
    return {"seconds": statistics.median(seconds[1:]), "above": memory(args.device, "VmHWM") - before - kept}


def build_optimizer(centers: torch.nn.Parameter) -> torch.optim.Optimizer:
    """Build the optimizer as FaceTrainer does: fused on a GPU, and restricted to the rows of sampled centers."""
    optimizer = torch.optim.SGD([centers], lr=0.1, momentum=0.9, weight_decay=5e-4, fused=centers.is_cuda)
    step_sampled_rows_only(optimizer)
    return optimizer


def memory(device: str, field: str) -> int:
    """Bytes in use now ("VmRSS") or at the peak ("VmHWM")."""
    if device == "cuda":
        return torch.cuda.memory_allocated() if field == "VmRSS" else torch.cuda.max_memory_allocated()
    with open("/proc/self/status") as status:
        return next(int(line.split()[1]) * 1024 for line in status if line.startswith(field))


def synchronize(device: str) -> None:
    if device == "cuda":
        torch.cuda.synchronize()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--identities", type=int, nargs="+", default=[10_000, 100_000, 1_000_000])
    parser.add_argument("--batch_size", type=int, default=512)
    parser.add_argument("--embedding_size", type=int, default=512)
    parser.add_argument("--chunk_size", type=int, default=4096)
    parser.add_argument("--sample_rate", type=float, default=0.1)
    parser.add_argument("--steps", type=int, default=3)
    parser.add_argument("--optimizer", choices=["sgd"])
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--tf32", action="store_true", help="matrix products in TF32, as with tf32: true in a recipe")
    parser.add_argument("--ways", nargs="+", choices=WAYS, default=WAYS)
    parser.add_argument("--one", choices=WAYS, help=argparse.SUPPRESS)  # this process measures, and prints JSON
    args = parser.parse_args()
    if args.one:
        print(json.dumps(measure(args.one, args)))
        return

    name = (
        torch.cuda.get_device_name()
        if args.device == "cuda"
        else f"{platform.machine()}, {torch.get_num_threads()} threads"
    )
    print(f"{time.strftime('%Y-%m-%d')}, {name}, torch {torch.__version__}")
    sizes = f"batch {args.batch_size}, embedding size {args.embedding_size}, chunk size {args.chunk_size}"
    print(f"{sizes}, optimizer {args.optimizer or 'none'}{', TF32' * args.tf32}\n")
    print("| identities | way | seconds a step | above, MB | share, % |\n|---|---|---|---|---|")
    for identities in args.identities:
        matrix = 4 * args.batch_size * identities
        for way in args.ways:
            command = [sys.executable, *sys.argv, "--identities", str(identities), "--one", way]
            run = subprocess.run(command, capture_output=True, text=True)
            if run.returncode:
                reason = (run.stderr.strip().splitlines() or ["killed, out of memory"])[-1]
                print(f"| {identities:,} | {way} | {reason[:80]} | | |")
                continue
            seconds, above = (json.loads(run.stdout)[key] for key in ("seconds", "above"))
            row = (f"{identities:,}", way, f"{seconds:.3f}", f"{above / 1e6:.0f}", f"{100 * above / matrix:.1f}")
            print(f"| {' | '.join(row)} |", flush=True)


if __name__ == "__main__":
    main()
