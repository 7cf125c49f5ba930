"""The figures a model is published with: those of its layers, measured without changing it."""

import pytest
import torch

from hf_face.hub import measure_model
from hf_face.models import (
    FoundationFaceConfig,
    FoundationFaceModel,
    IResNetConfig,
    IResNetModel,
    TimmFaceConfig,
    TimmFaceModel,
    ViTFaceConfig,
    ViTFaceModel,
)

WIDTH = 8
PATCHES = 2 * 4 * (14 * 14 * 3) * WIDTH  # operations on the four patches of an image of 28 pixels


def layer(tokens: int) -> int:
    """Operations of a transformer layer: four projections, two products of attention, an MLP four times as wide."""
    return 2 * (4 * tokens * WIDTH**2 + 2 * tokens**2 * WIDTH + 2 * tokens * WIDTH * 4 * WIDTH)


@pytest.mark.parametrize("attention", ["eager", "sdpa"])
def test_operations_of_a_transformers_vit(attention):
    vit = {"model_type": "dinov2", "hidden_size": WIDTH, "num_hidden_layers": 1, "num_attention_heads": 1}
    config = FoundationFaceConfig(backbone_config=vit | {"image_size": 28, "patch_size": 14}, image_size=28)
    model = FoundationFaceModel._from_config(config, attn_implementation=attention)
    measured = measure_model(model, repeats=1)
    assert measured.flops == PATCHES + layer(tokens=5) == 46_112
    assert measured.parameters == sum(parameter.numel() for parameter in model.parameters())
    assert 0 < measured.cpu_latency < 10


def test_operations_of_a_timm_vit():
    sizes = {"img_size": 28, "patch_size": 14, "embed_dim": WIDTH, "depth": 1, "num_heads": 2}
    config = TimmFaceConfig(architecture="vit_tiny_patch16_224", model_args=sizes, embedding_size=4, image_size=28)
    flops = measure_model(TimmFaceModel(config), repeats=1).flops
    assert flops == PATCHES + layer(tokens=5) + 2 * WIDTH * 4 == 46_176


def test_operations_of_a_face_vit():
    sizes = {"hidden_size": WIDTH, "intermediate_size": 4 * WIDTH, "num_hidden_layers": 1, "num_attention_heads": 2}
    config = ViTFaceConfig(image_size=28, patch_size=14, embedding_size=4, **sizes)
    flops = measure_model(ViTFaceModel(config), repeats=1).flops
    assert flops == PATCHES + layer(tokens=4) + 2 * (4 * WIDTH * WIDTH + WIDTH * 4) == 44_864


def test_measuring_leaves_the_model_as_it_was():
    model = IResNetModel(IResNetConfig(depths=(1, 1, 1, 1), hidden_sizes=(8, 8, 16, 16))).to(torch.bfloat16).train()
    model.stages.eval()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    assert "bfloat16" in measure_model(model, repeats=1).cpu
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
    assert model.training and model.stem.training and not model.stages.training


def test_a_model_that_fails_is_left_as_it_was():
    model = IResNetModel(IResNetConfig(depths=(1, 1, 1, 1), hidden_sizes=(8, 8, 16, 16))).train()
    model.config.num_channels = 4  # not what its first convolution takes
    with pytest.raises(RuntimeError):
        measure_model(model)
    assert all(module.training for module in model.modules())
