"""Identity data from all sources, and everything that can be wrong with it."""

import io
import tarfile

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from datasets import ClassLabel, Dataset, Features, Image, Value

from hf_face.data import as_identities, check_identities, load_identities, select_identities, write_recordio
from hf_face.data.columns import encoded_images

PEOPLE = ["s1", "s2", "s3", "s4"]


@pytest.fixture(scope="module")
def small(orl):
    """Four people with three images each."""
    return select_identities(orl, 4, 3)


def images(dataset) -> list[bytes]:
    return encoded_images(dataset, np.arange(len(dataset)))


def write_folder(small, folder, suffix=".png"):
    for row, (image, label) in enumerate(zip(images(small), small["label"], strict=True)):
        path = folder / PEOPLE[label] / f"{row:02d}{suffix}"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(image)
    return folder


def write_tars(small, folder, num_shards=3):
    """Tar shards in the webdataset layout: `key.png` and `key.cls`."""
    folder.mkdir()
    rows = list(zip(images(small), small["label"], strict=True))
    for shard in range(num_shards):
        with tarfile.open(folder / f"faces-{shard:03d}.tar", "w") as tar:
            for row in range(shard, len(rows), num_shards):
                for suffix, content in (("png", rows[row][0]), ("cls", str(rows[row][1]).encode())):
                    member = tarfile.TarInfo(f"{row:06d}.{suffix}")
                    member.size = len(content)
                    tar.addfile(member, io.BytesIO(content))
    return folder


def write_source(kind, small, tmp_path):
    if kind == "folder":
        return write_folder(small, tmp_path / "people")
    if kind == "recordio":
        return write_recordio(small, tmp_path / "rec").parent
    if kind == "tar":
        return write_tars(small, tmp_path / "tars")
    (tmp_path / "shards" / "data").mkdir(parents=True)
    for shard in range(3):
        path = tmp_path / "shards" / "data" / f"train-0000{shard}-of-00003.parquet"
        small.shard(3, shard, contiguous=True).to_parquet(path)
    return tmp_path / "shards"


@pytest.mark.parametrize("streaming", [False, True])
@pytest.mark.parametrize("kind", ["folder", "recordio", "tar", "parquet"])
def test_sources(small, tmp_path, kind, streaming):
    dataset = load_identities(write_source(kind, small, tmp_path), streaming=streaming)
    assert isinstance(dataset.features["image"], Image)
    rows = list(dataset.cast_column("image", Image(decode=False)))
    loaded = sorted((row["label"], row["image"]["bytes"]) for row in rows)
    assert loaded == sorted(zip(small["label"], images(small), strict=True))
    if not (streaming and kind == "tar"):  # a stream of tar files does not know the number of identities
        assert dataset.features["label"].num_classes == 4


def test_one_file_is_a_source_too(small, tmp_path):
    for kind, pattern in (("recordio", "*.rec"), ("tar", "*.tar"), ("parquet", "data/*.parquet")):
        (tmp_path / kind).mkdir()
        file = sorted(write_source(kind, small, tmp_path / kind).glob(pattern))[0]
        assert len(load_identities(file, compact=True)) == (12 if kind == "recordio" else 4)


def test_a_stream_of_tar_shards_is_told_how_many_people_there_are(small, tmp_path):
    folder = write_tars(small, tmp_path / "tars")
    assert load_identities(folder, streaming=True).features["label"] == Value("int64")
    stream = load_identities(folder, streaming=True, num_identities=4)
    assert stream.features["label"].num_classes == 4
    assert sorted(row["label"] for row in stream) == sorted(small["label"])


def test_a_stream_needs_numbers(small, tmp_path):
    path = write_parquet(tmp_path / "a.parquet", small, label=["someone"] * 12)
    with pytest.raises(ValueError, match=r"a.parquet: a stream requires integer labels, found Value"):
        load_identities(path, streaming=True)


def test_a_stream_keeps_the_bytes_of_a_column_that_it_renames(small, tmp_path):
    small.rename_column("image", "photo").to_parquet(tmp_path / "a.parquet")
    stream = load_identities(tmp_path / "a.parquet", streaming=True).cast_column("image", Image(decode=False))
    assert [row["image"]["bytes"] for row in stream] == images(small)


