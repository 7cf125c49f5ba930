"""JPEG images that collators leave to the device: here the CPU, up to the call of its decoder."""

import io

import numpy as np
import pytest
import torch
import torchvision
from datasets import Dataset, Features, Image, Value
from PIL import Image as PillowImage
from torch.utils.data import DataLoader

from hf_face.data import DeviceDecoder, FaceCollator, FaceDataset, UndecodableImageError
from hf_face.data.device_decoding import decode_jpegs
from hf_face.data.encoded_jpegs import EncodedJpegs
from hf_face.training.divergence import NumberedCollator

CPU = torch.device("cpu")


def encoded(size: int = 32, format: str = "JPEG", seed: int = 0, **options) -> bytes:
    low = np.random.default_rng(seed).integers(0, 256, (4, 4, 3), dtype=np.uint8)
    file = io.BytesIO()
    PillowImage.fromarray(low).resize((size, size), PillowImage.Resampling.BICUBIC).save(file, format, **options)
    return file.getvalue()


def high_and_wide() -> list[bytes]:
    files = []
    for size in ((32, 40), (40, 32)):
        files.append(io.BytesIO())
        PillowImage.new("RGB", size).save(files[-1], "JPEG")
    return [file.getvalue() for file in files]


def turned() -> bytes:
    exif = PillowImage.Exif()
    exif[0x0112] = 6
    return encoded(exif=exif)


def dataset(*images: bytes) -> FaceDataset:
    columns = {"image": [{"bytes": data, "path": None} for data in images], "label": list(range(len(images)))}
    return FaceDataset(Dataset.from_dict(columns, Features(image=Image(decode=False), label=Value("int64"))))


def collate(collator: FaceCollator, *images: bytes) -> dict:
    return collator(dataset(*images).__getitems__(list(range(len(images)))))


def test_the_device_gets_the_images_that_workers_would_decode():
    images = [encoded(seed=seed) for seed in range(3)]
    batch = collate(FaceCollator(32, keep_jpeg=True), *images)
    assert set(batch) == {"jpegs", "labels"}
    assert [bytes(file.numpy()) for file in batch["jpegs"].files()] == images
    decoded, expected = DeviceDecoder(FaceCollator(32), CPU)(batch), collate(FaceCollator(32), *images)
    assert decoded["labels"].tolist() == [0, 1, 2]
    assert "jpegs" not in decoded
    torch.testing.assert_close(decoded["pixel_values"], expected["pixel_values"].contiguous())  # one library here


@pytest.mark.parametrize("size", [20, 50])
def test_images_of_other_sizes_are_resized_as_workers_resize_them(size):
    images = [encoded(size), encoded(32, seed=1)]
    decoded = DeviceDecoder(FaceCollator(32), CPU)(collate(FaceCollator(32, keep_jpeg=True), *images))
    expected = collate(FaceCollator(32), *images)["pixel_values"]
    assert (decoded["pixel_values"].int() - expected.int()).abs().max() <= 1
    jpegs = EncodedJpegs.from_images([*images, *high_and_wide()])
    assert decode_jpegs(jpegs, 32, CPU).shape == (4, 3, 32, 32)  # none is left to the collator


@pytest.mark.parametrize(
    "image", [encoded(format="PNG"), turned(), encoded()[:-200], b"not an image", b""], ids=lambda image: image[:4]
)
def test_workers_decode_what_only_they_can(image):
    collator = FaceCollator(32, keep_jpeg=True, on_bad_image="skip")
    batch = collate(collator, encoded(seed=1), image)
    expected = collate(FaceCollator(32, on_bad_image="skip"), encoded(seed=1), image)
    torch.testing.assert_close(batch["pixel_values"], expected["pixel_values"])
    assert DeviceDecoder(collator, CPU)(batch)["pixel_values"] is batch["pixel_values"]


def test_encoded_batches_cross_from_workers():
    loader = DataLoader(
        dataset(encoded(), encoded(seed=1)),
        batch_size=2,
        num_workers=1,
        collate_fn=NumberedCollator(32, keep_jpeg=True),
    )
    (batch,) = loader
    assert bytes(batch["jpegs"].data) == encoded() + encoded(seed=1)
    assert batch["rows"].tolist() == [0, 1]


def test_the_cpu_decodes_what_the_device_cannot_and_names_the_row(monkeypatch):
    def fail(*args):
        raise RuntimeError("nvjpeg: not supported")

    monkeypatch.setattr(torchvision.io, "decode_jpeg", fail)
    good, damaged = encoded(), encoded()[:-200] + b"\xff\xd9"
    collator = NumberedCollator(32, keep_jpeg=True)
    batch = DeviceDecoder(collator, CPU)(collate(collator, good, encoded(seed=1)))
    expected = collate(FaceCollator(32), good, encoded(seed=1))
    torch.testing.assert_close(batch["pixel_values"], expected["pixel_values"])
    assert batch["rows"].tolist() == [0, 1]
    with pytest.raises(UndecodableImageError, match=r"^row 1: cannot decode"):
        DeviceDecoder(collator, CPU)(collate(collator, good, damaged))
