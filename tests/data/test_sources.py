"""Files of identity data from strangers: incomplete, hostile, or of another split than was asked for."""

import gzip
import io
import json
import tarfile
import zipfile
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from datasets import Dataset, Features, Image, IterableDataset, Value

from hf_face.data import (
    FaceCollator,
    FaceStream,
    UndecodableImageError,
    VerificationPairs,
    identities,
    load_identities,
    make_verification_pairs,
    select_identities,
    sources,
    write_recordio,
)
from hf_face.data.decode import read_bytes
from hf_face.data.sources import (
    _check_claimed_classes,
    _has_paths_only,
    check_output_dir,
    check_paths,
    check_paths_of_hub_dataset,
    check_shard,
    load_shards,
)
from hf_face.embedding import Embedder

from .test_identities import write_tars


@pytest.fixture(scope="module")
def small(orl):
    return select_identities(orl, 2, 3)


@pytest.fixture
def secret(tmp_path, small):
    path = tmp_path / "private" / "face.png"
    path.parent.mkdir()
    small[0]["image"].save(path)
    return path


def write_paths(folder, paths):
    """A Parquet file whose rows name files instead of holding images."""
    folder.mkdir(exist_ok=True)
    images = pa.array(
        [{"bytes": None, "path": str(path)} for path in paths], pa.struct({"bytes": pa.binary(), "path": pa.string()})
    )
    pq.write_table(pa.table({"image": images, "label": [i % 2 for i in range(len(paths))]}), folder / "train.parquet")
    return folder / "train.parquet"


@pytest.mark.parametrize("streaming", [False, True])
@pytest.mark.parametrize("whole_folder", [False, True])
def test_images_outside_the_folder_of_the_data(tmp_path, secret, streaming, whole_folder):
    folder = tmp_path / "faces"
    folder.mkdir()
    (folder / "link.png").symlink_to(secret)
    (folder / "1.png").write_bytes(secret.read_bytes())
    for path in (secret, folder / ".." / "private" / "face.png", folder / "link.png"):
        file = write_paths(folder, [folder / "1.png", path])
        with pytest.raises(ValueError, match=r"train.parquet: the image of row 1 is .*, which lies outside .*faces"):
            load_identities(folder if whole_folder else file, streaming=streaming)
    file = write_paths(folder, [folder / "1.png"] * 2)
    assert len(list(load_identities(file, streaming=streaming))) == 2


URLS = [
    "reference://x::file:///etc/passwd",
    "http://127.0.0.1:9/face.png",
    "file:///etc/passwd",
    "simplecache::http://127.0.0.1:9/face.png",
    "zip://a.png::http://127.0.0.1:9/faces.zip",
    "zip://a.png::file:///etc/passwd",
    "reference://::/etc/passwd",
    "local:///etc/passwd",
    "memory://x",
    "data:image/png;base64,AAAA",
    "/dev/zero",
]


@pytest.mark.parametrize("url", URLS)
def test_other_schemes_are_not_opened(tmp_path, small, model, image_processor, monkeypatch, url):
    def refuse(*args, **kwargs):
        raise AssertionError(f"opened {args}")

    with pytest.raises(UndecodableImageError, match="neither an existing file nor on the Hub"):
        monkeypatch.setattr("fsspec.open", refuse)
        FaceCollator(8)([{"image": {"bytes": None, "path": url}, "label": 0}])
    rows = Dataset.from_dict({"image": [{"bytes": None, "path": url}]}, features=Features({"image": Image()}))
    with pytest.raises(UndecodableImageError):
        Embedder(model, image_processor, progress=False)(rows)
    file = write_paths(tmp_path / "faces", [url, url])
    for streaming in (False, True):
        with pytest.raises(ValueError, match="lies outside"):
            load_identities(file, streaming=streaming)