def test_orl_by_name():
    assert len(load_identities("orl")) == 400
    assert len(list(load_identities("orl", streaming=True))) == 400


def test_folder_keeps_names_and_paths(small, tmp_path):
    folder = write_folder(small, tmp_path / "people", suffix=".PNG")
    (folder / "s1" / "notes.txt").write_text("not an image")
    (folder / "list.txt").write_text("not a person")
    dataset = load_identities(folder)
    assert len(dataset) == 12 and dataset.features["label"].names == PEOPLE
    assert dataset.with_format("arrow")[3]["image"].to_pylist()[0]["path"] == "s2/03.PNG"


def test_a_changed_folder_is_read_again(small, tmp_path):
    folder = write_folder(small, tmp_path / "people")
    assert len(load_identities(folder)) == 12
    (folder / "s1" / "more.png").write_bytes(images(small)[0])
    assert len(load_identities(folder)) == 13


def test_splits_of_a_folder_of_shards(small, tmp_path):
    small.select(range(6)).to_parquet(tmp_path / "train.parquet")
    small.select(range(6, 12)).to_parquet(tmp_path / "validation.parquet")
    assert len(load_identities(tmp_path, compact=True)) == 6
    assert images(load_identities(tmp_path, split="validation", compact=True)) == images(small)[6:]
    with pytest.raises(ValueError, match=r"no shards for the split 'test', only for train, validation"):
        load_identities(tmp_path, split="test")


def test_lfw(shared_data):
    dataset = load_identities(shared_data / "lfw_112")
    assert len(dataset) == 6703 and dataset.features["label"].num_classes == 2847
    assert dataset.column_names == ["image", "label", "file_name"]


def write_parquet(path, small, **columns):
    table = {"image": small.with_format("arrow")[:]["image"], "label": small["label"][:]} | columns
    table = {name: values for name, values in table.items() if values is not None}
    pq.write_table(pa.table(table), path)
    return path


def test_integers_become_classes(small, tmp_path):
    dataset = load_identities(write_parquet(tmp_path / "a.parquet", small, cls=[0] * 12))
    assert dataset.features["label"] == ClassLabel(num_classes=4)
    assert dataset[11]["image"].size == (92, 112)


def test_names_become_classes(small, tmp_path):
    people = [f"person {label % 3}" for label in small["label"]]
    path = write_parquet(tmp_path / "a.parquet", small, label=None, who=people)
    dataset = load_identities(path, label_column="who")
    assert dataset.features["label"].names == ["person 0", "person 1", "person 2"]
    assert [dataset.features["label"].names[label] for label in dataset["label"]] == people


def test_missing_columns(small, tmp_path):
    path = write_parquet(tmp_path / "a.parquet", small, label=None, who=[0] * 12)
    with pytest.raises(ValueError, match=r"a.parquet has no column 'label', only \['image', 'who'\]. Set image_column"):
        load_identities(path)
    with pytest.raises(ValueError, match=r"no column 'label'"):
        load_identities(path, streaming=True)
    with pytest.raises(ValueError, match=r"no column 'photo'"):
        load_identities(path, image_column="photo")


def test_labels_of_no_use(small, tmp_path):
    with pytest.raises(ValueError, match=r"a.parquet: identities must be integers or names, found double"):
        load_identities(write_parquet(tmp_path / "a.parquet", small, label=[0.5] * 12))
    with pytest.raises(ValueError, match=r"b.parquet: row 3 has no label"):
        load_identities(write_parquet(tmp_path / "b.parquet", small, label=[0, 1, 2, None] * 3))
    with pytest.raises(ValueError, match=r"c.parquet: label -1 in row 0 is out of range: .* 3 identities, 0 to 2"):
        load_identities(write_parquet(tmp_path / "c.parquet", small, label=[-1, 1, 2, 0] * 3))


def test_class_label_that_is_missing(small, tmp_path):
    rows = {"image": images(small), "label": [0, 1, None, 2] * 3}
    features = Features({"image": Image(), "label": ClassLabel(num_classes=3)})
    Dataset.from_dict(rows, features=features).to_parquet(tmp_path / "a.parquet")
    with pytest.raises(ValueError, match=r"a.parquet: row 2 has no label"):
        load_identities(tmp_path / "a.parquet")


