"""Overhead of evaluation over the forward passes: decoding, normalization, gathering and all metrics of the protocol.

The baseline runs the same forward passes on batches that are already normalized and in memory. Both run alternately,
and the medians are compared. ORL faces, InsightFace's ResNet-18 (112 x 112, 512-d), no plots, as in training.

    python benchmarks/evaluation_overhead.py --images 400 --repeats 5
"""

import argparse
import statistics
import time

import torch

from hf_face import FaceImageProcessor, IResNetConfig, IResNetModel
from hf_face.data import load_orl, make_verification_pairs
from hf_face.evaluation import Embedder, VerificationEvaluator


def seconds(function) -> float:
    start = time.perf_counter()
    function()
    return time.perf_counter() - start


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=400)
    parser.add_argument("--batch_size", type=int, default=64)
    parser.add_argument("--repeats", type=int, default=5)
    args = parser.parse_args()

    image_processor = FaceImageProcessor()
    model = IResNetModel(IResNetConfig(depths=(2, 2, 2, 2))).eval()
    pairs = make_verification_pairs(load_orl().select(range(args.images)))
    evaluator = VerificationEvaluator(pairs)
    images = [image.convert("RGB") for image in pairs.images["image"]]
    batches = image_processor(images, return_tensors="pt").pixel_values.split(args.batch_size)

    @torch.no_grad()
    def bare():
        for pixels in batches:
            model(pixels), model(pixels.flip(-1))

    def evaluate():
        evaluator.evaluate(Embedder(model, image_processor, batch_size=args.batch_size, progress=False))

    bare(), evaluate()
    times = [(seconds(bare), seconds(evaluate)) for _ in range(args.repeats)]
    forward, whole = (statistics.median(column) for column in zip(*times, strict=True))
    print(f"{len(pairs.images)} images, {len(pairs)} pairs, {torch.get_num_threads()} threads")
    print(f"forward passes {forward:.2f} s, evaluation {whole:.2f} s, overhead {whole / forward - 1:+.1%}")


if __name__ == "__main__":
    main()
