"""What can be published: models in memory, folders, training models, split heads, adapters."""

import copy
import json

import pytest
import torch
import torch.distributed as dist
from huggingface_hub import ModelCard
from peft import LoraConfig, get_peft_model
from safetensors.torch import load
from transformers import AutoModel

from hf_face import FaceRecognitionModel, FoundationFaceConfig, FoundationFaceModel, IResNetModel
from hf_face.heads import save_head
from hf_face.hub import push_to_hub, write_model_folder


@pytest.fixture
def folder(backbone, image_processor, card, tmp_path):
    return write_model_folder(backbone, tmp_path / "run", "run", card=card, image_processor=image_processor)


@pytest.fixture
def training_model(backbone) -> FaceRecognitionModel:
    return FaceRecognitionModel.from_backbone(copy.deepcopy(backbone), num_identities=10)


@pytest.fixture
def group():
    """Ranks to split a head over: this process alone."""
    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    yield dist.group.WORLD
    dist.destroy_process_group()


def config_of(hub, repo_id: str) -> dict:
    return json.loads(hub.store.read(repo_id, "config.json"))


def test_a_loaded_model_is_published_whole_by_its_own_method(hub, folder):
    AutoModel.from_pretrained(folder).push_to_hub("org/by_method")
    assert "modeling_iresnet.py" in hub.store.repos["model", "org/by_method"].commit("main").files
    assert config_of(hub, "org/by_method")["similarity_thresholds"] == {"1e-2": 0.3125}
    published = ModelCard.load("org/by_method")
    assert published.data.license == "cc-by-nc-4.0" and "](figures/orl_roc.png)" in published.text


def test_the_card_of_other_weights_is_not_published(hub, folder, card, image_processor):
    model = AutoModel.from_pretrained(folder)
    with torch.no_grad():
        next(model.parameters()).mul_(1.5)  # trained further, say
    with pytest.raises(ValueError, match="requires a card"):
        model.push_to_hub("org/other_weights")
    with pytest.raises(ValueError, match="requires its image processor"):
        model.push_to_hub("org/other_weights", card=card)
    model.push_to_hub("org/other_weights", card=card, image_processor=image_processor)
    assert "model.safetensors" in hub.store.repos["model", "org/other_weights"].commit("main").files


def test_a_converted_model_brings_its_image_processor(hub, backbone, image_processor, card, tmp_path):
    backbone.save_pretrained(tmp_path / "converted")
    image_processor.save_pretrained(tmp_path / "converted")
    AutoModel.from_pretrained(tmp_path / "converted").push_to_hub("org/converted", card=card)
    assert "preprocessor_config.json" in hub.store.repos["model", "org/converted"].commit("main").files


def test_a_training_model_publishes_its_backbone_and_the_head_when_asked(hub, training_model, card, image_processor):
    training_model.push_to_hub("org/trained", card=card, image_processor=image_processor)
    files = hub.store.repos["model", "org/trained"].commit("main").files
    assert config_of(hub, "org/trained")["architectures"] == ["IResNetModel"] and "head.index.json" not in files
    training_model.push_to_hub("org/trained", card=card, image_processor=image_processor, include_head=True)
    head = load(hub.store.read("org/trained", "head-00001-of-00001.safetensors"))
    assert torch.equal(head["weight"], training_model.head.weight)


def test_a_head_in_parts_is_refused_and_its_checkpoint_published(
    hub, training_model, group, card, image_processor, tmp_path
):
    weight = training_model.head.weight.detach().clone()
    training_model.head.shard(group)
    publish = {"card": card, "image_processor": image_processor, "include_head": True}
    with pytest.raises(ValueError, match=r"head is split over ranks.*push a checkpoint folder"):
        training_model.push_to_hub("org/split", **publish)
    assert ("model", "org/split") not in hub.store.repos

    training_model.save_pretrained(tmp_path / "checkpoint-1")
    save_head(training_model.head, tmp_path / "checkpoint-1")
    push_to_hub(tmp_path / "checkpoint-1", "org/split", **publish)
    assert torch.equal(load(hub.store.read("org/split", "head-00001-of-00001.safetensors"))["weight"], weight)


@pytest.mark.parametrize("of_training_model", [False, True])
def test_adapters_are_merged(hub, backbone, training_model, card, image_processor, faces, of_training_model):
    torch.manual_seed(0)
    lora = LoraConfig(r=2, target_modules=r"stages.*convolution\d", init_lora_weights=False)
    adapted = model = get_peft_model(copy.deepcopy(backbone), lora).eval()
    if of_training_model:
        training_model.backbone, model = adapted, training_model
    name = f"org/merged_{of_training_model}"
    push_to_hub(model, name, card=card, image_processor=image_processor)
    published = AutoModel.from_pretrained(name)
    pixel_values = image_processor(faces, return_tensors="pt").pixel_values
    with torch.inference_mode():
        found, expected = published(pixel_values).pooler_output, adapted(pixel_values).pooler_output
        assert not torch.allclose(expected, backbone(pixel_values).pooler_output, atol=1e-3)
    assert type(published) is IResNetModel
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=0)


def test_thresholds_of_other_weights_do_not_stay(hub, backbone, card, image_processor):
    model = copy.deepcopy(backbone)
    model.config.similarity_thresholds = {"1e-3": 0.9}  # what it was fine-tuned from
    card.evaluations = []
    push_to_hub(model, "org/uncalibrated", card=card, image_processor=image_processor)
    assert "similarity_thresholds" not in config_of(hub, "org/uncalibrated")
    assert FaceRecognitionModel.from_backbone(model, num_identities=3).backbone.config.similarity_thresholds is None


def test_a_name_of_ones_own_is_completed(hub, backbone, card, image_processor):
    push_to_hub(backbone, "mine", card=card, image_processor=image_processor)
    assert ("model", "alice/mine") in hub.store.repos
    assert 'AutoModel.from_pretrained("alice/mine")' in ModelCard.load("alice/mine").text


def test_a_public_repository_does_not_become_private_by_a_push(hub, backbone, card, image_processor):
    publish = {"card": card, "image_processor": image_processor}
    push_to_hub(backbone, "org/seen", **publish)
    before = hub.store.repos["model", "org/seen"].refs
    with pytest.raises(ValueError, match=r"org/seen is public, .* remove private=True"):
        push_to_hub(backbone, "org/seen", private=True, **publish)
    assert hub.store.repos["model", "org/seen"].refs == before
    push_to_hub(backbone, "org/seen", private=False, **publish)


def test_half_precision_with_its_own_attention(hub, card, image_processor):
    """Attention computed in another way rounds otherwise, which is not another answer."""
    torch.manual_seed(0)
    inner = {"model_type": "dinov2", "hidden_size": 32, "num_hidden_layers": 4, "num_attention_heads": 2}
    config = FoundationFaceConfig(backbone_config=inner | {"image_size": 112, "patch_size": 14}, image_size=112)
    model = FoundationFaceModel._from_config(config, attn_implementation="eager", dtype=torch.bfloat16).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_(std=0.5)
    push_to_hub(model, "org/half", card=card, image_processor=image_processor)
    assert config_of(hub, "org/half")["dtype"] == "bfloat16"


def test_weights_that_are_not_numbers(hub, backbone, card, image_processor):
    model = copy.deepcopy(backbone)
    name, parameter = next(iter(model.named_parameters()))
    torch.nn.init.constant_(parameter, float("nan"))
    with pytest.raises(ValueError, match=f"1 weights have non-finite values, for example {name}"):
        push_to_hub(model, "org/diverged", card=card, image_processor=image_processor)
