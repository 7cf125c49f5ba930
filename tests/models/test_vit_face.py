"""Tests specific to the face transformer; test_common.py tests what all families share."""

import pytest
import torch
from huggingface_hub.errors import StrictDataclassClassValidationError
from safetensors.torch import load_file, save_file
from torch import nn
from transformers import AutoModel, TorchAoConfig

from hf_face import FaceRecognitionConfig, FaceRecognitionModel, ViTFaceConfig, ViTFaceModel

TINY = {
    "hidden_size": 16,
    "intermediate_size": 40,
    "num_hidden_layers": 3,
    "num_attention_heads": 2,
    "patch_size": 8,
    "image_size": 34,
    "embedding_size": 24,
}
FACES = torch.randn(3, 3, 34, 34, generator=torch.Generator().manual_seed(0))


def tiny(**settings) -> ViTFaceModel:
    torch.manual_seed(0)
    return ViTFaceModel(ViTFaceConfig(**{**TINY, **settings})).eval()


@pytest.mark.parametrize(
    "settings, parameters",
    [  # counted in the projects' own code
        ({"hidden_size": 256, "intermediate_size": 1024}, 19_137_792),
        ({}, 76_023_296),
        ({"num_hidden_layers": 24}, 113_833_472),
        ({"hidden_size": 768, "intermediate_size": 3072, "num_hidden_layers": 24}, 255_684_352),
        ({"patch_weighting": True}, 86_660_864),
    ],
)
def test_published_networks_have_their_number_of_parameters(settings, parameters):
    with torch.device("meta"):
        assert ViTFaceModel(ViTFaceConfig(**settings)).num_parameters() == parameters


def test_epsilons_activation_and_attention():
    model = tiny()
    assert {m.eps for m in model.modules() if isinstance(m, nn.LayerNorm)} == {1e-5}
    assert {m.eps for m in model.modules() if isinstance(m, nn.BatchNorm1d)} == {2e-5}
    layer = model.layers[0]
    assert layer.mlp.act(torch.tensor([-1.0, 3.0, 9.0])).tolist() == [0.0, 3.0, 6.0]
    assert layer.attn.fused_attn
    assert layer.attn.qkv.bias is None and layer.attn.proj.bias is not None
    assert layer.mlp.fc1.out_features == 40


def test_stochastic_depth_grows_linearly():
    for layers, rates in ((1, [0.0]), (2, [0.0, 0.2]), (3, [0.0, 0.1, 0.2])):
        model = tiny(drop_path_rate=0.2, num_hidden_layers=layers)
        assert [getattr(layer.drop_path1, "drop_prob", 0.0) for layer in model.layers] == pytest.approx(rates)


def test_gates_start_as_pytorchs_linear_layers():
    weighting = tiny(patch_weighting=True).patch_weighting
    for linear in (weighting.squeeze, weighting.excite):
        bound = linear.in_features**-0.5
        assert 0.97 * bound < linear.weight.abs().max() <= bound


def test_without_masking_there_need_not_be_a_token_for_it():
    model = tiny(mask_ratio=0.0, use_mask_token=False).train()
    assert model(FACES, output_hidden_states=True).hidden_states[-1].shape == (3, 16, 16)


@torch.no_grad()
def test_masking_leaves_patches_out_in_training_only():
    model = tiny(mask_ratio=0.3, drop_path_rate=0.0, hidden_size=24)
    model.embeddings.mask_token.fill_(7.0)
    assert torch.equal(model(FACES).pooler_output, model(FACES).pooler_output)
    assert model(FACES, output_hidden_states=True).hidden_states[0].shape == (3, 16, 24)
    output = model.train()(FACES, output_hidden_states=True)
    assert output.hidden_states[0].shape == (3, 11, 24)  # int(16 * 0.7) patches
    masked = (output.last_hidden_state == 7.0).all(-1)
    assert masked.sum(1).tolist() == [5, 5, 5]
    assert len({tuple(row) for row in masked.tolist()}) > 1  # drawn for each face

    # What is not masked stays in its place: without layers in between, tokens are the unmasked ones, normalized.
    model.layers = nn.ModuleList()
    output = model(FACES)
    kept = ~(output.last_hidden_state == 7.0).all(-1)
    expected = model.norm(model.embeddings(FACES))
    torch.testing.assert_close(output.last_hidden_state[kept], expected[kept])


