"""
Speed of IJB-C's three steps after the network, at full size on synthetic features: pooling, scores, ROC and table.

    python benchmarks/ijb.py                  # ours, then plain numpy, each in its own process
    python benchmarks/ijb.py --scale 0.05     # a twentieth of the images, templates and pairs
    python benchmarks/ijb.py --all_pairs      # every pair of 100,000 faces, compared to only the matrix products

The baseline does what most IJB scripts do: a loop over templates, elementwise products over batches of pairs, and the
nearest points of sklearn's `roc_curve`. Both start from the same arrays in memory and report the same table.
"""

import argparse
import json
import resource
import subprocess
import sys
import time

import numpy as np
import torch
from sklearn.metrics import roc_curve

from hf_face.evaluation.all_pairs import all_pairs_scores
from hf_face.evaluation.comparison_scores import ComparisonScores
from hf_face.evaluation.reference_ijb import insightface_tar_at_far
from hf_face.evaluation.templates import image_weights, pair_scores, pool_templates

NUM_IMAGES, NUM_SUBJECTS, NUM_TEMPLATES, NUM_PAIRS, DIM = 469_375, 3_531, 23_124, 15_658_489, 512
FARS = (1e-6, 1e-5, 1e-4, 1e-3, 1e-2, 1e-1)


