"""Conversion to Parquet: bytes, labels and counts; interruptions; errors."""

import mmap
import os
import struct
from concurrent.futures import ThreadPoolExecutor as ThreadPool
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from datasets import ClassLabel, Dataset, Features, Image, load_dataset
from huggingface_hub import DatasetCard
from torch.utils.data import DataLoader

from hf_face.data import (
    FaceCollator,
    FaceDataset,
    RecordIO,
    UndecodableImageError,
    as_identities,
    conversion,
    convert_to_parquet,
    load_identities,
    open_for_conversion,
    select_identities,
    write_recordio,
)
from hf_face.data.columns import encoded_images, identity_labels
from hf_face.data.image_folder import ImageFolder

from .test_identities import write_tars


@pytest.fixture
def small(orl):
    return select_identities(orl, 6, 5).shuffle(seed=0)


@pytest.fixture
def recordio(small, tmp_path):
    write_recordio(small, tmp_path / "rec")
    return RecordIO(tmp_path / "rec")


def images(dataset) -> list[bytes]:
    return encoded_images(dataset, np.arange(len(dataset)))


def shards(folder):
    return sorted(folder.glob("data/*"))


def test_recordio_to_parquet(recordio, tmp_path):
    folder = convert_to_parquet(recordio, tmp_path / "parquet", images_per_shard=12)
    assert [file.name for file in shards(folder)] == [f"train-0000{i}-of-00003.parquet" for i in range(3)]
    dataset = load_identities(folder)
    assert images(dataset) == [record.image for record in recordio]
    assert dataset["label"][:] == recordio.labels().tolist()
    assert dataset.features["label"].names == ["0", "1", "2", "3", "4", "5"]


def test_features_are_in_the_files(recordio, tmp_path):
    convert_to_parquet(recordio, tmp_path / "parquet")
    dataset = load_dataset("parquet", data_files=str(tmp_path / "parquet/data/*.parquet"), split="train")
    assert dataset.features == {"image": Image(), "label": ClassLabel(num_classes=6)}
    assert dataset[0]["image"].size == (92, 112)


def test_shards_are_written_by_as_many_threads_as_there_are_cores(recordio, tmp_path, monkeypatch):
    threads = []
    monkeypatch.setattr(conversion, "ThreadPoolExecutor", lambda number: threads.append(number) or ThreadPool(number))
    for number in (None, 3):
        convert_to_parquet(recordio, tmp_path / "parquet", num_threads=number)
    assert threads == [os.cpu_count(), 3]


def test_the_card_counts_people_with_images():
    text = conversion._card("faces", np.array([0, 1, 3, 8])).text
    assert "12 images of 3 people" in text and "1 to 8 images per person" in text


def test_card(recordio, tmp_path):
    folder = convert_to_parquet(recordio, tmp_path / "parquet", name="Six people")
    card = DatasetCard.load(folder / "README.md")
    assert card.data.pretty_name == "Six people"
    assert "30 images of 6 people" in card.text and "5 to 5 images per person" in card.text
    assert card.data.configs[0]["data_files"] == [{"split": "train", "path": "data/train-*.parquet"}]


@pytest.mark.parametrize("kind", ["scalar_labels", "array_labels"])
def test_insightface_samples(shared_data, tmp_path, kind):
    source = open_for_conversion(shared_data / "insightface_sample" / kind)
    dataset = load_identities(convert_to_parquet(source, tmp_path, images_per_shard=100))
    assert images(dataset) == [record.image for record in source]
    assert dataset["label"][:] == [int(record.labels[0]) for record in source]
    assert dataset.features["label"].num_classes == 80
    assert np.bincount(identity_labels(dataset)).tolist() == np.diff(source.identity_ranges).ravel().tolist()


