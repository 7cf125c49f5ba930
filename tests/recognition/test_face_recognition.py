"""The training model: backbone and margin head together."""

import json
from functools import partial
from unittest.mock import patch

import pytest
import torch
from tiny_models import CASES
from transformers import AutoModel, Dinov2Config, Dinov2Model, PreTrainedModel
from transformers.utils import logging

from hf_face import (
    FAMILIES,
    AutoModelForFaceRecognition,
    FaceRecognitionConfig,
    FaceRecognitionModel,
    FoundationFaceModel,
    TimmFaceConfig,
    TimmFaceModel,
)
from hf_face.heads import MarginHead, load_head, save_head

BACKBONE = {
    "model_type": "timm_face",
    "architecture": "vit_tiny_patch16_224",
    "model_args": {"img_size": 32, "patch_size": 8, "depth": 2, "embed_dim": 24, "num_heads": 2},
    "embedding_size": 16,
    "image_size": 32,
}
PIXELS = torch.randn(4, 3, 32, 32, generator=torch.Generator().manual_seed(0))
LABELS = torch.tensor([0, 1, 2, 1])


def build(**settings) -> FaceRecognitionModel:
    torch.manual_seed(0)
    return FaceRecognitionModel(FaceRecognitionConfig(**{"backbone_config": BACKBONE, "num_identities": 3, **settings}))


@pytest.mark.parametrize("margin", ["arcface", "cosface", "adaface", "magface", "curricularface"])
def test_saving_and_loading_is_bit_exact_buffers_of_the_margin_included(tmp_path, margin):
    model = build(margin=margin)
    for _ in range(3):
        model(PIXELS * 10, labels=LABELS)  # moves running statistics
    model.save_pretrained(tmp_path)
    again = AutoModelForFaceRecognition.from_pretrained(tmp_path)
    state = again.state_dict()
    assert state.keys() == model.state_dict().keys()
    for name, weight in model.state_dict().items():
        assert torch.equal(weight, state[name]), name
    expected, got = (m.eval()(PIXELS, labels=LABELS).loss for m in (model, again))
    assert torch.equal(expected, got)


def test_the_loss_is_that_of_the_head_on_the_raw_embeddings():
    model = build(margin="cosface").eval()
    output = model(PIXELS, labels=LABELS)
    embedding = model.backbone(PIXELS)
    expected = model.head(embedding.pooler_output, embedding.norm, LABELS)
    torch.testing.assert_close(output.loss, expected.loss)
    cosine = torch.nn.functional.normalize(model.head.weight)[LABELS] * embedding.pooler_output
    torch.testing.assert_close(output.target_cosine, cosine.sum(1).detach())
    assert model(PIXELS).loss is None
    assert torch.equal(model(PIXELS).pooler_output, embedding.pooler_output)


def test_a_trained_backbone_gets_a_fresh_head_and_keeps_its_weights():
    backbone = TimmFaceModel(TimmFaceConfig(**{k: v for k, v in BACKBONE.items() if k != "model_type"}))
    before = {name: weight.clone() for name, weight in backbone.state_dict().items()}
    model = FaceRecognitionModel.from_backbone(backbone, num_identities=5, margin="cosface", margin_kwargs={"m": 0.2})
    assert model.backbone is backbone
    assert model.head.weight.shape == (5, 16)
    assert model.head.weight.std() > 0
    for name, weight in backbone.state_dict().items():
        assert torch.equal(weight, before[name]), name
    assert backbone.config.margin == {"name": "cosface", "scale": 64.0, "sub_centers": 1, "m": 0.2}
    filtered = FaceRecognitionModel.from_backbone(backbone, num_identities=5, filter_threshold=0.4)
    assert filtered.head.filter_threshold == backbone.config.margin["filter_threshold"] == 0.4


def test_gradient_checkpointing_reaches_the_backbone_and_changes_no_gradient():
    plain, checkpointed = build().train(), build().train()
    checkpointed.gradient_checkpointing_enable()
    assert checkpointed.backbone.model.grad_checkpointing
    for model in (plain, checkpointed):
        model(PIXELS, labels=LABELS).loss.backward()
    for (name, a), b in zip(plain.named_parameters(), checkpointed.parameters(), strict=True):
        torch.testing.assert_close(a.grad, b.grad, msg=name)