def test_label_out_of_range(small):
    features = Features({"image": Image(), "label": Value("int64")})
    rows = {"image": [{"bytes": image, "path": None} for image in images(small)], "label": [0, 1, 2, 7, 8, 9] * 2}
    dataset = Dataset.from_dict(rows, features=features)
    dataset.info.features["label"] = ClassLabel(num_classes=4)  # like a wrong schema in a file
    with pytest.raises(ValueError, match=r"faces: label 7 in row 3 is out of range: there are 4 identities, 0 to 3"):
        as_identities(dataset, "faces")


def test_empty_class(small, tmp_path):
    write_parquet(tmp_path / "a.parquet", small, label=[0, 1, 3] * 4)
    with pytest.raises(ValueError, match=r"identity '2' \(label 2\) has no images"):
        load_identities(tmp_path / "a.parquet")
    assert load_identities(tmp_path / "a.parquet", compact=True).features["label"].names == ["0", "1", "3"]


def test_empty_person_in_a_folder(small, tmp_path):
    folder = write_folder(small, tmp_path / "people")
    (folder / "nobody").mkdir()
    with pytest.raises(ValueError, match=r"people/nobody contains no images \(.*jpg"):
        load_identities(folder)


def test_folder_without_people(tmp_path):
    (tmp_path / "a.png").touch()
    with pytest.raises(ValueError, match="contains no folders, expected one folder of images per person"):
        load_identities(tmp_path)


@pytest.mark.parametrize("compact", [False, True])
@pytest.mark.parametrize("label", [Value("int64"), Value("string"), ClassLabel(names=PEOPLE)], ids=str)
def test_no_rows(label, compact):
    dataset = Dataset.from_dict({"image": [], "label": []}, features=Features({"image": Image(), "label": label}))
    with pytest.raises(ValueError, match="faces has no images"):
        as_identities(dataset, "faces", compact=compact)


def test_shards_without_rows_are_named(small, tmp_path):
    pq.ParquetWriter(tmp_path / "a.parquet", small.data.schema).close()
    with pytest.raises(ValueError, match=r"a.parquet cannot be read as parquet: .*no data"):
        load_identities(tmp_path / "a.parquet")
    tarfile.open(tmp_path / "b.tar", "w").close()
    with pytest.raises(ValueError, match=r"b.tar cannot be read as webdataset"):
        load_identities(tmp_path / "b.tar")


def test_one_identity(orl):
    with pytest.raises(ValueError, match="faces: at least 2 identities are required, found 1"):
        check_identities(select_identities(orl, 1), "faces", min_identities=2)
    check_identities(select_identities(orl, 2), "faces", min_identities=2)


@pytest.mark.parametrize("at_once", [4, 10_000])
def test_missing_images(small, tmp_path, monkeypatch, at_once):
    monkeypatch.setattr("hf_face.data.identities.CHECKED_AT_ONCE", at_once)
    stored = [{"bytes": image, "path": None} for image in images(small)]
    lost = [*stored[:5], {"bytes": None, "path": str(tmp_path / "lost.png")}, *stored[6:]]
    path = write_parquet(tmp_path / "a.parquet", small, image=lost)
    with pytest.raises(FileNotFoundError, match=r"a.parquet: the image of row 5, .*lost.png, does not exist"):
        load_identities(path)
    (tmp_path / "lost.png").write_bytes(images(small)[5])
    assert load_identities(path)[5]["image"].size == (92, 112)
    for row in (0, 7):
        none = [*stored[:row], None, *stored[row + 1 :]]
        with pytest.raises(ValueError, match=rf"b.parquet: row {row} has no image"):
            load_identities(write_parquet(tmp_path / "b.parquet", small, image=none))


def test_paths_that_do_not_exist(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"no such file or folder: .*faces.parquet"):
        load_identities(tmp_path / "faces.parquet")
    with pytest.raises(FileNotFoundError, match=r"no such file or folder: .*nowhere"):
        load_identities(tmp_path / "nowhere")
    with pytest.raises(FileNotFoundError, match=r"no such file or folder: shards.tar.gz"):
        load_identities("shards.tar.gz")


def test_file_of_another_kind(tmp_path):
    (tmp_path / "faces.zip").touch()
    with pytest.raises(ValueError, match=r"faces.zip is neither a folder nor a .rec, .parquet or tar file"):
        load_identities(tmp_path / "faces.zip")
