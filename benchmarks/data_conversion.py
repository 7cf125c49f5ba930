"""Speed and memory use of converting RecordIO to Parquet, compared to decoding the JPEG images.

    python benchmarks/data_conversion.py [--num_images 200000]

Both run on one core. Rounds are interleaved and the best of each counts, to be fair to both on a busy machine.
"""

import argparse
import os
import resource
import shutil
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import simplejpeg
from data_loading import make_crops
from datasets import concatenate_datasets

from hf_face.data import RecordIO, convert_to_parquet, load_identities, write_recordio

NUM_CROPS = 2000  # distinct ones; they are repeated to the number asked for


def make_recordio(folder: Path, num_images: int) -> RecordIO:
    """Make RecordIO of `num_images` 112 x 112 JPEG crops."""
    make_crops(folder / "crops.parquet", NUM_CROPS)
    crops = load_identities(folder / "crops.parquet")
    write_recordio(concatenate_datasets([crops] * (num_images // NUM_CROPS)), folder / "rec")
    return RecordIO(folder / "rec")


def per_second(count: int, work: Callable[[], object]) -> float:
    start = time.perf_counter()
    work()
    return count / (time.perf_counter() - start)


def peak_megabytes() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--num_images", type=int, default=200_000)
    parser.add_argument("--rounds", type=int, default=3)
    args = parser.parse_args()
    os.sched_setaffinity(0, [min(os.sched_getaffinity(0))])

    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        recordio = make_recordio(folder, args.num_images)
        images = [recordio[row].image for row in range(NUM_CROPS)]
        before, decoder, conversion = peak_megabytes(), 0.0, 0.0
        for _ in range(args.rounds):
            decoder = max(decoder, per_second(NUM_CROPS, lambda: [simplejpeg.decode_jpeg(image) for image in images]))
            convert = per_second(len(recordio), lambda: convert_to_parquet(recordio, folder / "parquet", num_threads=1))
            conversion = max(conversion, convert)
            shutil.rmtree(folder / "parquet")

    print("| what | records/s |\n|---|---|")
    print(f"| decoding JPEG | {decoder:,.0f} |")
    print(f"| RecordIO to Parquet | {conversion:,.0f} ({conversion / decoder:.1f}x) |")
    print(f"memory beyond the process before: {peak_megabytes() - before:.0f} MB for {args.num_images:,} records")


if __name__ == "__main__":
    main()