def test_paths_of_streamed_datasets_are_opened(tmp_path, small, monkeypatch):
    small[0]["image"].save(tmp_path / "a.png")
    with zipfile.ZipFile(tmp_path / "faces.zip", "w") as archive:
        archive.write(tmp_path / "a.png", "a.png")
    expected = (tmp_path / "a.png").read_bytes()
    assert read_bytes({"bytes": None, "path": f"zip://a.png::{tmp_path / 'faces.zip'}"}) == expected
    assert read_bytes({"bytes": None, "path": str(tmp_path / "a.png")}) == expected
    opened = []
    monkeypatch.setattr("fsspec.open", lambda path, mode: opened.append(path) or io.BytesIO(expected))
    for path in ("hf://datasets/org/faces/a.png", "zip://a.png::hf://datasets/org/faces@main/faces.zip"):
        assert read_bytes({"bytes": None, "path": path}) == expected
    assert len(opened) == 2


def test_images_of_pairs_outside_their_folder(tmp_path, small, secret):
    folder = make_verification_pairs(small, name="x").to_parquet(tmp_path / "pairs")
    table = pq.read_table(folder / "images" / "test-00000-of-00001.parquet")
    images = pa.array([{"bytes": None, "path": str(secret)}] * len(table), table["image"].type)
    table = table.set_column(table.column_names.index("image"), "image", images)
    pq.write_table(table, folder / "images" / "test-00000-of-00001.parquet")
    with pytest.raises(ValueError, match="lies outside"):
        VerificationPairs.from_parquet(folder)


def test_images_that_were_not_downloaded_with_a_dataset_of_the_hub(tmp_path, secret, monkeypatch):
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "cache")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    (tmp_path / "hub").mkdir()
    (tmp_path / "hub" / "1.png").write_bytes(secret.read_bytes())
    for path, allowed in ((tmp_path / "hub" / "1.png", True), (secret, False)):
        rows = Dataset.from_dict({"image": [str(path)]}).cast_column("image", Image())
        if allowed:
            check_paths_of_hub_dataset(rows, "org/faces")
        else:
            with pytest.raises(ValueError, match=r"org/faces: the image of row 0 is .*face\.png', which lies outside"):
                check_paths_of_hub_dataset(rows, "org/faces")


def test_a_data_set_of_the_hub_is_checked_unless_it_is_streamed(secret, monkeypatch):
    rows = Dataset.from_dict({"image": [str(secret)], "label": [0]}).cast_column("image", Image())
    monkeypatch.setattr(identities, "find_source", lambda source, revision: None)
    monkeypatch.setattr(identities, "load_dataset", lambda name, **options: rows)
    with pytest.raises(ValueError, match=r"org/faces: the image of row 0 is .*face\.png', which lies outside"):
        load_identities("org/faces")
    # readers check the paths of a stream
    assert identities.open_dataset("org/faces", "train", streaming=True, compact=False, revision=None) is rows


@pytest.mark.parametrize(("num_rows", "most"), [(6, 1_000_000), (2_000_000, 2_000_000)])
def test_a_million_classes_or_one_for_each_row_may_be_claimed(num_rows, most):
    for claimed in (most, most + 1):
        info = json.dumps({"info": {"features": {"label": {"num_classes": claimed}}}})
        schema = pa.schema([], {b"huggingface": info.encode()})
        if claimed == most:
            _check_claimed_classes(Path("a.parquet"), schema, num_rows)
        else:
            with pytest.raises(ValueError, match=f"claims {claimed} classes, but there are {num_rows} rows"):
                _check_claimed_classes(Path("a.parquet"), schema, num_rows)


def test_more_classes_than_fit_into_memory(tmp_path, small):
    table = small.with_format("arrow")[:]
    features = {"image": {"_type": "Image"}, "label": {"num_classes": 10**12, "_type": "ClassLabel"}}
    metadata = {b"huggingface": json.dumps({"info": {"features": features}}).encode()}
    pq.write_table(table.replace_schema_metadata(metadata), tmp_path / "a.parquet")
    with pytest.raises(
        ValueError, match=r"a.parquet: the column 'label' claims 1000000000000 classes, but there are 6"
    ):
        load_identities(tmp_path / "a.parquet")


def test_a_stated_number_of_people_beyond_the_images(tmp_path, small):
    write_recordio(small, tmp_path)
    (tmp_path / "property").write_text("100000000,112,92")
    with pytest.raises(
        ValueError, match="has 100000000 identities according to its property file or labels, but only 6"
    ):
        load_identities(tmp_path)
    assert load_identities(tmp_path, compact=True).features["label"].names == ["0", "1"]


