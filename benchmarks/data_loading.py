"""Speed of loading faces from Parquet into shuffled batches, compared to how other projects load them.

    python benchmarks/data_loading.py [--parquet FILE.parquet]

Each method runs on one core (with workers, one core each). Without a Parquet file of 112 x 112 JPEG crops, one is made
from the ORL faces. Every round runs all methods in sequence. Rates are medians over rounds, and ratios are medians of
the ratios within a round, so that a temporary slowdown of the machine affects both sides.
"""

import argparse
import io
import os
import tempfile
import time
import warnings
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from pathlib import Path
from statistics import median

import numpy as np
import simplejpeg
import torch
from datasets import Dataset, load_dataset
from datasets import Image as ImageFeature
from PIL import Image
from torch.utils.data import DataLoader
from torchvision import io as vision_io
from torchvision import transforms
from torchvision.transforms import v2
from tqdm import tqdm

from hf_face.data import FaceCollator, FaceDataset, load_orl
from hf_face.data.decode import empty_batch

IMAGE_SIZE = 112
WARM_UP_BATCHES = 4


def make_crops(path: Path, num_images: int):
    """Write Parquet of 112 x 112 JPEG images of about 4.3 KB each: ORL faces, tinted and shifted to be distinct."""
    rng = np.random.default_rng(0)
    faces = [image.convert("RGB").resize((IMAGE_SIZE, IMAGE_SIZE)) for image in load_orl()["image"]]
    images = []
    for i in range(num_images):
        pixels = np.roll(np.asarray(faces[i % len(faces)]), rng.integers(-8, 9), axis=1)
        tinted = (pixels * rng.uniform(0.7, 1.0, size=3)).astype(np.uint8)
        buffer = io.BytesIO()
        Image.fromarray(tinted).save(buffer, "JPEG", quality=90)
        images.append({"bytes": buffer.getvalue(), "path": None})
    labels = [i % len(faces) // 10 for i in range(num_images)]
    Dataset.from_dict({"image": images, "label": labels}).cast_column("image", ImageFeature()).to_parquet(path)


class PerSample(torch.utils.data.Dataset):
    """Decodes and transforms one sample at a time to a float tensor, as other projects do."""

    def __init__(self, images: list[bytes], labels: list[int], transform: Callable[[bytes], torch.Tensor]):
        self.images, self.labels, self.transform = images, labels, transform

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> tuple[torch.Tensor, int]:
        return self.transform(self.images[index]), self.labels[index]


def pillow_transform() -> Callable[[bytes], torch.Tensor]:
    """Transform as in face-embeddings: Pillow, ToTensor, Normalize."""
    transform = transforms.Compose([transforms.ToTensor(), transforms.Normalize([0.5] * 3, [0.5] * 3)])
    return lambda data: transform(Image.open(io.BytesIO(data)).convert("RGB"))


def torchvision_transform() -> Callable[[bytes], torch.Tensor]:
    """Transform as in timm-face: torchvision's decoder, flip, scaling and normalization with transforms.v2."""
    transform = v2.Compose(
        [
            v2.ToImage(),
            v2.RandomHorizontalFlip(),
            v2.ToDtype(torch.float32, scale=True),
            v2.Normalize([0.5] * 3, [0.5] * 3),
        ]
    )
    return lambda data: transform(vision_io.decode_image(torch.frombuffer(data, dtype=torch.uint8)))


def decoded(decode: Callable, images: list, batch_size: int) -> Iterator[None]:
    """Run the bare decoder and discard the results, yielding after every batch."""
    for begin in range(0, len(images) - batch_size + 1, batch_size):
        for image in images[begin : begin + batch_size]:
            decode(image)
        yield


def methods(dataset: Dataset, batch_size: int) -> dict[str, Callable[[], Iterable]]:
    """Each method as a function that starts one pass over the dataset, batch by batch."""
    images = [image["bytes"] for image in dataset.cast_column("image", ImageFeature(decode=False))["image"]]
    labels = list(dataset["label"])
    tensors = [torch.frombuffer(bytearray(data), dtype=torch.uint8) for data in images]
    buffer = empty_batch(1, IMAGE_SIZE)[0].numpy()
    decoders = {
        "torchvision": (partial(vision_io.decode_jpeg, mode=vision_io.ImageReadMode.RGB), tensors),
        "simplejpeg": (simplejpeg.decode_jpeg, images),
        "simplejpeg, one buffer": (partial(simplejpeg.decode_jpeg, buffer=buffer), images),
    }

    def loader(data, num_workers: int = 0, collate_fn: Callable | None = None) -> DataLoader:
        return DataLoader(
            data, batch_size, shuffle=True, drop_last=True, num_workers=num_workers, collate_fn=collate_fn
        )

    several_passes = dataset.select(list(range(len(dataset))) * 4)  # workers end a pass one after the other

    def ours(num_workers: int = 0) -> DataLoader:
        return loader(FaceDataset(several_passes if num_workers else dataset), num_workers, FaceCollator(IMAGE_SIZE))

    return {
        **{f"bare decoder, {name}": partial(decoded, *how, batch_size) for name, how in decoders.items()},
        "hf_face": ours,
        "Pillow + ToTensor + Normalize per sample": lambda: loader(PerSample(images, labels, pillow_transform())),
        "torchvision + v2 per sample": lambda: loader(PerSample(images, labels, torchvision_transform())),
        "hf_face, one worker": lambda: ours(num_workers=1),
        "hf_face, two workers": lambda: ours(num_workers=2),
    }


def images_per_second(batches: Iterable, batch_size: int, one_core: bool) -> float:
    """The steady rate: timing starts after a few batches, when workers have started and filled their queues."""
    cores = os.sched_getaffinity(0)
    if one_core:
        os.sched_setaffinity(0, {min(cores)})
    iterator = iter(batches)
    for _ in range(WARM_UP_BATCHES):
        next(iterator)
    begin = time.perf_counter()
    num_batches = sum(1 for _ in iterator)
    seconds = time.perf_counter() - begin
    os.sched_setaffinity(0, cores)
    return num_batches * batch_size / seconds


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--parquet", type=Path, help="aligned 112 x 112 JPEG crops with columns image and label")
    parser.add_argument("--num_images", type=int, default=6000, help="how many to make, without --parquet")
    parser.add_argument("--batch_size", type=int, default=256)
    parser.add_argument("--rounds", type=int, default=9)
    args = parser.parse_args()
    warnings.filterwarnings("ignore", message="The given buffer is not writable")
    torch.set_num_threads(1)

    with tempfile.TemporaryDirectory() as folder:
        if args.parquet is None:
            args.parquet = Path(folder, "crops.parquet")
            make_crops(args.parquet, args.num_images)
        dataset = load_dataset("parquet", data_files=str(args.parquet), split="train", cache_dir=folder)
        compared = methods(dataset, args.batch_size)
        rounds = [
            {
                name: images_per_second(start(), args.batch_size, one_core="worker" not in name)
                for name, start in compared.items()
            }
            for _ in tqdm(range(args.rounds), desc="rounds")
        ]
        del dataset, compared

    def ratio(name: str, other: str) -> float:
        return median(rates[name] / rates[other] for rates in rounds)

    print("| method | images/s | hf_face is |\n|---|---|---|")
    for name in rounds[0]:
        print(f"| {name} | {median(rates[name] for rates in rounds):,.0f} | {ratio('hf_face', name):.2f}x |")
    print(f"two workers / one worker: {ratio('hf_face, two workers', 'hf_face, one worker'):.2f}x")


if __name__ == "__main__":
    main()
