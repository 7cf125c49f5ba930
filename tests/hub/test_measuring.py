"""The figures that a model is published with: operations and parameters are those that its layers say."""

import pytest
import torch

from hf_face import (
    FoundationFaceConfig,
    FoundationFaceModel,
    IResNetConfig,
    IResNetModel,
    TimmFaceConfig,
    TimmFaceModel,
    ViTFaceConfig,
    ViTFaceModel,
)
from hf_face.hub import measure_model

WIDTH = 8


def transformer_layer(tokens: int) -> int:
    """Operations of a pre-norm layer with an MLP four times as wide: projections, attention, MLP."""
    return 2 * (4 * tokens * WIDTH**2 + 2 * tokens**2 * WIDTH + 8 * tokens * WIDTH**2)


def test_operations_of_a_transformers_vit():
    vit = {"model_type": "dinov2", "hidden_size": WIDTH, "num_hidden_layers": 1, "num_attention_heads": 1}
    config = FoundationFaceConfig(backbone_config=vit | {"image_size": 28, "patch_size": 14}, image_size=28)
    patches = 2 * 4 * (14 * 14 * 3) * WIDTH
    assert measure_model(FoundationFaceModel(config), repeats=1).flops == patches + transformer_layer(tokens=5) == 46_112


def test_operations_of_a_timm_vit():
    sizes = {"img_size": 28, "patch_size": 14, "embed_dim": WIDTH, "depth": 1, "num_heads": 2}
    config = TimmFaceConfig(architecture="vit_tiny_patch16_224", model_args=sizes, embedding_size=4, image_size=28)
    patches, embedding = 2 * 4 * (14 * 14 * 3) * WIDTH, 2 * WIDTH * 4
    expected = patches + transformer_layer(tokens=5) + embedding
    assert measure_model(TimmFaceModel(config), repeats=1).flops == expected == 46_176


def test_operations_of_a_face_vit():
    config = ViTFaceConfig(
        image_size=28,
        patch_size=14,
        hidden_size=WIDTH,
        intermediate_size=4 * WIDTH,
        num_hidden_layers=1,
        num_attention_heads=2,
        embedding_size=4,
    )
    patches, neck = 2 * 4 * (14 * 14 * 3) * WIDTH, 2 * (4 * WIDTH * WIDTH + WIDTH * 4)
    expected = patches + transformer_layer(tokens=4) + neck
    assert measure_model(ViTFaceModel(config), repeats=1).flops == expected == 44_864
