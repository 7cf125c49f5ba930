"""Embedding a folder of images into a table, with resuming."""

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from datasets import Dataset, Image
from PIL import Image as PillowImage

from hf_face import FaceImageProcessor, TimmFaceConfig, TimmFaceModel
from hf_face.data import UndecodableImageError
from hf_face.embedding import Embedder, folder


@pytest.fixture
def embedder(monkeypatch):
    monkeypatch.setattr(folder, "IMAGES_PER_SHARD", 2)
    torch.manual_seed(0)
    model = TimmFaceModel(TimmFaceConfig(architecture="resnet10t", embedding_size=8, image_size=32))
    processor = FaceImageProcessor(size={"height": 32, "width": 32})
    return Embedder(model, processor, batch_size=2, progress=False)


@pytest.fixture
def images(tmp_path):
    rng = np.random.default_rng(0)
    for name in ("a/1.png", "a/2.jpg", "b/3.png", "b/4.jpg", "c.png"):
        path = tmp_path / "images" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        PillowImage.fromarray(rng.integers(0, 256, (32, 32, 3), dtype=np.uint8)).save(path)
    return tmp_path / "images"


def test_every_image_has_its_row(embedder, images, tmp_path):
    output = tmp_path / "embeddings.parquet"
    assert folder.embed_folder(embedder, images, output) == 5
    table = pq.read_table(output).to_pydict()
    assert table["file_name"] == ["a/1.png", "a/2.jpg", "b/3.png", "b/4.jpg", "c.png"]
    rows = Dataset.from_dict({"image": [str(images / name) for name in table["file_name"]]})
    expected = embedder.embed(rows.cast_column("image", Image())).with_flip("sum")
    np.testing.assert_allclose(np.array(table["embedding"]), expected.embeddings, atol=1e-6)
    np.testing.assert_allclose(np.array(table["norm"]), expected.norms, rtol=1e-5)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["embeddings.parquet", "images"]


def test_links_are_followed_and_what_is_left_out_is_counted(embedder, images, tmp_path, caplog):
    (tmp_path / "elsewhere").mkdir()
    (images / "b").rename(tmp_path / "elsewhere" / "b")
    (images / "linked").symlink_to(tmp_path / "elsewhere")
    (images / ".hidden").mkdir()
    (images / ".hidden" / "1.png").write_bytes(b"no image")
    (images / "film.mp4").write_bytes(b"no image")
    assert folder.embed_folder(embedder, images, tmp_path / "out.parquet") == 5
    names = pq.read_table(tmp_path / "out.parquet")["file_name"].to_pylist()
    assert names == ["a/1.png", "a/2.jpg", "c.png", "linked/b/3.png", "linked/b/4.jpg"]
    assert "left out files (1 .mp4)" in caplog.text


def test_a_stopped_run_goes_on_with_the_first_missing_shard(embedder, images, tmp_path, monkeypatch):
    good = (images / "c.png").read_bytes()
    (images / "c.png").write_bytes(b"no image")
    output = tmp_path / "embeddings.parquet"
    with pytest.raises(UndecodableImageError):
        folder.embed_folder(embedder, images, output)
    assert not output.exists()
    (images / "c.png").write_bytes(good)
    embedded = []
    embed = embedder.embed
    monkeypatch.setattr(embedder, "embed", lambda *args: (embedded.append(args[-1]), embed(*args))[1])
    assert folder.embed_folder(embedder, images, output) == 5
    assert embedded == [range(4, 5)]
    assert len(pq.read_table(output)) == 5


def test_shards_of_other_images_are_not_taken_over(embedder, images, tmp_path):
    (images / "c.png").write_bytes(b"no image")
    output = tmp_path / "embeddings.parquet"
    with pytest.raises(UndecodableImageError):
        folder.embed_folder(embedder, images, output)
    (images / "c.png").write_bytes((images / "a" / "1.png").read_bytes())
    (images / "a" / "0.png").write_bytes((images / "b" / "3.png").read_bytes())
    assert folder.embed_folder(embedder, images, output) == 6
    table = pq.read_table(output).to_pydict()
    vectors = dict(zip(table["file_name"], table["embedding"], strict=True))
    assert vectors["a/0.png"] == vectors["b/3.png"] and vectors["a/0.png"] != vectors["a/1.png"]
    assert not list(tmp_path.glob("*.shards"))


def test_shards_of_another_model_are_not_taken_over(embedder, images, tmp_path):
    good = (images / "c.png").read_bytes()
    (images / "c.png").write_bytes(b"no image")
    output = tmp_path / "embeddings.parquet"
    with pytest.raises(UndecodableImageError):
        folder.embed_folder(embedder, images, output)
    (images / "c.png").write_bytes(good)
    single = Embedder(embedder.model, embedder.image_processor, batch_size=2, flip=False, progress=False)
    folder.embed_folder(single, images, output)
    folder.embed_folder(single, images, tmp_path / "from_the_start.parquet")
    assert pq.read_table(output).equals(pq.read_table(tmp_path / "from_the_start.parquet"))


def test_a_folder_that_is_not_there_or_empty_is_named(embedder, tmp_path):
    with pytest.raises(FileNotFoundError, match="nowhere"):
        folder.embed_folder(embedder, tmp_path / "nowhere", tmp_path / "out.parquet")
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match="contains no images"):
        folder.embed_folder(embedder, tmp_path / "empty", tmp_path / "out.parquet")
