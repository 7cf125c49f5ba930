"""Publishing somebody else's folder sends nothing but that folder."""

import json
from pathlib import Path

import pytest
from huggingface_hub import snapshot_download
from safetensors.torch import load_file, save_file

from hf_face import FaceRecognitionModel
from hf_face.heads import save_head
from hf_face.hub import FaceModelCardData, push_to_hub, write_model_folder


@pytest.fixture(autouse=True)
def measured(monkeypatch, measurements):
    monkeypatch.setattr("hf_face.hub.model_card.measure_model", lambda model: measurements)


@pytest.fixture
def folder(backbone, image_processor, card, tmp_path):
    return write_model_folder(backbone, tmp_path / "theirs", "theirs", card=card, image_processor=image_processor)


def edit(file: Path, **values) -> None:
    file.write_text(json.dumps(json.loads(file.read_text()) | values))


def refuses(hub, folder, match: str, **options) -> None:
    with pytest.raises(ValueError, match=match):
        push_to_hub(folder, "org/refused", **options)
    assert ("model", "org/refused") not in hub.store.repos


def test_figures_are_images_of_the_folder(hub, folder, tmp_path):
    photo = folder / "figures" / "orl_roc.png"
    private = tmp_path / "private.png"
    private.write_bytes(photo.read_bytes())
    (folder / "link.png").symlink_to(private)
    for figure in ("../private.png", str(private), "link.png", "/etc/passwd"):
        edit(folder / "model_card.json", figures=[figure])
        refuses(hub, folder, "theirs refers to a file outside it")
    (folder / "notes.png").write_text("a password")
    edit(folder / "model_card.json", figures=["notes.png"])
    (folder / "link.png").unlink()
    refuses(hub, folder, r"notes.png is not an image \(PNG, JPEG, GIF, WEBP\)")
    edit(folder / "model_card.json", figures=["figures/orl_roc.png"])
    push_to_hub(folder, "org/theirs")


def test_a_broken_card_is_named(hub, folder):
    for content in (b'{"license": "mit', b"\xff", b"[]"):
        (folder / "model_card.json").write_bytes(content)
        with pytest.raises(ValueError, match=r"model_card\.json"):
            FaceModelCardData.load(folder)


def test_weights_are_files_of_the_folder(hub, folder, tmp_path):
    weights, private = folder / "model.safetensors", tmp_path / "private.safetensors"
    weights.rename(private)
    weights.symlink_to(private)
    refuses(hub, folder, "theirs refers to a file outside it, model.safetensors")
    weights.unlink()
    tensors = load_file(private)
    index = {"metadata": {}, "weight_map": dict.fromkeys(tensors, "../private.safetensors")}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    save_file(tensors, folder / "model-00001-of-00001.safetensors", {"format": "pt"})
    refuses(hub, folder, "theirs refers to a file outside it, ../private.safetensors")
    edit(folder / "model.safetensors.index.json", weight_map=dict.fromkeys(tensors, "model-00001-of-00001.safetensors"))
    push_to_hub(folder, "org/theirs")


def test_a_heads_files_are_files_of_the_folder(hub, folder, backbone, tmp_path):
    save_head(FaceRecognitionModel.from_backbone(backbone, num_identities=10).head, folder)
    (folder / "head-00001-of-00001.safetensors").rename(tmp_path / "private.safetensors")
    index = json.loads((folder / "head.index.json").read_text())
    index["shards"][0]["file"] = "../private.safetensors"
    (folder / "head.index.json").write_text(json.dumps(index))
    refuses(hub, folder, "theirs refers to a file outside it", include_head=True)


def test_damaged_files_are_named(hub, folder):
    weights = folder / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1])
    refuses(hub, folder, r"model.safetensors is not a complete safetensors file")
    weights.write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n")
    refuses(hub, folder, r"model.safetensors is not .*, but a Git LFS pointer")
    (folder / "config.json").write_text('{"model_type": ')
    refuses(hub, folder, r"model.safetensors|config.json")


def test_a_model_of_the_hubs_cache_can_be_published_again(hub, folder):
    push_to_hub(folder, "org/theirs")
    snapshot = Path(snapshot_download("org/theirs"))
    assert (snapshot / "figures" / "orl_roc.png").is_symlink()
    push_to_hub(snapshot, "org/again")
    assert "figures/orl_roc.png" in hub.store.repos["model", "org/again"].commit("main").files
