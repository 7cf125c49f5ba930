"""Labels of every type and size become classes, at a cost that goes with the people present."""

import time

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from datasets import ClassLabel, Dataset, load_dataset

from hf_face.data import (
    FaceCollator,
    FaceDataset,
    FaceStream,
    as_identities,
    convert_to_parquet,
    load_identities,
    make_verification_pairs,
    merge_identities,
    select_identities,
)
from hf_face.data.columns import encoded_images, identity_labels

INTEGERS = [pa.int8(), pa.int16(), pa.int32(), pa.int64(), pa.uint8(), pa.uint16(), pa.uint32(), pa.uint64()]
STRINGS = [pa.string(), pa.large_string(), pa.string_view()]


@pytest.fixture(scope="module")
def png(orl):
    return encoded_images(orl, [0])[0]


def write(path, png, labels):
    images = pa.array(
        [{"bytes": png, "path": None}] * len(labels), pa.struct({"bytes": pa.binary(), "path": pa.string()})
    )
    pq.write_table(pa.table({"image": images, "label": labels}), path)
    return path


@pytest.mark.parametrize("dtype", INTEGERS, ids=str)
def test_integers_of_every_width(tmp_path, png, dtype):
    path = write(tmp_path / "a.parquet", png, pa.array([1, 0, 2, 1], dtype))
    dataset = load_identities(path)
    assert dataset.features["label"] == ClassLabel(num_classes=3)
    assert FaceCollator(8)(FaceDataset(dataset).__getitems__([0, 2]))["labels"].tolist() == [1, 2]
    stream = load_identities(path, streaming=True)
    assert FaceStream(stream, 4, 1)[0].labels.tolist() == [1, 0, 2, 1]
    raw = load_dataset("parquet", data_files=str(path), split="train")
    assert FaceDataset(raw).__getitems__([2, 0]).labels.tolist() == [2, 1]


def test_missing_labels_of_unsigned_integers_are_missing(tmp_path, png):
    path = write(tmp_path / "a.parquet", png, pa.array([1, None], pa.uint8()))
    rows = FaceDataset(load_dataset("parquet", data_files=str(path), split="train")).__getitems__([0, 1])
    assert rows.labels.tolist() == [1, -1]
    with pytest.raises(ValueError, match="row 1 has no label"):
        load_identities(path)


@pytest.mark.parametrize("dtype", STRINGS, ids=str)
@pytest.mark.parametrize("dictionary", [False, True])
def test_names_of_every_type(tmp_path, png, dtype, dictionary):
    names = pa.array(["b", "a", "é", "a"], dtype)
    if dictionary:
        names = names.cast(pa.string()).dictionary_encode()  # as pandas writes categories
    dataset = load_identities(write(tmp_path / "a.parquet", png, names))
    assert dataset.features["label"].names == ["a", "b", "é"]
    assert dataset["label"][:] == [1, 0, 2, 0]


@pytest.mark.parametrize("start", [10**9, 2**63 + 5])
def test_large_ids_cost_what_their_people_cost(tmp_path, png, start):
    path = write(tmp_path / "a.parquet", png, pa.array([start, start + 1, start + 7, start], pa.uint64()))
    began = time.process_time()
    with pytest.raises(ValueError, match=rf"identity '0' \(label 0\) has no images \({start + 5} of {start + 8} have"):
        load_identities(path)
    dataset = load_identities(path, compact=True)
    assert dataset.features["label"].names == [str(start), str(start + 1), str(start + 7)]
    assert dataset["label"][:] == [0, 1, 2, 0]
    assert time.process_time() - began < 5


def test_two_million_people_take_seconds(png):
    count = 2_000_000
    encoded = pa.array([{"bytes": b"x", "path": None}], pa.struct({"bytes": pa.binary(), "path": pa.string()}))
    images = encoded.take(pa.array(np.zeros(count, dtype=np.int64)))
    began = time.process_time()
    dataset = as_identities(Dataset(pa.table({"image": images, "label": np.arange(count)})))
    assert dataset.features["label"].num_classes == count
    assert len(FaceDataset(dataset).__getitems__([count - 1]).labels) == 1
    assert time.process_time() - began < 5


def test_classes_stay_with_the_rows_through_what_datasets_does(orl, tmp_path):
    dataset = as_identities(orl.cast_column("label", ClassLabel(num_classes=40)))
    chosen = select_identities(dataset, 3, 2, seed=0)
    names = chosen.features["label"].names
    assert len(names) == 3 and [names[label] for label in chosen["label"]] == [
        str(identity_labels(orl)[row]) for row in chosen._indices.column(0).to_pylist()
    ]
    folder = convert_to_parquet(chosen, tmp_path / "parquet")
    assert load_identities(folder).features["label"].names == names
    chosen.save_to_disk(tmp_path / "disk")
    assert Dataset.load_from_disk(tmp_path / "disk").features == chosen.features
    assert chosen.map(lambda row: row).features == chosen.features
    merged = merge_identities([chosen, chosen])
    assert merged.features["label"].names == [f"{i}/{name}" for i in range(2) for name in names]
    assert merged._fingerprint != chosen._fingerprint


def test_pairs_of_people_with_large_ids(orl):
    labels = [10**9 + label for label in orl.select(range(40))["label"]]
    dataset = orl.select(range(40)).remove_columns("label").add_column("label", labels)
    assert make_verification_pairs(dataset).same.sum() == 180
