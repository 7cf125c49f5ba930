"""RecordIO files with all kinds of damage."""

import struct

import pytest

from hf_face.data import RecordIO, load_identities

from .recordio_files import part, record, write


@pytest.mark.parametrize("kind", [2, 3])
def test_a_record_that_starts_in_the_middle_is_named(tmp_path, kind):
    folder = write(tmp_path, [part(record(b"image")), part(record(b"image"), kind)])
    with pytest.raises(ValueError, match=f"the record at byte 40 starts with part kind {kind}"):
        RecordIO(folder)[1]


def test_header_that_does_not_fit_the_records(tmp_path):
    header = part(record(b"", labels=(3, 5)))
    images = [part(record(b"a")), part(record(b"b", 1))]
    write(tmp_path, [header, *images, part(record(b"", labels=(1, 2)))])
    with pytest.raises(ValueError, match=r"images end before record 3 and identities before 5.*record 3 of 4"):
        RecordIO(tmp_path)


@pytest.mark.parametrize("records", [[(1, 1)], [(1, 2), (1, 1)]], ids=["header", "header and an empty identity"])
def test_no_image(tmp_path, records):
    write(tmp_path, [part(record(b"", labels=labels)) for labels in records])
    with pytest.raises(ValueError, match=r"train.rec has no images, only \d records"):
        RecordIO(tmp_path)


def test_truncated_file(written):
    rec = written / "train.rec"
    rec.write_bytes(rec.read_bytes()[:-10])
    with pytest.raises(ValueError, match=r"train.rec is truncated: the record at byte \d+ ends at byte"):
        RecordIO(written)
    (written / "train.idx").unlink()
    with pytest.raises(ValueError, match=r"train.rec is truncated"):
        RecordIO(written)


def test_index_past_the_end(written):
    rec = written / "train.rec"
    rec.write_bytes(rec.read_bytes()[:40_000])
    with pytest.raises(ValueError, match=r"train.idx has record \d+ at byte \d+, past the end of train.rec"):
        RecordIO(written)


@pytest.mark.parametrize(
    ("length", "message"),
    [
        (44 + 7, "train.idx has record 1 at byte 44, past the end of train.rec \\(51 bytes\\)"),
        (44 + 8, "train.rec is truncated: the record at byte 44 ends at byte 84 of 52"),
    ],
)
def test_the_first_record_that_a_truncated_file_lacks_is_named(tmp_path, length, message):
    folder = write(tmp_path, [part(record(b"twelve bytes")), *[part(record(b"faces..."))] * 2])
    (folder / "train.rec").write_bytes((folder / "train.rec").read_bytes()[:length])
    if length == 44 + 8:  # the last record of the index begins before the end of the file
        (folder / "train.idx").write_text("0\t0\n1\t44\n")
    with pytest.raises(ValueError, match=message):
        RecordIO(folder)


@pytest.mark.parametrize("offset", [45, 46])
def test_an_index_that_points_into_a_record(tmp_path, offset):
    folder = write(tmp_path, [part(record(b"twelve bytes")), *[part(record(b"faces..."))] * 2])
    (folder / "train.idx").write_text(f"0\t0\n1\t{offset}\n2\t84\n")
    with pytest.raises(ValueError, match=f"no record at byte {offset}"):
        RecordIO(folder).labels()


def test_index_of_another_file(written):
    lines = (written / "train.idx").read_text().splitlines()
    (written / "train.idx").write_text("\n".join(lines[:-1]))
    with pytest.raises(ValueError, match="do not belong together"):
        RecordIO(written)


@pytest.mark.parametrize("text", ["", "0 1 2\n", "zero\t0\n"])
def test_index_that_is_none(written, text):
    (written / "train.idx").write_text(text)
    with pytest.raises(ValueError, match=r"train.idx is not an index"):
        RecordIO(written)


def test_index_with_a_record_twice(written):
    lines = (written / "train.idx").read_text().splitlines()
    repeated = [*lines[:5], f"5\t{lines[4].split()[1]}", *lines[6:]]
    for text, name in ((repeated, "offset"), ([*lines, lines[3]], "key")):
        (written / "train.idx").write_text("\n".join(text))
        with pytest.raises(
            ValueError, match=rf"train.idx has the {name} \d+ more than once. Remove the file to rebuild"
        ):
            RecordIO(written)


