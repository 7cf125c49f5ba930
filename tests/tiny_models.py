"""Tiny models of every family, for tests that ask the same of all of them."""

import copy

import torch
from transformers import AutoModel

from hf_face import (
    FoundationFaceConfig,
    GhostFaceNetConfig,
    InceptionResNetConfig,
    IResNetConfig,
    MobileFaceNetConfig,
    MobileNetFaceConfig,
    TimmFaceConfig,
    ViTFaceConfig,
)

VIT = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "patch_size": 8, "image_size": 32}
VIT_FACE = {**VIT, "intermediate_size": 32, "embedding_size": 16, "mask_ratio": 0.0, "drop_path_rate": 0.0}
SIGLIP2 = {key: value for key, value in VIT.items() if key != "image_size"}
IRESNET = {"depths": [1, 2], "hidden_sizes": [16, 32], "stem_size": 8, "embedding_size": 16, "image_size": 32}
TIMM_VIT = {"img_size": 32, "patch_size": 8, "embed_dim": 16, "depth": 2, "num_heads": 2}

GHOST = {
    "stem_size": 8,
    "hidden_sizes": [8, 12],
    "expansion_sizes": [8, 24],
    "squeeze_sizes": [0, 8],
    "kernel_sizes": [3, 5],
    "strides": [1, 2],
    "head_size": 16,
}

# Each tiny model, and the layers that LoRA would adapt.
CASES = {
    "iresnet": (IResNetConfig(**IRESNET), ["convolution1", "linear"]),
    "iresnet-adaface": (
        IResNetConfig(**IRESNET, shortcut="subsample", squeeze_excitation=True, embedding_norm="plain", neck="gap"),
        ["convolution2"],
    ),
    "mobilefacenet": (MobileFaceNetConfig(depths=[1, 1, 1, 1], image_size=32, embedding_size=16), ["linear"]),
    "mobilenet_face": (
        MobileNetFaceConfig(stem_size=8, hidden_sizes=[8, 16], strides=[1, 2], image_size=32, embedding_size=16),
        ["linear"],
    ),
    "ghostfacenet": (GhostFaceNetConfig(**GHOST, image_size=32, embedding_size=16), ["linear"]),
    "inception_resnet": (InceptionResNetConfig(depths=[1, 1, 1], image_size=75, embedding_size=16), ["linear"]),
    "vit_face": (ViTFaceConfig(**VIT_FACE), ["qkv"]),
    "vit_face-transface": (ViTFaceConfig(**VIT_FACE, patch_weighting=True), ["qkv", "fc1"]),
    "foundation_face-clip": (
        FoundationFaceConfig(backbone_config={"model_type": "clip_vision_model", "projection_dim": 16, **VIT}),
        ["q_proj", "v_proj"],
    ),
    "foundation_face-dinov2": (
        FoundationFaceConfig(backbone_config={"model_type": "dinov2", **VIT}, image_size=48, embedding_size=12),
        ["q_proj", "v_proj"],
    ),
    "foundation_face-dinov3": (
        FoundationFaceConfig(backbone_config={"model_type": "dinov3_vit", "num_register_tokens": 4, **VIT}),
        ["q_proj", "v_proj"],
    ),
    "foundation_face-siglip2": (
        FoundationFaceConfig(
            backbone_config={
                "model_type": "siglip2_vision_model",
                "num_patches": 16,
                "intermediate_size": 32,
                **SIGLIP2,
            }
        ),
        ["q_proj", "v_proj"],
    ),
    "foundation_face-vit": (
        FoundationFaceConfig(backbone_config={"model_type": "vit", **VIT}),
        ["q_proj", "v_proj"],
    ),
    "timm_face-vit": (
        TimmFaceConfig(architecture="vit_tiny_patch16_224", model_args=TIMM_VIT, embedding_size=16, image_size=32),
        ["qkv"],
    ),
    "timm_face-convnext": (
        TimmFaceConfig(
            architecture="convnext_atto",
            model_args={"depths": [1, 1, 1, 1], "dims": [8, 8, 16, 16], "patch_size": 2},
            embedding_size=16,
            image_size=32,
        ),
        ["fc1"],
    ),
}


def build(case: str):
    """The case's model in eval mode, with seeded weights, including batch statistics and biases."""
    torch.manual_seed(0)
    model = AutoModel.from_config(copy.deepcopy(CASES[case][0]))
    for name, tensor in model.state_dict().items():
        if tensor.is_floating_point():
            tensor += 0.1 * torch.rand_like(tensor) if "running_var" in name else 0.05 * torch.randn_like(tensor)
    return model.eval()
