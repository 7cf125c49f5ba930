"""Data sets to the Hub and back: Parquet, RecordIO repositories, verification pairs; also streamed."""

import numpy as np
import pytest
from datasets import Image
from huggingface_hub import HfApi

from hf_face.data import (
    RecordIO,
    VerificationPairs,
    convert_to_parquet,
    load_identities,
    load_orl,
    load_verification_pairs,
    make_verification_pairs,
    open_for_conversion,
    select_identities,
    write_recordio,
)
from hf_face.data.columns import encoded_images
from hf_face.hub import push_dataset


@pytest.fixture(scope="module")
def small():
    """Four people with three photographs each."""
    return select_identities(load_orl(), 4, 3)


@pytest.fixture
def recordio_repository(hub, small, tmp_path) -> str:
    """What others publish: the three files of an InsightFace set, and verification sets beside them."""
    write_recordio(small, tmp_path / "rec")
    (tmp_path / "rec" / "lfw.bin").write_bytes(b"not needed")
    HfApi().create_repo("alice/faces-recordio", repo_type="dataset", exist_ok=True)
    HfApi().upload_folder(repo_id="alice/faces-recordio", repo_type="dataset", folder_path=tmp_path / "rec")
    return "alice/faces-recordio"


def images(dataset) -> list[bytes]:
    return encoded_images(dataset, np.arange(len(dataset)))


def test_parquet_is_pushed_and_loaded(hub, small, tmp_path):
    folder = convert_to_parquet(small, tmp_path / "faces", name="Four people", images_per_shard=5)
    (folder / "data" / "left-over.unfinished").write_bytes(b"of an earlier run")
    info = push_dataset(folder, "alice/four-people", license="other", private=True)
    assert info.repo_url.repo_id == "alice/four-people" and hub.store.repos["dataset", "alice/four-people"].private
    dataset = load_identities("alice/four-people")
    assert images(dataset) == images(small)
    assert dataset.features["label"].names == ["s1", "s2", "s3", "s4"]
    assert not any("unfinished" in path for path in HfApi().list_repo_files("alice/four-people", repo_type="dataset"))
    assert b"pretty_name: Four people" in hub.store.read("alice/four-people", "README.md", repo_type="dataset")


def test_parquet_is_streamed(hub, small, tmp_path):
    push_dataset(convert_to_parquet(small, tmp_path / "faces", images_per_shard=5), "alice/streamed", license="other")
    stream = load_identities("alice/streamed", streaming=True).cast_column("image", Image(decode=False))
    assert stream.num_shards == 3
    assert sorted(row["image"]["bytes"] for row in stream) == sorted(images(small))


def test_recordio_repository(hub, small, recordio_repository):
    recordio = RecordIO.from_hub(recordio_repository)
    assert [record.image for record in recordio] == images(small)
    assert not any("lfw.bin" in request.path for request in hub.store.requests if request.method == "GET")
    assert images(load_identities(recordio_repository)) == images(small)


def test_recordio_repository_to_parquet(recordio_repository, small, tmp_path):
    source = open_for_conversion(recordio_repository)
    assert isinstance(source, RecordIO)  # converted in place, not by way of the datasets cache
    assert images(load_identities(convert_to_parquet(source, tmp_path / "parquet"))) == images(small)


def test_pairs(hub, small):
    pairs = make_verification_pairs(small, name="four_people")
    with pytest.raises(ValueError, match="State the license of the data"):
        push_dataset(pairs, "alice/pairs")
    push_dataset(pairs, "alice/pairs", license="other")
    for read in (VerificationPairs.from_parquet("alice/pairs"), load_verification_pairs("alice/pairs")):
        assert read.name == "four_people"
        assert (read.pairs == pairs.pairs).all() and (read.fold == pairs.fold).all()
        assert images(read.images) == images(small)


def test_pairs_of_a_revision(hub, small):
    first, second = (make_verification_pairs(small, seed=seed, name=f"seed_{seed}") for seed in range(2))
    for pairs in (first, second):
        push_dataset(pairs, "alice/revised-pairs", license="unknown")
    newest, pushed, *_ = HfApi().list_repo_commits("alice/revised-pairs", repo_type="dataset")
    for revision, pairs in ((pushed.commit_id, first), (newest.commit_id, second)):
        read = load_verification_pairs("alice/revised-pairs", revision=revision)
        assert read.name == pairs.name
        assert (read.pairs == pairs.pairs).all()
