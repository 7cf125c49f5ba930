"""Embedding images from any source into Parquet, with resuming."""

import io
import os
import random
import signal
import sys
import tarfile
from functools import partial
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from datasets import ClassLabel, Dataset, Features, Image, Value, load_dataset
from PIL import Image as PillowImage

from hf_face.data import UndecodableImageError, load_images
from hf_face.embedding import Embedder, EmbeddingCache, embed_to_parquet


@pytest.fixture
def embedder(model, image_processor):
    return Embedder(model, image_processor, batch_size=2, progress=False)


@pytest.fixture
def images(tmp_path):
    rng = np.random.default_rng(0)
    for name in ("a/1.png", "a/2.jpg", "b/3.png", "b/4.jpg", "c.png"):
        path = tmp_path / "images" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        PillowImage.fromarray(rng.integers(0, 256, (32, 32, 3), dtype=np.uint8)).save(path)
    return tmp_path / "images"


def embed_folder(embedder, images, output) -> None:
    embed_to_parquet(embedder, load_images(images), output, images_per_shard=2)


def test_every_image_has_its_row(embedder, images, tmp_path):
    output = tmp_path / "embeddings.parquet"
    embed_folder(embedder, images, output)
    table = pq.read_table(output).to_pydict()
    assert list(table) == ["file_name", "embedding", "norm"]
    assert table["file_name"] == ["a/1.png", "a/2.jpg", "b/3.png", "b/4.jpg", "c.png"]
    rows = Dataset.from_dict({"image": [str(images / name) for name in table["file_name"]]})
    expected = embedder.embed(rows.cast_column("image", Image())).with_flip("sum")
    np.testing.assert_allclose(np.array(table["embedding"]), expected.embeddings, atol=1e-6)
    np.testing.assert_allclose(np.array(table["norm"]), expected.norms, rtol=1e-5)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["embeddings.parquet", "images"]


def test_a_folder_keeps_the_shards_and_datasets_reads_it(embedder, images, tmp_path):
    embed_folder(embedder, images, tmp_path / "in_one.parquet")
    embed_folder(embedder, images, tmp_path / "out")
    names = sorted(path.name for path in (tmp_path / "out" / "data").iterdir())
    assert names == [f"train-0000{i}-of-00003.parquet" for i in range(3)]
    loaded = load_dataset(str(tmp_path / "out"), split="train")
    assert loaded.features["embedding"].length == 16
    assert loaded[:] == Dataset.from_parquet(str(tmp_path / "in_one.parquet"))[:]


def encoded(image: PillowImage.Image) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    return buffer.getvalue()