def test_a_tar_with_a_huge_label(tmp_path, small):
    tars = write_tars(small, tmp_path / "tars", num_shards=1)
    with tarfile.open(tars / "faces-000.tar", "a") as tar:
        with tarfile.open(tars / "faces-000.tar") as source:
            image = source.extractfile("000000.png").read()
        for suffix, content in (("png", image), ("cls", b"300000000")):
            member = tarfile.TarInfo(f"000099.{suffix}")
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
    with pytest.raises(
        ValueError, match=r"identity '2' \(label 2\) has no images \(299999998 of 300000001 have none\)"
    ):
        load_identities(tars)
    assert load_identities(tars, compact=True).features["label"].names == ["0", "1", "300000000"]


@pytest.mark.parametrize("streaming", [False, True])
@pytest.mark.parametrize("part", [0, 0.4, 0.7])
@pytest.mark.parametrize("kind", ["parquet", "tar"])
def test_the_shard_that_is_truncated_is_named(tmp_path, small, kind, part, streaming):
    folder = tmp_path / "faces"
    if kind == "tar":
        write_tars(small, folder, num_shards=3)
    else:
        folder.mkdir()
        for shard in range(3):
            small.shard(3, shard).to_parquet(folder / f"faces-00{shard}.parquet")
    bad = folder / f"faces-001.{kind}"
    bad.write_bytes(bad.read_bytes()[: int(part * bad.stat().st_size)])
    with pytest.raises(ValueError, match=rf"faces-001.{kind} cannot be read as"):
        load_identities(folder, streaming=streaming)


def test_the_shard_that_is_damaged_within_is_named(tmp_path, small):
    for shard in range(2):
        small.shard(2, shard).to_parquet(tmp_path / f"faces-{shard}.parquet")
    data = bytearray((tmp_path / "faces-1.parquet").read_bytes())
    data[4:60] = b"\x55" * 56
    (tmp_path / "faces-1.parquet").write_bytes(data)
    with pytest.raises(ValueError, match=r"faces-1.parquet cannot be read as parquet"):
        load_identities(tmp_path)
    tars = write_tars(small, tmp_path / "tars", num_shards=2)
    for shard in sorted(tars.glob("*.tar")):
        shard.with_suffix(".tgz").write_bytes(gzip.compress(shard.read_bytes()))
        shard.unlink()
    bad = tars / "faces-001.tgz"
    bad.write_bytes(bad.read_bytes()[:5000])
    with pytest.raises(ValueError, match=r"faces-001.tgz cannot be read as webdataset"):
        load_identities(tars)


@pytest.mark.parametrize("kind", ["folder", "recordio", "parquet file", "shards", "orl"])
def test_a_split_that_there_is_not_is_refused(tmp_path, small, kind):
    source = tmp_path / "faces"
    if kind == "folder":
        for i, row in enumerate(small):
            (source / str(row["label"])).mkdir(parents=True, exist_ok=True)
            row["image"].save(source / str(row["label"]) / f"{i}.png")
    elif kind == "recordio":
        write_recordio(small, source)
    elif kind == "orl":
        source = "orl"
    else:
        source.mkdir()
        small.to_parquet(source / "faces.parquet")
        source = source if kind == "shards" else source / "faces.parquet"
    assert len(load_identities(source)) == (400 if kind == "orl" else 6)
    with pytest.raises(ValueError, match=r"has no splits, but split='validation' was requested"):
        load_identities(source, split="validation")


def test_a_single_file_has_the_split_in_its_name(tmp_path, small):
    small.to_parquet(tmp_path / "validation.parquet")
    assert len(load_identities(tmp_path / "validation.parquet", split="validation")) == 6
    assert len(load_identities(tmp_path / "validation.parquet")) == 6
    with pytest.raises(ValueError, match="no shards for the split 'test', only for validation"):
        load_identities(tmp_path / "validation.parquet", split="test")


