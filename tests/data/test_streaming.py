"""Streams: split over ranks and workers without overlap or loss, resumed in the middle of a pass."""

from collections import defaultdict

import pytest
import torch
from accelerate.data_loader import prepare_data_loader, skip_first_batches
from datasets import Features, Image, IterableDataset, Value
from datasets.distributed import split_dataset_by_node
from torch.utils.data import DataLoader

from hf_face.data import (
    FaceCollator,
    FaceDataset,
    FaceStream,
    RecordIO,
    UndecodableImageError,
    builder,
    load_identities,
    write_recordio,
)
from hf_face.data.subsets import replace_labels

from .test_identities import write_tars

NUM_ROWS = 90


@pytest.fixture(autouse=True)
def no_waiting(monkeypatch):
    monkeypatch.setattr("datasets.config.SLEEP_TIME_ON_THREADS_SHUTDOWN", 0)  # five seconds after each Parquet stream


@pytest.fixture(scope="module")
def numbered(orl):
    """Ninety images, each with its own identity, so that the label identifies the row."""
    rows = orl.select(range(NUM_ROWS))
    return replace_labels(rows, list(range(NUM_ROWS)), [str(row) for row in range(NUM_ROWS)])


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
    return load_identities(folder, streaming=True)


def labels(stream: FaceStream, numbers) -> list[list[int]]:
    return [stream[number].labels.tolist() for number in numbers]


def loaded_labels(loader) -> list[list[int]]:
    return [batch["labels"].tolist() for batch in loader]


def rows_of_passes(stream: FaceStream) -> dict[int, list[int]]:
    """All rows, grouped by the pass in which they were read."""
    passes = defaultdict(list)
    for number in range(len(stream)):
        rows = stream[number].labels.tolist()
        assert len(rows) == stream.batch_size
        part = number % stream.num_parts
        ((_, _, last_pass, num_read),) = [p for p in stream.state_dict(number + 1)["positions"] if p[0] == part]
        num_before = max(0, len(rows) - num_read)  # the batch was begun in the pass before
        passes[last_pass - 1] += rows[:num_before]
        passes[last_pass] += rows[num_before:]
    return passes


@pytest.mark.parametrize("shuffled", [False, True])
@pytest.mark.parametrize("num_parts", [1, 2, 3, 6])
def test_each_pass_gives_every_image_once_over_all_parts(stream, num_parts, shuffled):
    data = stream.shuffle(seed=0, buffer_size=30) if shuffled else stream
    passes = rows_of_passes(FaceStream(data, 8, 40, num_parts))
    for number in range(2):  # later ones are cut short where the batches end
        assert sorted(passes[number]) == list(range(NUM_ROWS))
    if shuffled:
        assert passes[0] != sorted(passes[0])
        assert passes[0] != passes[1]


def test_a_batch_has_the_images_of_the_data_set_on_disk(stream, numbered):
    rows = FaceStream(stream, 8, 1)[0]
    assert all(isinstance(image, bytes) for image in rows.images)
    batch = FaceCollator(112)(rows)
    on_disk = FaceCollator(112)(FaceDataset(numbered).__getitems__(batch["labels"].tolist()))
    assert torch.equal(batch["pixel_values"], on_disk["pixel_values"])
    assert batch["pixel_values"].float().std() > 10


def test_workers_and_ranks_read_the_numbers_that_are_theirs(stream):
    """A stream as prepared by accelerate in the Trainer: two ranks with two workers each."""
    data = stream.shuffle(seed=0, buffer_size=30)
    expected = labels(FaceStream(data, 8, 24, num_parts=4), range(24))
    for rank in range(2):
        loader = DataLoader(FaceStream(data, 8, 24, num_parts=4), num_workers=2, collate_fn=FaceCollator(32))
        loader = prepare_data_loader(loader, torch.device("cpu"), 2, rank, put_on_device=True)
        assert len(loader) == 12
        assert loaded_labels(loader) == expected[rank::2]
        assert loaded_labels(skip_first_batches(loader, 7)) == expected[rank::2][7:]


@pytest.mark.parametrize(("num_workers", "num_used"), [(0, 1), (0, 30), (2, 7), (2, 53)])
def test_goes_on_from_a_state_that_was_saved_while_workers_read_ahead(stream, num_workers, num_used):
    num_parts = max(1, num_workers)
    data = stream.shuffle(seed=0, buffer_size=30)
    expected = labels(FaceStream(data, 4, 60, num_parts), range(60))
    interrupted = FaceStream(data, 4, 60, num_parts)
    batches = iter(DataLoader(interrupted, batch_size=None, num_workers=num_workers, collate_fn=FaceCollator(8)))
    before = [next(batches)["labels"].tolist() for _ in range(num_used)]
    state = interrupted.state_dict(num_used)
    turns = {part: turn for part, turn, _, _ in state["positions"]}
    assert turns == {part: len(range(part, num_used, num_parts)) for part in range(num_parts)}
    resumed = FaceStream(data, 4, 60, num_parts)
    resumed.load_state_dict(state)
    assert before + labels(resumed, range(num_used, 60)) == expected