def write_tars(faces: Dataset, folder: Path) -> Path:
    folder.mkdir()
    for shard in range(2):
        with tarfile.open(folder / f"faces-{shard}.tar", "w") as tar:
            for row in range(shard * 3, shard * 3 + 3):
                for suffix, content in (("cls", str(row // 2).encode()), ("png", encoded(faces[row]["photo"]))):
                    member = tarfile.TarInfo(f"{row:04d}.{suffix}")
                    member.size = len(content)
                    tar.addfile(member, io.BytesIO(content))
    return folder


def write_parquet(faces: Dataset, folder: Path) -> Path:
    folder.mkdir()
    for shard in range(2):
        faces.shard(2, shard, contiguous=True).to_parquet(folder / f"{shard}.parquet")
    return folder


@pytest.mark.parametrize("write", [write_parquet, write_tars])
def test_columns_that_identify_an_image_are_kept(embedder, tmp_path, write):
    pixels = np.random.default_rng(0).integers(0, 256, (6, 32, 32, 3), dtype=np.uint8)
    columns = {"photo": list(pixels), "label": [0, 0, 1, 1, 2, 2], "key": list("abcdef")}
    features = Features({"photo": Image(), "label": ClassLabel(names=["ann", "bob", "cid"]), "key": Value("string")})
    faces = Dataset.from_dict(columns, features)
    embed_to_parquet(embedder, load_images(write(faces, tmp_path / "faces")), tmp_path / "out", images_per_shard=4)
    loaded = load_dataset(str(tmp_path / "out"), split="train").with_format("numpy")
    expected = embedder.embed(faces.rename_column("photo", "image")).with_flip("sum")
    np.testing.assert_allclose(loaded["embedding"], expected.embeddings, atol=1e-6)
    if write is write_parquet:
        assert loaded.features["label"].names == ["ann", "bob", "cid"]
        assert loaded["key"][:].tolist() == list("abcdef")
    else:
        assert loaded["__key__"][:].tolist() == [f"{row:04d}" for row in range(6)]
        assert loaded["cls"][:].tolist() == [0, 0, 1, 1, 2, 2]


def test_images_without_any_other_column(embedder, tmp_path):
    pixels = np.random.default_rng(0).integers(0, 256, (3, 32, 32, 3), dtype=np.uint8)
    images = Dataset.from_dict({"image": list(pixels)}, Features({"image": Image()}))
    embed_to_parquet(embedder, images, tmp_path / "out.parquet", images_per_shard=2)
    table = pq.read_table(tmp_path / "out.parquet")
    assert (table.column_names, len(table)) == (["embedding", "norm"], 3)


def test_images_that_have_embeddings_already(embedder, tmp_path):
    images = Dataset.from_dict({"image": [None], "norm": [1.0]}).cast_column("image", Image())
    with pytest.raises(ValueError, match="the images already have a column 'norm'"):
        embed_to_parquet(embedder, images, tmp_path / "out.parquet")


def test_no_images(embedder, images, tmp_path):
    with pytest.raises(ValueError, match="there are no images to embed"):
        embed_to_parquet(embedder, load_images(images).select([]), tmp_path / "out.parquet")
    with pytest.raises(ValueError, match="there are no images to embed"):
        EmbeddingCache(tmp_path)(embedder, load_images(images).select([]))


def test_links_are_followed_and_what_is_left_out_is_counted(embedder, images, tmp_path, caplog):
    (tmp_path / "elsewhere").mkdir()
    (images / "b").rename(tmp_path / "elsewhere" / "b")
    (images / "linked").symlink_to(tmp_path / "elsewhere")
    (images / ".hidden").mkdir()
    (images / ".hidden" / "1.png").write_bytes(b"no image")
    (images / "film.mp4").write_bytes(b"no image")
    embed_folder(embedder, images, tmp_path / "out.parquet")
    names = pq.read_table(tmp_path / "out.parquet")["file_name"].to_pylist()
    assert names == ["a/1.png", "a/2.jpg", "c.png", "linked/b/3.png", "linked/b/4.jpg"]
    assert "left out files (1 .mp4)" in caplog.text


def test_a_stopped_run_goes_on_with_the_first_missing_shard(embedder, images, tmp_path, monkeypatch):
    good = (images / "c.png").read_bytes()
    (images / "c.png").write_bytes(b"no image")
    output = tmp_path / "embeddings.parquet"
    with pytest.raises(UndecodableImageError):
        embed_folder(embedder, images, output)
    assert not output.exists()
    (images / "c.png").write_bytes(good)
    embedded = []
    embed_parts = embedder.embed_parts
    monkeypatch.setattr(embedder, "embed_parts", lambda _, parts: (embedded.extend(parts), embed_parts(_, parts))[1])
    embed_folder(embedder, images, output)
    assert embedded == [range(4, 5)]
    assert len(pq.read_table(output)) == 5


def test_shards_of_other_images_are_not_taken_over(embedder, images, tmp_path):
    (images / "c.png").write_bytes(b"no image")
    output = tmp_path / "embeddings.parquet"
    with pytest.raises(UndecodableImageError):
        embed_folder(embedder, images, output)
    (images / "c.png").write_bytes((images / "a" / "1.png").read_bytes())
    (images / "a" / "0.png").write_bytes((images / "b" / "3.png").read_bytes())
    embed_folder(embedder, images, output)
    table = pq.read_table(output).to_pydict()
    vectors = dict(zip(table["file_name"], table["embedding"], strict=True))
    assert vectors["a/0.png"] == vectors["b/3.png"] and vectors["a/0.png"] != vectors["a/1.png"]
    assert not list(tmp_path.glob("*.shards"))


def test_shards_of_another_model_are_not_taken_over(embedder, images, tmp_path):
    good = (images / "c.png").read_bytes()
    (images / "c.png").write_bytes(b"no image")
    output = tmp_path / "embeddings.parquet"
    with pytest.raises(UndecodableImageError):
        embed_folder(embedder, images, output)
    (images / "c.png").write_bytes(good)
    single = Embedder(embedder.model, embedder.image_processor, batch_size=2, flip=False, progress=False)
    embed_folder(single, images, output)
    embed_folder(single, images, tmp_path / "from_the_start.parquet")
    assert pq.read_table(output).equals(pq.read_table(tmp_path / "from_the_start.parquet"))


def test_a_folder_that_is_not_there_or_empty_is_named(embedder, tmp_path):
    with pytest.raises(FileNotFoundError, match="nowhere"):
        embed_folder(embedder, tmp_path / "nowhere", tmp_path / "out.parquet")
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match="empty contains no images"):
        embed_folder(embedder, tmp_path / "empty", tmp_path / "out.parquet")


def test_shards_of_others_are_left_alone(embedder, images, tmp_path):
    embed_folder(embedder, images, tmp_path / "out")
    single = Embedder(embedder.model, embedder.image_processor, batch_size=2, flip=False, progress=False)
    before = {path: path.read_bytes() for path in (tmp_path / "out" / "data").iterdir()}
    another_model = r"train-00000-of-00003.parquet holds embeddings of other images or of another model"
    with pytest.raises(ValueError, match=another_model):
        embed_folder(single, images, tmp_path / "out")
    with pytest.raises(ValueError, match="another number of images per shard"):
        embed_to_parquet(embedder, load_images(images), tmp_path / "out", images_per_shard=3)
    (images / "c.png").unlink()
    with pytest.raises(ValueError, match="of other images"):
        embed_folder(embedder, images, tmp_path / "out")
    (tmp_path / "other" / "data").mkdir(parents=True)
    pq.write_table(pa.table({"mine": [1]}), tmp_path / "other" / "data" / "train-00000-of-00002.parquet")
    with pytest.raises(ValueError, match="holds embeddings of other images"):
        embed_folder(embedder, images, tmp_path / "other")
    assert {path: path.read_bytes() for path in (tmp_path / "out" / "data").iterdir()} == before


def dies_at(call: int, work) -> bool:
    """Whether `work` in a child process, killed as our files or pyarrow's call a function for that time, gets there."""
    child = os.fork()
    if child == 0:
        calls = iter(range(call))

        def count(frame, *_):
            watched = "/hf_face/embedding/" in frame.f_code.co_filename or "/pyarrow/" in frame.f_code.co_filename
            if watched and next(calls, None) is None:
                os.kill(os.getpid(), signal.SIGKILL)

        torch.set_num_threads(1)  # threads do not survive a fork
        sys.setprofile(count)
        work()
        sys.setprofile(None)
        os._exit(0)
    return os.waitpid(child, 0)[1] == signal.SIGKILL


@pytest.mark.parametrize("output", ["out", "out.parquet"])
def test_killed_twenty_times(embedder, orl, tmp_path, output):
    images = orl.select(range(90))
    embed_to_parquet(embedder, images, tmp_path / "at_once.parquet")
    seed = random.randrange(2**32)
    print(f"seed {seed}")
    calls = random.Random(seed)
    work = partial(embed_to_parquet, embedder, images, tmp_path / output, images_per_shard=2)
    kept: dict[Path, int] = {}
    num_deaths = 0
    while num_deaths < 20:
        num_deaths += dies_at(calls.randrange(2_000), work)  # a run makes about 8,000
        shards = {path: path.stat().st_mtime_ns for path in tmp_path.glob("out*/*/*.parquet")}
        if not (tmp_path / "out.parquet").exists():
            assert kept.items() <= shards.items()  # none lost, none embedded again
            kept = shards
        assert all(pq.read_metadata(path).num_rows == 2 for path in shards)
    found = Dataset.from_parquet(list(map(str, work())))
    assert found[:] == Dataset.from_parquet(str(tmp_path / "at_once.parquet"))[:]
    assert not list(tmp_path.rglob("*.unfinished"))
    assert len(list(tmp_path.iterdir())) == 2


def test_a_run_that_is_complete_does_nothing(embedder, model, images, tmp_path):
    for output in (tmp_path / "out", tmp_path / "out.parquet"):
        embed_folder(embedder, images, output)
        calls = model.num_calls
        embed_folder(embedder, images, output)
        assert model.num_calls == calls
