"""RecordIO: files written by mxnet, and our own."""

import re
import struct

import numpy as np
import pytest
from datasets import Dataset, Features, Image
from hypothesis import given
from hypothesis import strategies as st

from hf_face.data import RecordIO, as_identities, load_identities, write_recordio
from hf_face.data.columns import encoded_images
from hf_face.data.recordio_writer import _split_at_magic

from .recordio_files import MAGIC, part, record, write


@pytest.mark.parametrize("kind", ["scalar_labels", "array_labels"])
def test_reads_what_mxnet_wrote(shared_data, kind):
    recordio = RecordIO(shared_data / "insightface_sample" / kind)
    assert len(recordio) == 296
    assert recordio.num_identities == 80
    labels = recordio.labels()
    for identity, (start, end) in enumerate(recordio.identity_ranges):
        assert (labels[start:end] == identity).all()
    assert recordio.identity_ranges[-1, 1] == 296
    assert recordio[295].image.startswith(b"\xff\xd8") and recordio[295].image.endswith(b"\xff\xd9")
    assert len(recordio[0].labels) == (1 if kind == "scalar_labels" else 2)


def test_writes_byte_for_byte_what_mxnet_wrote(shared_data, tmp_path):
    folder = shared_data / "insightface_sample" / "scalar_labels"
    write_recordio(load_identities(folder), tmp_path)
    for file in ("train.rec", "train.idx", "property"):
        assert (tmp_path / file).read_bytes() == (folder / file).read_bytes()


def test_round_trip_groups_images_by_identity(small, written):
    recordio = RecordIO(written)
    order = np.argsort(small["label"], kind="stable")
    assert [image for _, image in recordio] == encoded_images(small, order)
    assert recordio.labels().tolist() == sorted(small["label"])
    assert recordio.identity_ranges.tolist() == [[4 * i, 4 * i + 4] for i in range(5)]
    assert (written / "property").read_text() == "5,112,92"


def test_random_access_iteration_and_batches_agree(written):
    recordio = RecordIO(written / "train.rec")
    images = [recordio[row].image for row in range(20)]
    assert recordio[-1].image == images[19]
    assert [record.image for record in recordio] == images
    batches = list(recordio.batches(start=3, stop=18, batch_size=4))
    assert [len(batch) for batch in batches] == [4, 4, 4, 3]
    stored = [image["bytes"] for batch in batches for image in batch["image"].to_pylist()]
    assert stored == images[3:18]
    assert recordio[-20].image == images[0]
    for row in (20, -21):
        with pytest.raises(IndexError, match=f"row {row} of 20"):
            recordio[row]


def test_an_images_path_says_where_its_record_is(written):
    recordio = RecordIO(written)
    data = (written / "train.rec").read_bytes()
    for row, image in zip(range(5, 20), recordio.read_batch(5, 20)["image"].to_pylist(), strict=True):
        name, offset = image["path"].split("@")
        assert name == "train.rec"
        assert data[int(offset) :].startswith(MAGIC)
        assert data[int(offset) + 8 + 24 :].startswith(recordio[row].image)


def test_batches_of_large_images_have_fewer_rows(tmp_path, monkeypatch):
    monkeypatch.setattr("hf_face.data.columns.MAX_BATCH_BYTES", 1000)
    images = [bytes(size) for size in (300, 300, 300, 2000, 500, 10, 10, 10, 10)]
    recordio = RecordIO(write(tmp_path, [part(record(image)) for image in images]))
    batches = list(recordio.batches(batch_size=4))
    assert [len(batch) for batch in batches] == [3, 1, 4, 1]
    assert [image["bytes"] for batch in batches for image in batch["image"].to_pylist()] == images


def test_batches_have_a_thousand_rows(tmp_path):
    recordio = RecordIO(write(tmp_path, [part(record(b"face"))] * 1001))
    assert [len(batch) for batch in recordio.batches()] == [1000, 1]