def test_auto_model_gives_embeddings_from_a_training_checkpoint_too(tmp_path):
    model = build().eval()
    model.save_pretrained(tmp_path)
    assert (
        json.loads((tmp_path / "config.json").read_text())["backbone_config"]["architecture"]
        == BACKBONE["architecture"]
    )
    assert torch.equal(AutoModel.from_pretrained(tmp_path).eval()(PIXELS).pooler_output, model(PIXELS).pooler_output)


@pytest.mark.parametrize("loader", [FaceRecognitionModel, AutoModelForFaceRecognition, AutoModel])
def test_a_head_that_was_saved_apart_is_put_back_without_a_warning(loader, tmp_path, caplog):
    model = build(margin="cosface")
    without_head = {name: weight for name, weight in model.state_dict().items() if name != "head.weight"}
    model.save_pretrained(tmp_path, state_dict=without_head)
    save_head(model.head, tmp_path)
    logging.enable_propagation()
    again, info = loader.from_pretrained(tmp_path, output_loading_info=True)
    logging.disable_propagation()
    assert not caplog.records
    assert torch.equal(again.head.weight, model.head.weight)
    assert not info["missing_keys"]
    assert loader.from_pretrained(tmp_path, scale=32.0).head.scale == 32


@pytest.mark.parametrize("sub_centers", [1, 2])
def test_a_head_is_read_from_a_training_checkpoint(sub_centers, tmp_path):
    model = build(sub_centers=sub_centers)
    model.save_pretrained(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    if sub_centers == 1:  # which a configuration need not say
        config.pop("sub_centers", None)
    (tmp_path / "config.json").write_text(json.dumps(config))
    head = MarginHead(16, 3, sub_centers=sub_centers)
    load_head(head, tmp_path)
    assert torch.equal(head.weight, model.head.weight)


def test_a_head_that_is_kept_apart_is_used_but_no_module_of_the_model():
    model = build().eval()
    expected = model(PIXELS, labels=LABELS).loss
    for _ in range(2):
        model.take_head_apart()
        assert not [name for name, _ in model.named_parameters() if name.startswith("head")]
    assert torch.equal(model(PIXELS, labels=LABELS).loss, expected)


@pytest.mark.parametrize("is_in_training", [True, False])
def test_a_trainer_saves_the_model_s_own_names_of_weights(is_in_training, tmp_path):
    model = build()
    model.is_in_training = is_in_training
    with patch.object(PreTrainedModel, "save_pretrained") as save:
        model.save_pretrained(tmp_path)
    assert save.call_args.kwargs["save_original_format"] == (not is_in_training)


@pytest.mark.parametrize("before", [{"margin": "cosface"}, {"margin": "adaface", "num_identities": 5}])
def test_what_a_checkpoint_lacks_of_the_head_starts_as_in_a_new_one(tmp_path, before):
    build(**before).save_pretrained(tmp_path)
    with torch.random.fork_rng():
        torch.empty(1000).fill_(torch.nan)  # makes uninitialized memory detectable
        again = FaceRecognitionModel.from_pretrained(
            tmp_path, num_identities=3, margin="adaface", ignore_mismatched_sizes=True
        )
    assert (again.head.margin.norm_mean, again.head.margin.norm_std, again.head.num_samples) == (20, 100, 0)
    if "num_identities" in before:
        assert again.head.weight.shape == (3, 16)
        assert again.head.weight.std().item() == pytest.approx(0.01, rel=0.5)
    else:
        assert torch.equal(again.head.weight, build().head.weight)


def test_hidden_states_and_attention_maps_are_the_backbones():
    model = build().eval()
    assert model(PIXELS).hidden_states is model(PIXELS).attentions is None
    output = model(PIXELS, output_hidden_states=True, output_attentions=True)
    expected = model.backbone(PIXELS, output_hidden_states=True, output_attentions=True)
    for found, own in ((output.hidden_states, expected.hidden_states), (output.attentions, expected.attentions)):
        assert len(found) == 2 and all(torch.equal(a, b) for a, b in zip(found, own, strict=True))
    model.config.output_hidden_states = True
    assert len(model(PIXELS).hidden_states) == 2
    assert len(model(PIXELS, return_dict=False)) == 4
    with pytest.raises(TypeError, match="unexpected keyword argument label"):
        model(PIXELS, label=LABELS)


def test_a_model_comes_from_weights_in_memory():
    model = build(margin="adaface")
    state = model.state_dict()
    again = FaceRecognitionModel.from_pretrained(None, config=model.config, state_dict=state)
    assert all(torch.equal(again.state_dict()[name], tensor) for name, tensor in state.items())


def test_a_bfloat16_checkpoint_takes_the_pixels_of_the_image_processor(tmp_path):
    build().save_pretrained(tmp_path)
    model = FaceRecognitionModel.from_pretrained(tmp_path, dtype=torch.bfloat16)
    model(PIXELS, labels=LABELS).loss.backward()
    assert {p.grad.dtype for p in model.parameters()} == {torch.bfloat16}


def test_folders_of_other_models_say_what_to_do(tmp_path):
    model = build()
    model.backbone.save_pretrained(tmp_path / "backbone")
    model.save_pretrained(tmp_path / "training")
    vision = Dinov2Model(Dinov2Config(hidden_size=8, num_hidden_layers=1, num_attention_heads=2, image_size=28))
    vision.save_pretrained(tmp_path / "vision")
    with pytest.raises(ValueError, match=r"is of a timm_face model.*FaceRecognitionModel.from_backbone"):
        FaceRecognitionModel.from_pretrained(tmp_path / "backbone")
    with pytest.raises(ValueError, match=r"is of a dinov2 model.*FoundationFaceModel.from_backbone"):
        FoundationFaceModel.from_pretrained(tmp_path / "vision")
    for family in set(FAMILIES.values()) - {TimmFaceModel}:
        with pytest.raises(ValueError, match=r"is of a timm_face model"):
            family.from_pretrained(tmp_path / "backbone")


@pytest.mark.parametrize("case", CASES)
def test_a_backbone_is_loaded_from_a_training_checkpoint(tmp_path, case):
    model = FaceRecognitionModel(FaceRecognitionConfig(backbone_config=CASES[case][0]))
    model.save_pretrained(tmp_path)
    backbone = type(model.backbone).from_pretrained(tmp_path)
    assert all(torch.equal(backbone.state_dict()[name], tensor) for name, tensor in model.backbone.state_dict().items())


def test_the_training_model_compiles_as_one_graph():
    torch.compiler.reset()
    plain, model = build(margin="elastic_arcface"), build(margin="elastic_arcface")
    compiled = torch.compile(model, fullgraph=True, backend="aot_eager")
    for _ in range(2):
        losses = [each(PIXELS, labels=LABELS).loss for each in (plain, compiled)]
        sum(losses).backward()
        torch.testing.assert_close(*losses)
    for (name, expected), found in zip(plain.named_parameters(), model.parameters(), strict=True):
        torch.testing.assert_close(found.grad, expected.grad, msg=name)


@pytest.mark.parametrize("margin", ["arcface", "adaface", "curricularface", "elastic_arcface_plus"])
def test_margins_with_and_without_state_differentiate_the_same_when_compiled(margin):
    """With the partitioner of inductor, which may compute in the backward pass what the forward pass has computed."""
    torch.compiler.reset()
    embedding = torch.randn(4, 8, generator=torch.Generator().manual_seed(0))
    norm = embedding.norm(dim=1, keepdim=True)
    gradients = []
    for compile_ in (lambda head: head, partial(torch.compile, fullgraph=True, backend="aot_eager_decomp_partition")):
        torch.manual_seed(0)
        head, direction = MarginHead(8, 3, margin=margin), (embedding / norm).requires_grad_()
        head.margin.train()
        compile_(head)(direction, norm, LABELS).loss.backward()
        gradients.append((direction.grad, head.weight.grad))
    for expected, found in zip(*gradients, strict=True):
        torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-3)  # of gradients around 10, decomposed


def test_a_label_out_of_range_is_refused():
    with pytest.raises(ValueError, match="3"):
        build()(PIXELS, labels=torch.tensor([0, 1, 2, 3]))


def test_an_unknown_margin_is_refused():
    with pytest.raises(ValueError, match="No margin is called 'arcfase'"):
        build(margin="arcfase")


@pytest.mark.parametrize("part", ["head", "backbone.model"])
def test_no_part_stays_in_evaluation(part):
    model = build().train()
    model.get_submodule(part).eval()
    assert all(module.training for module in model.train().modules())
    assert not any(module.training for module in model.eval().modules())