def test_index_with_a_gap(written):
    lines = (written / "train.idx").read_text().splitlines()
    (written / "train.idx").write_text("\n".join([*lines[:3], "3\t", *lines[4:]]))
    with pytest.raises(ValueError, match=r"train.idx has no offset in row 4"):
        RecordIO(written)


@pytest.mark.parametrize("text", ["", "many,112,112", "1e3,112,112", "-5,112,112", "9" * 5000 + ",112,112"])
def test_property_that_is_none(written, text):
    (written / "property").write_text(text)
    with pytest.raises(ValueError, match=r"property: expected 'identities,height,width', found"):
        load_identities(written)


@pytest.mark.parametrize(("digits", "message"), [(18, "9{18} identities according to its property"), (19, "expected")])
def test_a_property_of_too_many_identities(written, digits, message):
    (written / "property").write_text("9" * digits)
    with pytest.raises(ValueError, match=message):
        load_identities(written)


def test_only_the_start_of_a_long_property_is_shown(written):
    (written / "property").write_text("x" * 100)
    with pytest.raises(ValueError, match=r"found b'x{80}'$"):
        RecordIO(written).num_identities  # noqa: B018


@pytest.mark.parametrize("label", [1e8, 3e9, 3e38])
def test_a_label_beyond_the_images(tmp_path, label):
    folder = write(tmp_path, [part(record(b"a")), part(record(b"b", label))])
    with pytest.raises(ValueError, match=r"train.rec.*(100000001 identities according to|which is not an identity)"):
        load_identities(folder)
    if label == 1e8:
        assert load_identities(folder, compact=True).features["label"].names == ["0", "100000000"]


def test_bad_magic(written):
    rec = written / "train.rec"
    data = bytearray(rec.read_bytes())
    at = RecordIO(written)._images[7]
    data[at] ^= 1
    rec.write_bytes(data)
    with pytest.raises(ValueError, match=rf"no record at byte {at}, expected .*, found 0xced7230b"):
        RecordIO(written).labels()
    with pytest.raises(ValueError, match=rf"no record at byte {at}"):
        RecordIO(written)[7]


def test_label_array_without_labels(tmp_path):
    bad = part(struct.pack("<IfQQ", 3, 0, 0, 0) + b"1234")
    folder = write(tmp_path, [part(record(b"image")), bad, part(record(b"image"))])
    with pytest.raises(ValueError, match=r"declares 3 labels, but its 28 bytes hold 1$"):
        RecordIO(folder).read_batch(0, 3)


@pytest.mark.parametrize("label", [-1, 0.5, float("nan"), float("inf")])
def test_label_that_is_no_identity(tmp_path, label):
    folder = write(tmp_path, [part(record(b"image")), part(record(b"image", label))])
    with pytest.raises(ValueError, match=r"has label .*, which is not an identity"):
        RecordIO(folder).labels()


def test_record_shorter_than_its_head(tmp_path):
    with pytest.raises(ValueError, match="shorter than its head of 24 bytes"):
        RecordIO(write(tmp_path, [part(b"short")]))
    with pytest.raises(ValueError, match="the record at byte 40 is shorter than its head of 24 bytes"):
        RecordIO(write(tmp_path, [part(record(b"image")), part(b"tiny")])).labels()


def test_parts_without_an_end(tmp_path):
    with pytest.raises(ValueError, match=r"multi-part record at byte .* has no last part"):
        RecordIO(write(tmp_path, [part(record(b"abcd"), 1) + part(record(b"next"))], index=False))
    parts = part(record(b"abcd"), 1) + part(b"middle", 2) + part(record(b"next"))
    with pytest.raises(ValueError, match=r"multi-part record at byte 0 has no last part"):
        RecordIO(write(tmp_path, [parts], index=False))
    with pytest.raises(ValueError, match=r"train.rec is truncated: a part starts at byte 36 of 36"):
        RecordIO(write(tmp_path, [part(record(b"abcd"), 1)], index=False))
