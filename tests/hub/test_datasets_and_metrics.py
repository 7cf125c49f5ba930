"""Data sets and metrics on the Hub."""

import io
import shutil
from pathlib import Path

import datasets
import evaluate
import numpy as np
import pytest
from huggingface_hub import DatasetCard, DatasetCardData

from hf_face.data import VerificationPairs
from hf_face.hub import push_dataset, push_metric, push_space

METRIC = Path(__file__).parents[2] / "hf_face" / "metrics" / "face_verification"


def encoded(image) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, format="PNG")
    return buffer.getvalue()


@pytest.fixture
def identities(faces) -> datasets.Dataset:
    features = datasets.Features({"image": datasets.Image(), "label": datasets.ClassLabel(names=["anna", "bert"])})
    images = [{"bytes": encoded(face), "path": None} for face in faces]
    return datasets.Dataset.from_dict({"image": images, "label": [0, 1]}, features=features)


@pytest.fixture
def folder(identities, tmp_path) -> Path:
    """Two shards with a card, as a converted data set."""
    for i in range(2):
        identities.shard(2, i).to_parquet(tmp_path / "set" / "data" / f"train-{i:05}-of-00002.parquet")
    DatasetCard(f"---\n{DatasetCardData(pretty_name='Two people').to_yaml()}\n---\n# Two people\n").save(
        tmp_path / "set" / "README.md"
    )
    return tmp_path / "set"


def test_a_data_set_comes_back_as_it_was(hub, folder, identities):
    push_dataset(folder, "org/two_people", license="cc-by-nc-4.0")
    loaded = datasets.load_dataset("org/two_people", split="train")
    assert loaded.features["label"].names == ["anna", "bert"] and loaded["label"] == [0, 1]
    assert [np.asarray(image).tolist() for image in loaded["image"]] == [
        np.asarray(image).tolist() for image in identities["image"]
    ]
    assert DatasetCard.load("org/two_people").data.license == "cc-by-nc-4.0"


def test_pairs_come_back_as_they_were(hub, identities, tmp_path):
    pairs = VerificationPairs(identities.select_columns("image"), np.array([[0, 1], [1, 1]]), np.array([False, True]))
    push_dataset(pairs.to_parquet(tmp_path / "pairs"), "org/pairs", license="unknown")
    loaded = VerificationPairs.from_parquet("org/pairs")
    assert loaded.pairs.tolist() == [[0, 1], [1, 1]] and loaded.same.tolist() == [False, True]


def test_a_data_set_is_sent_once(hub, folder):
    push_dataset(folder, "org/once", license="mit")
    assert len(hub.store.uploads()) == 2
    hub.store.requests.clear()
    push_dataset(folder, "org/once")  # the card has the license now
    assert hub.store.uploads() == []


def test_what_git_and_downloads_keep_in_a_folder_stays_there(hub, folder):
    """The Hub refuses these files, so that a folder from `hf download --local-dir` could not be pushed."""
    for name in (".git/config", ".cache/huggingface/download/README.md.metadata"):
        (folder / name).parent.mkdir(parents=True)
        (folder / name).write_text("not for the Hub")
    push_dataset(folder, "org/downloaded", license="other")
    published = hub.store.repos["dataset", "org/downloaded"].commit("main").files
    assert "README.md" in published and not any(name.startswith((".git/", ".cache/")) for name in published)


def test_other_shards_take_the_place_of_the_old_ones_in_one_commit(hub, folder, identities):
    push_dataset(folder, "org/resharded", license="mit")
    repo = hub.store.repos["dataset", "org/resharded"]
    files = repo.commit("main").files
    repo.add_commit("main", "by hand", files | {"data/test-00000-of-00001.parquet": hub.store.keep(b"")}, None)
    shutil.rmtree(folder / "data")
    identities.to_parquet(folder / "data" / "train-00000-of-00001.parquet")
    (folder / "data" / "train-00000-of-00001.unfinished").write_bytes(b"of a run that was interrupted")
    push_dataset(folder, "org/resharded")
    assert [commit.title for commit in repo.history("main")] == ["Publish dataset", "by hand"]
    assert repo.commit("main").files.keys() == {
        ".gitattributes",
        "README.md",
        "data/test-00000-of-00001.parquet",  # another split is not ours to remove
        "data/train-00000-of-00001.parquet",
    }


def test_a_card_that_the_hub_refuses(hub, folder):
    card = DatasetCard.load(folder / "README.md")
    card.data.tags = ["x" * 200]
    card.save(folder / "README.md")
    with pytest.raises(ValueError, match="tags"):
        push_dataset(folder, "org/refused_card", license="mit")
    assert ("dataset", "org/refused_card") not in hub.store.repos


def test_a_metric_is_loaded_from_its_space(hub, monkeypatch, tmp_path):
    monkeypatch.setattr("evaluate.config.HUB_EVALUATE_URL", hub.url + "/spaces/{path}/resolve/{revision}/{name}")
    monkeypatch.setattr("evaluate.config.HF_EVALUATE_CACHE", tmp_path / "evaluate")
    push_metric(METRIC, "org/face_verification")
    assert "README.md" in hub.store.repos["space", "org/face_verification"].commit("main").files
    assert b"evaluate" in hub.store.read("org/face_verification", "requirements.txt", repo_type="space")
    metric = evaluate.load("org/face_verification")
    scores, same = [0.9, 0.2, 0.8, 0.1], [1, 0, 1, 0]
    assert metric.compute(predictions=scores, references=same, fars=[0.5], num_folds=2)["auc"] == 1.0


def test_a_space_starts_from_the_file_its_card_names(hub, tmp_path):
    (tmp_path / "README.md").write_text("---\nsdk: static\napp_file: index.html\n---\n")
    with pytest.raises(FileNotFoundError, match=r"has no index\.html: name the file it starts from in README\.md"):
        push_space(tmp_path, "org/page")
    assert ("space", "org/page") not in hub.store.repos
    (tmp_path / "index.html").write_text("<!doctype html>")
    push_space(tmp_path, "org/page")
    assert hub.store.read("org/page", "index.html", repo_type="space") == b"<!doctype html>"


def test_what_is_refused(hub, folder, tmp_path):
    with pytest.raises(ValueError, match="State the license of the data"):
        push_dataset(folder, "org/refused")
    (folder / "data" / "train-00001-of-00002.parquet").write_bytes(b"PAR1 cut off")
    with pytest.raises(ValueError, match=r"train-00001-of-00002.parquet is not a complete Parquet file"):
        push_dataset(folder, "org/refused", license="mit")
    shutil.rmtree(folder / "data")
    with pytest.raises(FileNotFoundError, match="has no Parquet files"):
        push_dataset(folder, "org/refused", license="mit")
    (folder / "README.md").unlink()
    with pytest.raises(FileNotFoundError, match=r"has no README\.md, the card of the dataset"):
        push_dataset(folder, "org/refused", license="mit")

    with pytest.raises(ValueError, match=r"push to '\.\.\./face_verification', not 'org/other'"):
        push_metric(METRIC, "org/other")
    shutil.copytree(METRIC, tmp_path / "face_verification")
    (tmp_path / "face_verification" / "app.py").unlink()
    with pytest.raises(FileNotFoundError, match=r"has no app\.py"):
        push_metric(tmp_path / "face_verification", "org/face_verification")
    assert hub.store.requests == []
