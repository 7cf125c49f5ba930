"""Tiny checkpoints in the formats of other projects."""

import torch

from hf_face import (
    IResNetConfig,
    IResNetModel,
    MobileFaceNetConfig,
    MobileFaceNetModel,
    ViTFaceConfig,
    ViTFaceModel,
    export_checkpoint,
)

TINY = {"depths": [1, 2], "hidden_sizes": [16, 32], "stem_size": 8, "embedding_size": 24, "image_size": 32}
ADAFACE = {"shortcut": "subsample", "embedding_norm": "plain"}
TRANSFORMER = {"hidden_size": 16, "num_hidden_layers": 2, "embedding_size": 24}

NETWORKS = {
    "flatten": lambda: IResNetModel(IResNetConfig(**TINY)),
    "fused": lambda: IResNetModel(IResNetConfig(**TINY)).eval().fuse(),
    "pooled": lambda: IResNetModel(IResNetConfig(**TINY, neck="gwp", stem_kernel_size=7)),
    "pooled_adaface": lambda: IResNetModel(IResNetConfig(**TINY, neck="gwp")),
    "magface": lambda: IResNetModel(IResNetConfig(**TINY, batch_norm_eps=2e-5, embedding_norm="affine")),
    "adaface": lambda: IResNetModel(IResNetConfig(**TINY, **ADAFACE, squeeze_excitation=True)),
    "mobilefacenet": lambda: MobileFaceNetModel(MobileFaceNetConfig(embedding_size=24)),
    "foamliu": lambda: MobileFaceNetModel(
        MobileFaceNetConfig(stem="separable", hidden_act="relu6", projection_bias=True)
    ),
    "vit": lambda: ViTFaceModel(ViTFaceConfig(**TRANSFORMER, intermediate_size=64)),
    "cvlface_base": lambda: ViTFaceModel(ViTFaceConfig(**TRANSFORMER, intermediate_size=48, num_attention_heads=16)),
    "transface": lambda: ViTFaceModel(ViTFaceConfig(**TRANSFORMER, intermediate_size=64, patch_weighting=True)),
}
FORMATS = [
    ("flatten", "arcface_torch"),
    ("mobilefacenet", "arcface_torch"),
    ("vit", "arcface_torch"),
    ("transface", "transface"),
    ("adaface", "adaface"),
    ("magface", "magface"),
    ("magface", "face_embeddings"),
    ("pooled", "revisit_linearize"),
    ("adaface", "cvlface"),
    ("flatten", "cvlface"),
    ("cvlface_base", "cvlface"),
    ("foamliu", "mobilefacenet"),
]


def tiny(network: str = "flatten"):
    torch.manual_seed(0)
    return NETWORKS[network]().eval()


def tiny_checkpoint(network: str = "flatten", source: str = "arcface_torch"):
    return export_checkpoint(tiny(network), source)