def test_folder_and_dataset_give_the_same(small, tmp_path):
    for row, (image, label) in enumerate(zip(images(small), small["label"], strict=True)):
        path = tmp_path / "people" / small.features["label"].names[label] / f"{row:03d}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(image)
    from_folder = load_identities(convert_to_parquet(open_for_conversion(tmp_path / "people"), tmp_path / "a"))
    from_dataset = load_identities(convert_to_parquet(load_identities(tmp_path / "people"), tmp_path / "b"))
    assert from_folder.features["label"].names == ["s1", "s2", "s3", "s4", "s5", "s6"]
    assert from_folder.with_format("arrow")[:] == from_dataset.with_format("arrow")[:]
    assert sorted(images(from_folder)) == sorted(images(small))


def test_parquet_and_back(recordio, tmp_path):
    dataset = load_identities(convert_to_parquet(recordio, tmp_path / "parquet"))
    write_recordio(dataset, tmp_path / "back")
    for file in ("train.rec", "train.idx", "property"):
        assert (tmp_path / "back" / file).read_bytes() == recordio.path.with_name(file).read_bytes()


def test_goes_on_after_an_interruption(recordio, tmp_path):
    folder = convert_to_parquet(recordio, tmp_path / "parquet", images_per_shard=10)
    first, second, third = shards(folder)
    kept = first.stat().st_mtime_ns
    second.rename(second.with_suffix(".unfinished"))  # as a killed process leaves it
    third.unlink()
    (folder / "README.md").unlink()
    convert_to_parquet(recordio, folder, images_per_shard=10)
    assert shards(folder) == [first, second, third]
    assert first.stat().st_mtime_ns == kept
    assert images(load_identities(folder)) == [record.image for record in recordio]
    assert (folder / "README.md").exists()


def test_goes_on_with_tar_shards_after_an_interruption(small, tmp_path):
    tars = write_tars(small, tmp_path / "tars")
    folder = convert_to_parquet(open_for_conversion(tars), tmp_path / "parquet", images_per_shard=10)
    first, second, third = shards(folder)
    kept = first.stat().st_mtime_ns
    second.unlink()
    convert_to_parquet(open_for_conversion(tars), folder, images_per_shard=10)
    assert shards(folder) == [first, second, third]
    assert first.stat().st_mtime_ns == kept
    assert images(load_identities(folder)) == images(load_identities(tars))


def test_an_undecodable_image_is_named_by_its_place_in_the_source(small, tmp_path):
    rows = small.sort("label").cast_column("image", Image(decode=False)).to_list()
    rows[3]["image"]["bytes"] = b"not an image"
    features = Features({"image": Image(decode=False), "label": small.features["label"]})
    write_recordio(Dataset.from_list(rows, features=features).cast_column("image", Image()), tmp_path / "rec")
    recordio = RecordIO(tmp_path / "rec")
    dataset = load_identities(convert_to_parquet(recordio, tmp_path / "parquet", images_per_shard=7))
    loader = DataLoader(FaceDataset(dataset), batch_size=4, collate_fn=FaceCollator(32))
    with pytest.raises(UndecodableImageError, match=f"row 3, path 'train.rec@{recordio._images[3]}': .* 12 bytes"):
        next(iter(loader))


def test_a_shard_that_fails_leaves_nothing_half_written(recordio, tmp_path):
    data = bytearray(recordio.path.read_bytes())
    data[recordio._images[25]] ^= 1
    recordio.path.write_bytes(data)
    with pytest.raises(ValueError, match="no record at byte"):
        convert_to_parquet(RecordIO(recordio.path), tmp_path / "parquet", images_per_shard=10, num_threads=1)
    finished = sorted((tmp_path / "parquet" / "data").glob("*.parquet"))
    assert [pq.read_metadata(file).num_rows for file in finished] == [10, 10]
    assert not (tmp_path / "parquet" / "README.md").exists()


def test_shards_of_something_else_are_not_mixed_in(small, recordio, tmp_path):
    folder = convert_to_parquet(recordio, tmp_path / "parquet", images_per_shard=10)
    with pytest.raises(ValueError, match="another number of images per shard"):
        convert_to_parquet(recordio, folder, images_per_shard=15)
    write_recordio(small.select(range(29, -1, -1)), tmp_path / "other")
    with pytest.raises(ValueError, match="was written from another source"):
        convert_to_parquet(RecordIO(tmp_path / "other"), folder, images_per_shard=10)