def test_records_of_one_part_are_read_without_a_python_object_each(tmp_path, monkeypatch):
    records = [record(b"four"), record(b"", 2**31), record(b"eight...", labels=(7,)), record(b"12", labels=(3, 0.5))]
    recordio = RecordIO(write(tmp_path, [part(data) for data in [*records, record(b"")]]))
    monkeypatch.setattr(RecordIO, "_record", None)
    monkeypatch.setattr("hf_face.data.recordio.HEADS_AT_ONCE", 2)
    assert recordio.labels().tolist() == [0, 2**31, 7, 3, 0]
    images = recordio.read_batch(0, 5)["image"].to_pylist()
    assert [image["bytes"] for image in images] == [b"four", b"", b"eight...", b"12", b""]


def test_a_record_that_is_only_a_head_has_an_empty_image(tmp_path):
    assert RecordIO(write(tmp_path, [part(record(b"image")), part(record(b"", 1))]))[1] == ([1], b"")


def test_index_is_rebuilt_by_scanning(written, capsys):
    images = [image for _, image in RecordIO(written)]
    (written / "train.idx").unlink()
    assert [image for _, image in RecordIO(written)] == images
    assert re.search(r"indexing train.rec: 100%.* (\d+k)/\1 ", capsys.readouterr().err)


def test_a_rebuilt_index_is_kept_until_the_file_changes(written, tmp_path, monkeypatch):
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "cache")
    (written / "train.idx").unlink()
    walk, walks = RecordIO._walk, []
    monkeypatch.setattr(RecordIO, "_walk", lambda recordio: walks.append(recordio) or walk(recordio))
    images = [[image for _, image in RecordIO(written)] for _ in range(3)]
    assert images[0] == images[1] == images[2] and len(walks) == 1
    with (written / "train.rec").open("ab") as rec:
        rec.write(part(record(b"", labels=(21, 21))))
    with pytest.raises(ValueError, match="images end before record 21 of 27"):  # the header tells of one less
        RecordIO(written)
    assert len(walks) == 2
    assert len(list((tmp_path / "cache").rglob("*"))) == 3  # a folder with one index of each


def test_index_in_any_order(written):
    images = [image for _, image in RecordIO(written)]
    lines = (written / "train.idx").read_text().splitlines()
    (written / "train.idx").write_text("\n".join(reversed(lines)))
    assert [image for _, image in RecordIO(written)] == images


def test_records_in_any_order_in_the_file(tmp_path):
    images = [b"first", b"the second", b"3rd", b"and the fourth"]
    records = [part(record(image, label)) for label, image in enumerate(images)]
    order = [2, 0, 3, 1]
    offsets = dict(zip(order, np.cumsum([0, *(len(records[i]) for i in order)]).tolist(), strict=False))
    (tmp_path / "train.rec").write_bytes(b"".join(records[i] for i in order))
    (tmp_path / "train.idx").write_text("".join(f"{i}\t{offsets[i]}\n" for i in range(4)))
    recordio = RecordIO(tmp_path)
    assert [image["bytes"] for image in recordio.read_batch(0, 4)["image"].to_pylist()] == images
    assert recordio.labels().tolist() == [0, 1, 2, 3]


def test_without_header_every_record_is_an_image(tmp_path):
    recordio = RecordIO(write(tmp_path, [part(record(b"a", 4)), part(record(b"bc", labels=(2, 0.5)))]))
    assert recordio.labels().tolist() == [4, 2]
    assert recordio.num_identities == 5
    assert recordio.identity_ranges is None
    assert recordio[1].labels.tolist() == [2, 0.5]


def test_record_of_several_parts(tmp_path):
    data = record(b"abcdefgh" + MAGIC + MAGIC + b"end", 3)  # cut at both magics, which are not stored
    parts = part(data[:32], 1) + part(b"", 2) + part(b"end", 3)
    last = part(record(b"y", 1), 1) + part(b"", 3)  # the magic is its end
    recordio = RecordIO(write(tmp_path, [part(record(b"x")), parts, last], index=False))
    assert recordio[1].image == data[24:]
    assert recordio.labels().tolist() == [0, 3, 1]
    assert [i["bytes"] for i in recordio.read_batch(0, 3)["image"].to_pylist()] == [b"x", data[24:], b"y" + MAGIC]


