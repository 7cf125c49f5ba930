"""Streams: split over ranks and workers without overlap or loss, resumed in the middle of an epoch."""

import pytest
from datasets import IterableDataset
from datasets.distributed import split_dataset_by_node
from torch.utils.data import DataLoader

from hf_face.data import FaceCollator, load_identities, undecoded, write_recordio
from hf_face.data.subsets import replace_labels

from .test_identities import write_tars


@pytest.fixture(scope="module")
def numbered(orl):
    """Ninety images, each of its own identity: a label tells which row was read."""
    rows = orl.select(range(90))
    return replace_labels(rows, list(range(90)), [str(row) for row in range(90)])


@pytest.fixture(scope="module", params=["recordio", "tar", "parquet"])
def stream(request, numbered, tmp_path_factory) -> IterableDataset:
    folder = tmp_path_factory.mktemp("stream") / "data"
    if request.param == "recordio":
        write_recordio(numbered, folder)
    elif request.param == "tar":
        write_tars(numbered, folder, num_shards=5)
    else:
        folder.mkdir()
        for shard in range(4):
            numbered.shard(4, shard).to_parquet(folder / f"train-{shard}.parquet", batch_size=7)
    return undecoded(load_identities(folder, streaming=True))


def labels(dataset) -> list[int]:
    return [row["label"] for row in dataset]


def test_reads_everything_once(stream):
    assert sorted(labels(stream)) == list(range(90))


@pytest.mark.parametrize("world_size", [2, 3, 4])
def test_ranks_share_without_overlap_or_loss(stream, world_size):
    parts = [labels(split_dataset_by_node(stream, rank, world_size)) for rank in range(world_size)]
    assert sorted(label for part in parts for label in part) == list(range(90))
    assert all(len(part) > 10 for part in parts)


@pytest.mark.parametrize("num_workers", [0, 2])
def test_ranks_and_workers(stream, num_workers):
    seen = []
    for rank in range(2):
        part = split_dataset_by_node(stream, rank, 2)
        for batch in DataLoader(part, batch_size=8, num_workers=num_workers, collate_fn=FaceCollator(32)):
            assert batch["pixel_values"].shape[1:] == (3, 32, 32)
            seen += batch["labels"].tolist()
    assert sorted(seen) == list(range(90))


def test_shuffled_differently_each_epoch(stream, monkeypatch):
    monkeypatch.setattr("datasets.config.SLEEP_TIME_ON_THREADS_SHUTDOWN", 0)  # five seconds after each Parquet stream
    shuffled = stream.shuffle(seed=0, buffer_size=30)
    first = labels(shuffled)
    assert sorted(first) == list(range(90)) and first != sorted(first)
    assert labels(shuffled) == first
    shuffled.set_epoch(1)
    assert labels(shuffled) != first


@pytest.mark.parametrize("consumed", [1, 20, 44])
def test_resumed_in_the_middle_of_an_epoch(stream, consumed):
    rows = iter(interrupted := split_dataset_by_node(stream, rank=1, world_size=2))
    before = [next(rows)["label"] for _ in range(consumed)]
    resumed = split_dataset_by_node(stream, rank=1, world_size=2)
    resumed.load_state_dict(interrupted.state_dict())
    assert before + labels(resumed) == labels(split_dataset_by_node(stream, rank=1, world_size=2))