def synthetic_ijb(scale: float, random_pairs: bool):
    """Features, detector scores, templates and media of images, pairs of template ids, and labels of the pairs.

    As in IJB-C, one template of each subject is in a gallery, the others are probes, and a pair consists of one of
    each. With `random_pairs`, any two templates can form a pair.
    """
    rng = np.random.default_rng(0)
    num_images, num_subjects, num_templates, num_pairs = (
        int(scale * number) for number in (NUM_IMAGES, NUM_SUBJECTS, NUM_TEMPLATES, NUM_PAIRS)
    )
    subject = np.concatenate([np.arange(num_subjects), rng.integers(0, num_subjects, num_templates - num_subjects)])
    templates = np.concatenate([np.arange(num_templates), rng.integers(0, num_templates, num_images - num_templates)])
    medias = rng.integers(0, num_images // 3, num_images)
    centers = rng.standard_normal((num_subjects, DIM), dtype=np.float32)[subject]
    difficulty = rng.uniform(0.5, 3, (num_templates, 1)).astype(np.float32)  # pose, light, age of a whole template
    centers += difficulty * rng.standard_normal((num_templates, DIM), dtype=np.float32)
    features = rng.standard_normal((num_images, DIM), dtype=np.float32)
    features += centers[templates]
    detector_scores = rng.uniform(0.5, 1, num_images).astype(np.float32)

    first = rng.integers(0, num_templates if random_pairs else num_subjects, num_pairs)
    second = rng.integers(0 if random_pairs else num_subjects, num_templates, num_pairs)
    num_probes = num_templates - num_subjects
    first[:num_probes] = subject[num_subjects:]  # each probe with its own gallery template
    second[:num_probes] = np.arange(num_subjects, num_templates)
    order = rng.permutation(num_pairs)
    first, second = first[order], second[order]
    return features, detector_scores, templates, medias, first, second, subject[first] == subject[second]


def ours(clock, features, detector_scores, templates, medias, first, second, same):
    weights = image_weights(features, detector_scores)
    pooled = pool_templates(features, templates, medias, weights)
    clock("pooling")
    scores = pair_scores(pooled.features, pooled.rows(first, "first"), pooled.rows(second, "second"))
    clock("scores")
    sorted_scores = ComparisonScores.from_pairs(same, scores)
    default = [sorted_scores.at_far(far).tar if far >= sorted_scores.finest_far else float("nan") for far in FARS]
    table = [point.tar for point in insightface_tar_at_far(sorted_scores, FARS)]
    clock("ROC and table")
    return table, default


def plain_numpy(clock, features, detector_scores, templates, medias, first, second, same):
    features = features * detector_scores[:, None]
    ids = np.unique(templates)
    pooled = np.empty((len(ids), features.shape[1]), features.dtype)
    for row, template in enumerate(ids):
        (images,) = np.where(templates == template)
        means = [features[images[medias[images] == media]].mean(axis=0) for media in np.unique(medias[images])]
        pooled[row] = np.sum(means, axis=0)
    pooled /= np.linalg.norm(pooled, axis=1, keepdims=True)
    clock("pooling")
    rows = np.zeros(ids.max() + 1, dtype=int)
    rows[ids] = np.arange(len(ids))
    scores = np.empty(len(first), features.dtype)
    for start in range(0, len(first), 100_000):
        batch = slice(start, start + 100_000)
        scores[batch] = np.sum(pooled[rows[first[batch]]] * pooled[rows[second[batch]]], axis=1)
    clock("scores")
    far, tar, _ = roc_curve(same, scores)
    far, tar = far[::-1], tar[::-1]
    table = [tar[np.argmin(abs(far - target))] for target in FARS]
    clock("ROC and table")
    return [float(value) for value in table], []


def measure(side: str, scale: float, random_pairs: bool) -> dict:
    """Measure the seconds of each step, the table and the peak memory of this process, including the data."""
    data = synthetic_ijb(scale, random_pairs)
    seconds, last = {}, time.perf_counter()

    def clock(step: str):
        nonlocal last
        seconds[step], last = time.perf_counter() - last, time.perf_counter()

    table, default = {"ours": ours, "numpy": plain_numpy}[side](clock, *data)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    return {"seconds": seconds, "table": table, "default": default, "peak_gib": peak}


def compare(args):
    results = {}
    for side in ("ours", "numpy"):
        command = [sys.executable, __file__, "--side", side, "--scale", str(args.scale)]
        command += ["--random_pairs"] if args.random_pairs else []
        output = subprocess.run(command, check=True, capture_output=True, text=True).stdout
        results[side] = json.loads(output.splitlines()[-1])
        steps = results[side]["seconds"]
        detail = ", ".join(f"{step} {seconds:.2f}" for step, seconds in steps.items())
        print(f"{side:<6} {sum(steps.values()):7.2f} s ({detail}); peak {results[side]['peak_gib']:.2f} GiB")
    totals = [sum(results[side]["seconds"].values()) for side in ("numpy", "ours")]
    print(f"{totals[0] / totals[1]:.1f} times faster")
    print("TAR at FAR                ", *(f"{far:8.0e}" for far in FARS))
    for side, result in results.items():
        print(f"{side}, nearest point".ljust(26), *(f"{tar:8.6f}" for tar in result["table"]))
    print("ours, FAR not above".ljust(26), *(f"{tar:8.6f}" for tar in results["ours"]["default"]))


def compare_all_pairs(num_images: int, far: float, block_size: int):
    """Compare ours to only computing the same blocks of matrix products into the same buffer."""
    labels = np.random.default_rng(0).integers(0, num_images // 10, num_images)
    torch.manual_seed(0)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    features = torch.randn(num_images // 10, DIM)[labels] + 2 * torch.randn(num_images, DIM)
    features = torch.nn.functional.normalize(features).to(device)

    def products():
        buffer = features.new_empty(block_size**2)
        for row in range(0, num_images, block_size):
            for column in range(row, num_images, block_size):
                rows, columns = features[row : row + block_size], features[column : column + block_size]
                torch.mm(rows, columns.T, out=buffer[: len(rows) * len(columns)].view(len(rows), len(columns)))

    def timed(function) -> float:
        start = time.perf_counter()
        function()
        if device == "cuda":
            torch.cuda.synchronize()
        return time.perf_counter() - start

    scores = []
    before = timed(products)
    seconds = timed(lambda: scores.append(all_pairs_scores(features, labels, far, block_size)))
    baseline = (before + timed(products)) / 2
    pairs = num_images * (num_images - 1) / 2
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    print(f"{pairs:.3g} pairs on {device}: {seconds:.1f} s, matrix products alone {baseline:.1f} s")
    print(f"{baseline / seconds:.0%} of the speed of the products")
    print(f"TAR {scores[0].at_far(far).tar:.6f} at FAR {far:g}; peak {peak:.2f} GiB")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--scale", type=float, default=1.0, help="share of IJB-C's size")
    parser.add_argument("--random_pairs", action="store_true", help="pairs of any two templates, not gallery and probe")
    parser.add_argument("--side", choices=("ours", "numpy"), help="measure this one in this process, as JSON")
    parser.add_argument("--all_pairs", action="store_true")
    parser.add_argument("--num_images", type=int, default=100_000, help="with --all_pairs")
    parser.add_argument("--far", type=float, default=1e-6, help="with --all_pairs")
    parser.add_argument("--block_size", type=int, default=4096, help="with --all_pairs")
    args = parser.parse_args()
    if args.side:
        print(json.dumps(measure(args.side, args.scale, args.random_pairs)))
    elif args.all_pairs:
        compare_all_pairs(args.num_images, args.far, args.block_size)
    else:
        compare(args)


if __name__ == "__main__":
    main()