@torch.no_grad()
def test_patch_weights_and_entropy():
    model = tiny(patch_weighting=True)
    assert model(FACES).patch_weights is None
    output = model(FACES, output_patch_weights=True)
    tokens = output.last_hidden_state
    hidden = torch.relu(tokens.flatten(1) @ model.patch_weighting.squeeze.weight.T)
    gates = 1 / (1 + torch.exp(-hidden @ model.patch_weighting.excite.weight.T))
    torch.testing.assert_close(output.patch_weights, gates.exp() / gates.exp().sum(1, keepdim=True))
    weighted = tokens * gates[..., None]
    torch.testing.assert_close(output.patch_entropy, weighted.var(-1, correction=1).sqrt())
    torch.testing.assert_close(model.neck(weighted.flatten(1)), output.pooler_output * output.norm)


def test_patch_weights_need_patch_weighting():
    with pytest.raises(ValueError, match="patch_weighting=True in its config"):
        tiny()(FACES, output_patch_weights=True)


def test_crops_of_another_size_are_refused():
    with pytest.raises(ValueError, match="takes crops of 34 x 34 pixels, found 32 x 32"):
        tiny()(FACES[..., :32, :32])
    with pytest.raises(ValueError, match="found 32 x 30"):
        tiny()(FACES[0, :, :32, :30])  # not even a batch


@pytest.mark.parametrize(
    "wrong, reason",
    [
        ({"num_attention_heads": 3}, "hidden_size 16 is not a multiple of num_attention_heads 3"),
        ({"patch_size": 35}, "patch_size 35 is larger than image_size 34"),
        ({"position": "keypoint_relative"}, "mask_ratio 0.1 does not work with keypoints"),
        ({"use_mask_token": False}, "mask_ratio 0.1 requires use_mask_token=True"),
    ],
)
def test_sizes_are_checked(wrong, reason):
    with pytest.raises(StrictDataclassClassValidationError, match=reason):
        ViTFaceConfig(**{**TINY, **wrong})


@pytest.mark.parametrize("prefix", ["", "backbone."])
def test_the_mask_token_of_older_checkpoints_is_read_and_written_with_the_embeddings(tmp_path, prefix):
    model = tiny(mask_ratio=0.5)
    if prefix:
        model = FaceRecognitionModel(FaceRecognitionConfig(backbone_config=model.config), model)
    state = {name: tensor + 1 for name, tensor in model.state_dict().items()}
    model.save_pretrained(tmp_path)
    old = {name.replace("embeddings.mask_token", "mask_token"): tensor for name, tensor in state.items()}
    assert f"{prefix}mask_token" in old
    save_file(old, tmp_path / "model.safetensors", metadata={"format": "pt"})

    loaded, report = AutoModel.from_pretrained(tmp_path, output_loading_info=True)
    assert not report["missing_keys"] and not report["unexpected_keys"]
    model.load_state_dict(old)
    for found in (loaded, model):
        assert all(torch.equal(found.state_dict()[name], tensor) for name, tensor in state.items())
    loaded.save_pretrained(tmp_path)
    assert load_file(tmp_path / "model.safetensors").keys() == state.keys()


@torch.no_grad()
def test_an_int8_model_is_saved_and_loaded(tmp_path):
    quantization = pytest.importorskip("torchao.quantization")
    tiny(mask_ratio=0.5).save_pretrained(tmp_path / "float")
    int8 = TorchAoConfig(quantization.Int8WeightOnlyConfig())
    quantized = AutoModel.from_pretrained(tmp_path / "float", quantization_config=int8)
    quantized.save_pretrained(tmp_path / "int8")
    again = AutoModel.from_pretrained(tmp_path / "int8")
    assert torch.equal(again(FACES).pooler_output, quantized(FACES).pooler_output)
    assert (again(FACES).pooler_output * tiny(mask_ratio=0.5)(FACES).pooler_output).sum(1).min() > 0.999


def test_every_weight_belongs_to_a_module():
    """torchao's files name a weight by its module: one at the root could not be read back."""
    assert all("." in name for name in tiny(mask_ratio=0.5, patch_weighting=True).state_dict())