def counted_stream(numbered) -> tuple[IterableDataset, list[int]]:
    """A stream, and the rows that have been read from it so far."""
    read = []

    def rows():
        for row in FaceDataset(numbered):
            read.append(row["label"])
            yield row

    features = Features({"image": Image(decode=False), "label": Value("int64")})
    return IterableDataset.from_generator(rows, features=features), read


def test_a_state_saves_reading_earlier_passes_again(numbered):
    data, read = counted_stream(numbered)
    first = FaceStream(data, 8, 60)
    expected = labels(first, range(60))
    assert len(read) <= 60 * 8 + 8  # in order, each is read once
    read.clear()
    resumed = FaceStream(data, 8, 60)
    resumed.load_state_dict(first.state_dict(48))  # 24 rows into the fifth pass
    assert labels(resumed, [48]) == [expected[48]]
    assert len(read) < 40
    read.clear()
    assert labels(FaceStream(data, 8, 60), [48]) == [expected[48]]  # no state: the same batch, reached the long way
    assert len(read) > 4 * NUM_ROWS


def test_a_source_is_opened_once_for_all_its_shards(numbered, tmp_path, monkeypatch):
    opened = []
    monkeypatch.setattr(builder, "open_source", lambda path: opened.append(path) or RecordIO(path))
    data = load_identities(write_recordio(numbered, tmp_path), streaming=True)
    assert data.num_shards == NUM_ROWS
    opened.clear()
    labels(FaceStream(data, 10, 18), range(18))
    assert len(opened) == 1


def test_a_state_of_other_parts_is_refused(stream):
    state = FaceStream(stream, 8, 60, num_parts=2).state_dict(0)
    with pytest.raises(ValueError, match=r"num_parts=2 \(ranks times workers\) .* with 4.*ignore_data_skip"):
        FaceStream(stream, 8, 60, num_parts=4).load_state_dict(state)
    with pytest.raises(ValueError, match=r"batch_size=8 .* with 16"):
        FaceStream(stream, 16, 60, num_parts=2).load_state_dict(state)


def test_a_stream_that_was_split_already_is_refused(stream):
    with pytest.raises(ValueError, match="already distributed"):
        FaceStream(split_dataset_by_node(stream, 0, 2), 8, 60)[0]


def test_a_part_without_images_is_refused(numbered):
    data = numbered.select(range(2)).to_iterable_dataset()
    with pytest.raises(ValueError, match="Part 2 of 3 of the stream has no images"):
        FaceStream(data, 8, 60, num_parts=3)[2]


def test_more_readers_than_shards_are_warned_of(numbered, caplog):
    data = numbered.to_iterable_dataset(num_shards=3)
    FaceStream(data, 8, 60, num_parts=3)
    assert not caplog.text
    FaceStream(data, 8, 60, num_parts=4)
    assert "fewer shards (3) than readers (4" in caplog.text


def test_an_image_that_cannot_be_decoded_is_named(numbered):
    rows = numbered.select(range(8)).cast_column("image", Image(decode=False)).to_list()
    rows[5]["image"] = {"bytes": b"no image", "path": "five.jpg"}
    rows = [{**row, "__key__": f"key{i}"} for i, row in enumerate(rows)]
    features = Features({"image": Image(decode=False), "label": Value("int64"), "__key__": Value("string")})
    data = IterableDataset.from_generator(lambda: iter(rows), features=features)
    with pytest.raises(
        UndecodableImageError, match=r"image 5 of the batch, path 'five.jpg', __key__ 'key5': .* 8 bytes"
    ):
        FaceCollator(32)(FaceStream(data, 8, 1)[0])
    rows[5].update(image=rows[4]["image"], label=None)
    with pytest.raises(ValueError, match=r"image 5 of the batch, .*label None is out of range"):
        FaceCollator(32)(FaceStream(data, 8, 1)[0])


def test_images_in_files_of_their_own_are_read(orl, tmp_path):
    path = tmp_path / "face.png"
    orl[3]["image"].save(path)
    rows = [{"image": {"bytes": None, "path": str(path)}, "label": 0}, {**FaceDataset(orl)[3], "label": 1}]
    features = Features({"image": Image(decode=False), "label": Value("int64")})
    data = IterableDataset.from_generator(lambda: iter(rows), features=features)
    images = FaceCollator(112)(FaceStream(data, 2, 1)[0])["pixel_values"]
    assert torch.equal(images[0], images[1])