@pytest.mark.parametrize("image", [MAGIC, MAGIC * 3, b"abcd" + MAGIC + b"e", b"a" + MAGIC, b"abcdefg" + MAGIC[:2]])
def test_images_that_hold_the_magic_round_trip(tmp_path, png, image):
    rows = {"image": [{"bytes": png, "path": None}, {"bytes": image, "path": None}], "label": [0, 1]}
    write_recordio(as_identities(Dataset.from_dict(rows)), tmp_path)
    (tmp_path / "train.idx").unlink()
    assert [record.image for record in RecordIO(tmp_path)] == [png, image]


@given(st.lists(st.sampled_from([MAGIC, b"\x0a", b"\x0a\x23", b"abcd", b"\xff\xd8\xff"]), max_size=12).map(b"".join))
def test_no_part_holds_the_magic_where_readers_search_for_it(data):
    parts = _split_at_magic(data)
    assert MAGIC.join(parts) == data
    for each in parts:
        assert MAGIC not in [each[at : at + 4] for at in range(0, len(each), 4)]
    assert all(len(each) % 4 == 0 for each in parts[:-1])


@pytest.fixture(scope="module")
def png(orl):
    return encoded_images(orl, [0])[0]


def test_another_rec_file_if_it_is_the_only_one(tmp_path):
    write(tmp_path, [part(record(b"image"))])
    (tmp_path / "train.rec").rename(tmp_path / "val.rec")
    assert RecordIO(tmp_path).path.name == "val.rec"
    (tmp_path / "test.rec").touch()
    with pytest.raises(FileNotFoundError, match="found 2 files; pass the path of one of them"):
        RecordIO(tmp_path)


def test_no_file(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"expected train.rec or one other .rec file"):
        RecordIO(tmp_path)
    (tmp_path / "train.rec").touch()
    with pytest.raises(ValueError, match=r"train.rec is empty"):
        RecordIO(tmp_path)


def test_writer_refuses_to_overwrite_and_empty_identities(orl, written):
    with pytest.raises(FileExistsError, match=r"train.rec already exists"):
        write_recordio(orl, written)
    with pytest.raises(ValueError, match=r"identity 's2' \(label 1\) has no images"):
        write_recordio(orl.filter(lambda label: label != 1, input_columns="label"), written / "other")
    with pytest.raises(ValueError, match="dataset has no images"):
        write_recordio(orl.select([]), written / "other")


def test_written_records_have_their_number_as_id(small, tmp_path):
    path = write_recordio(small, tmp_path / "new" / "folders")
    offsets = [int(line.split()[1]) for line in path.with_suffix(".idx").read_text().splitlines()]
    heads = [struct.unpack_from("<IfQQ", path.read_bytes(), offset + 8) for offset in offsets]
    assert [head[2:] for head in heads] == [(i, 0) for i in range(1 + 20 + 5)]
    assert [head[0] for head in heads] == [2] + [0] * 20 + [2] * 5
    assert [head[1] for head in heads] == [0, *sorted(small["label"]), *[0] * 5]


def test_a_record_longer_than_the_format_allows(small, tmp_path, monkeypatch):
    longest = max(len(image) for image in encoded_images(small, range(20))) + 24
    monkeypatch.setattr("hf_face.data.recordio_writer.LENGTH_MASK", longest)
    write_recordio(small, tmp_path / "fits")
    monkeypatch.setattr("hf_face.data.recordio_writer.LENGTH_MASK", longest - 1)
    with pytest.raises(ValueError, match=rf"record \d+ has {longest} bytes, .* allows at most {longest - 1}"):
        write_recordio(small, tmp_path / "does_not")


def test_writer_reads_images_that_are_only_paths(small, tmp_path):
    paths = []
    for row, image in enumerate(encoded_images(small, np.arange(len(small)))):
        paths.append(str(tmp_path / f"{row}.png"))
        (tmp_path / f"{row}.png").write_bytes(image)
    rows = {"image": [{"bytes": None, "path": path} for path in paths], "label": small["label"]}
    dataset = Dataset.from_dict(rows, features=Features({"image": Image(), "label": small.features["label"]}))
    write_recordio(dataset, tmp_path / "from_paths")
    write_recordio(small, tmp_path / "from_bytes")
    both = [(tmp_path / folder / "train.rec").read_bytes() for folder in ("from_paths", "from_bytes")]
    assert both[0] == both[1]
