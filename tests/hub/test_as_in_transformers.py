"""What users of transformers write to publish a model, with the checks of `hf_face.hub.push_to_hub`."""

import copy
import dataclasses
import json

import pytest
import torch
from huggingface_hub import ModelCard, snapshot_download
from safetensors.torch import load, load_file
from transformers import AutoModel

from hf_face import FaceRecognitionModel
from hf_face.hub import push_to_hub, write_model_folder


@pytest.fixture(autouse=True)
def measured(monkeypatch, measurements):
    monkeypatch.setattr("hf_face.hub.model_card.measure_model", lambda model: measurements)


@pytest.fixture
def folder(backbone, image_processor, card, tmp_path):
    return write_model_folder(backbone, tmp_path / "run", "run", card=card, image_processor=image_processor)


@pytest.fixture
def published(hub, tmp_path):
    """`published(name)`: the commit of a repository that only this test uses."""
    return lambda name="mine": hub.store.repos["model", f"org/{tmp_path.name}_{name}"].commit("main")


@pytest.fixture
def name(tmp_path):
    return lambda name="mine": f"org/{tmp_path.name}_{name}"


def test_shards_tags_and_a_description(hub, folder, name, published):
    push_to_hub(folder, name(), max_shard_size="100KB", tags=["my-tag"], commit_description="Why it is new.")
    shards = [file for file in published().files if file.startswith("model-0")]
    assert len(shards) > 1 and "model.safetensors.index.json" in published().files
    assert {"my-tag", "face-recognition"} < set(ModelCard.load(name()).data.tags)
    assert published().description == "Why it is new."
    again = AutoModel.from_pretrained(snapshot_download(name()))
    again.push_to_hub(name("again"), tags=["my-tag"])  # its card is found beside its shards
    push_to_hub(folder, name())
    assert not [file for file in published().files if file.startswith("model-0") or file.endswith("index.json")]


def test_save_pretrained_publishes_as_push_to_hub_does(hub, backbone, folder, card, image_processor, name, published):
    model = AutoModel.from_pretrained(folder)
    model.save_pretrained(folder.parent / "saved", push_to_hub=True, repo_id=name(), commit_message="Saved")
    assert published().title == "Saved"
    assert {
        "README.md",
        "model_card.json",
        "preprocessor_config.json",
        "modeling_iresnet.py",
    } < published().files.keys()
    assert "README.md" not in {path.name for path in (folder.parent / "saved").iterdir()}
    assert ModelCard.load(name()).data.license == "cc-by-nc-4.0"

    fresh = copy.deepcopy(backbone)
    fresh.name_or_path = ""
    arguments = {"push_to_hub": True, "repo_id": name("fresh"), "image_processor": image_processor}
    for missing, stated in (
        ("requires a card", None),
        ("license of the weights", dataclasses.replace(card, license="")),
    ):
        with pytest.raises(ValueError, match=missing):
            fresh.save_pretrained(folder.parent / "fresh", card=stated, **arguments)
        assert not (folder.parent / "fresh").exists()
    assert ("model", name("fresh")) not in hub.store.repos
    fresh.save_pretrained(folder.parent / "fresh", card=card, max_shard_size="100KB", **arguments)
    assert "model.safetensors.index.json" in published("fresh").files


def test_the_card_of_other_weights_is_not_published(hub, folder, card, name, published):
    """Not even where the model is saved over the folder that it was loaded from."""
    model = AutoModel.from_pretrained(folder)
    with torch.no_grad():
        next(model.parameters()).mul_(1.5)  # trained further, say
    with pytest.raises(ValueError, match="requires a card"):
        model.save_pretrained(folder, push_to_hub=True, repo_id=name())
    model.save_pretrained(folder, push_to_hub=True, repo_id=name(), card=dataclasses.replace(card, evaluations=[]))
    assert "similarity_thresholds" not in json.loads(hub.store.read(name(), "config.json"))
    weights = load(hub.store.read(name(), "model.safetensors"))
    assert all(torch.equal(weights[key], value) for key, value in model.state_dict().items())


def test_a_training_model_is_saved_whole_and_its_backbone_published(
    hub, backbone, card, image_processor, tmp_path, name, published
):
    model = FaceRecognitionModel.from_backbone(copy.deepcopy(backbone), num_identities=10)
    model.save_pretrained(
        tmp_path / "saved", push_to_hub=True, repo_id=name(), card=card, image_processor=image_processor
    )
    assert "head.weight" in load_file(tmp_path / "saved" / "model.safetensors")
    assert json.loads(hub.store.read(name(), "config.json"))["architectures"] == ["IResNetModel"]
    assert "head.index.json" not in published().files


def test_other_ranks_save_and_publish_nothing(backbone, tmp_path, hub):
    backbone.save_pretrained(tmp_path / "saved", is_main_process=False, push_to_hub=True)
    assert not list((tmp_path / "saved").glob("*.safetensors"))