def test_row_groups_of_large_images_have_fewer_rows(tmp_path, monkeypatch):
    monkeypatch.setattr("hf_face.data.columns.MAX_BATCH_BYTES", 1000)
    stored = [bytes(size) for size in (10, 990, 20, 600, 30)]
    dataset = as_identities(
        Dataset.from_dict({"image": [{"bytes": i, "path": None} for i in stored], "label": range(5)})
    )
    chosen = dataset.select([3, 1, 0, 2, 4])  # rows not in the order of the table
    (file,) = shards(convert_to_parquet(chosen, tmp_path / "parquet"))
    metadata = pq.read_metadata(file)
    assert [metadata.row_group(i).num_rows for i in range(metadata.num_row_groups)] == [1, 2, 2]
    assert images(load_identities(tmp_path / "parquet")) == images(chosen)


def test_a_folder_of_large_images_is_read_in_smaller_batches(small, tmp_path, monkeypatch):
    monkeypatch.setattr("hf_face.data.columns.MAX_BATCH_BYTES", 100)
    for name, size in (("a", 60), ("b", 40), ("c", 41), ("d", 300), ("e", 1)):
        (tmp_path / "faces" / name).mkdir(parents=True)
        (tmp_path / "faces" / name / "1.png").write_bytes(bytes(size))
    batches = list(ImageFolder(tmp_path / "faces").batches())
    assert [batch["label"].to_pylist() for batch in batches] == [[0, 1], [2], [3], [4]]
    assert [len(image["bytes"]) for batch in batches for image in batch["image"].to_pylist()] == [60, 40, 41, 300, 1]


def test_nothing_to_convert(small, tmp_path):
    with pytest.raises(ValueError, match="dataset has no images"):
        convert_to_parquet(small.select([]), tmp_path / "parquet")
    assert not (tmp_path / "parquet").exists()


def test_label_out_of_range(recordio, tmp_path, monkeypatch):
    monkeypatch.setattr("hf_face.data.columns.MAX_BATCH_BYTES", 20_000)  # the row is not in the first batch
    recordio.path.with_name("property").write_text("5,112,92")
    with pytest.raises(
        ValueError, match=r"train.rec: label 5 in row 25 is out of range: there are 5 identities, 0 to 4"
    ):
        convert_to_parquet(RecordIO(recordio.path), tmp_path / "parquet")


def test_identities_without_images_are_reported(recordio, tmp_path, caplog):
    recordio.path.with_name("property").write_text("8,112,92")
    folder = convert_to_parquet(RecordIO(recordio.path), tmp_path / "parquet")
    assert "2 of 8 identities have no images" in caplog.text
    with pytest.raises(ValueError, match=r"identity '6' \(label 6\) has no images"):
        load_identities(folder)
    assert load_identities(folder, compact=True).features["label"].num_classes == 6


@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="measured by Linux's own count")
def test_memory_does_not_grow_with_the_file(tmp_path, monkeypatch):
    monkeypatch.setattr("hf_face.data.columns.MAX_BATCH_BYTES", 10_000_000)
    record = struct.pack("<IfQQ", 0, 0, 0, 0) + bytes(1_000_000)
    with open(tmp_path / "train.rec", "wb") as file:
        for _ in range(200):
            file.write(struct.pack("<II", 0xCED7230A, len(record)) + record)
    resident = []

    class Watched(RecordIO):
        def batches(self, *rows):
            for table in super().batches(*rows):
                resident.append(resident_bytes())
                yield table

    before = resident_bytes()
    convert_to_parquet(Watched(tmp_path), tmp_path / "parquet", num_threads=1)
    assert len(resident) == 23  # nine images in each batch
    assert max(resident) - before < 80e6


def resident_bytes() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * mmap.PAGESIZE