def test_a_data_set_without_rows_is_named(tmp_path, small):
    small.select([]).to_parquet(tmp_path / "a.parquet")
    with pytest.raises(ValueError, match=r"a.parquet (has no images|cannot be read)"):
        load_identities(tmp_path / "a.parquet")
    features = Features({"image": Image(), "label": Value("int64")})
    empty = IterableDataset.from_generator(lambda: iter([]), features=features)
    with pytest.raises(ValueError, match="has no images"):
        FaceStream(empty, 2, 1)[0]


def test_the_row_of_an_image_outside_is_counted_over_all_chunks(tmp_path):
    kind = pa.struct({"bytes": pa.binary(), "path": pa.string()})
    inside, outside, none = ({"bytes": None, "path": str(tmp_path / "a.png")}, {"bytes": None, "path": "/b.png"}, None)
    chunks = [pa.array(rows, kind) for rows in ([inside, none], [{"bytes": b"x", "path": "/b.png"}], [inside, outside])]
    with pytest.raises(ValueError, match=r"the image of row 4 is '/b.png'"):
        check_paths(pa.chunked_array(chunks), [tmp_path], "faces")


def test_files_that_state_that_no_bytes_are_missing_are_not_read(tmp_path):
    def has_paths_only(images: list, **options) -> bool:
        table = pa.table({"image": pa.array(images, pa.struct({"bytes": pa.binary(), "path": pa.string()}))})
        pq.write_table(table, tmp_path / "a.parquet", **options)
        return _has_paths_only(pq.read_metadata(tmp_path / "a.parquet"), "image")

    held, path = {"bytes": b"x", "path": None}, {"bytes": None, "path": "a.png"}
    assert not has_paths_only([held, held])
    assert has_paths_only([held, path])
    assert has_paths_only([held, held], write_statistics=False)  # who knows
    assert has_paths_only([held, path], row_group_size=1)


def test_only_the_end_of_a_complete_tar_is_read(tmp_path, small, monkeypatch):
    tars = write_tars(small, tmp_path / "tars", num_shards=1)
    monkeypatch.setattr(sources, "_read_through", None)
    check_shard(tars / "faces-000.tar", tars)


@pytest.mark.parametrize("cause", [None, OSError("the disk")])
def test_what_cannot_be_read_though_no_file_is_damaged(tmp_path, small, monkeypatch, cause):
    def fail(*args, **kwargs):
        raise ValueError("they differ") from cause

    monkeypatch.setattr(sources, "load_dataset", fail)
    files = [tmp_path / "a.parquet", tmp_path / "b.parquet"]
    for file in files:
        small.to_parquet(file)
    for named, chosen in ((tmp_path, files), (files[0], files[:1])):
        with pytest.raises(ValueError, match=rf"^{named} cannot be read as parquet: {cause or 'they differ'}$"):
            load_shards(chosen, tmp_path)


@pytest.mark.parametrize("file", ["a.parquet", "data/a.tar", "train.rec"])
def test_an_output_folder_among_shards_is_no_person(tmp_path, file):
    (tmp_path / "data").mkdir()
    (tmp_path / file).touch()
    check_output_dir(tmp_path / "out", tmp_path)
    check_output_dir(tmp_path / file / "out", tmp_path / file)


def test_hidden_files_beside_others_are_not_read(tmp_path, small):
    """macOS writes `._train.rec` for `train.rec` to disks of other systems and into archives."""
    small.to_parquet(tmp_path / "shards" / "train-00000-of-00001.parquet")
    write_recordio(small, tmp_path / "rec").rename(tmp_path / "rec" / "faces.rec")
    (tmp_path / "rec" / "train.idx").rename(tmp_path / "rec" / "faces.idx")
    pairs = make_verification_pairs(small)
    pairs.to_parquet(tmp_path / "pairs")
    for file in [file for file in tmp_path.rglob("*") if file.suffix in (".parquet", ".rec")]:
        file.with_name(f"._{file.name}").write_bytes(b"\0\5\26\7")
    assert len(load_identities(tmp_path / "shards")) == len(load_identities(tmp_path / "rec")) == len(small)
    assert len(VerificationPairs.from_parquet(tmp_path / "pairs")) == len(pairs)
