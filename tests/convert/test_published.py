"""Every published network, as its project spells it, is recognized and read: names and shapes alone, no memory."""

import pytest
import torch

from hf_face.convert import SOURCES
from hf_face.convert.checkpoint import Checkpoint
from hf_face.convert.convert import get_source
from hf_face.convert.froundation import plain_layout

WIDTHS, BOTTLENECK = (64, 128, 256, 512), (256, 512, 1024, 2048)
IRESNET = {
    "18": (2, 2, 2, 2),
    "34": (3, 4, 6, 3),
    "50": (3, 4, 14, 3),
    "100": (3, 13, 30, 3),
    "152": (3, 8, 36, 3),
    "200": (6, 26, 60, 6),
    "2060": (3, 128, 896, 3),
}


def norm(name, channels, affine=True):
    learned = {f"{name}.weight": (channels,), f"{name}.bias": (channels,)} if affine else {}
    statistics = {f"{name}.running_mean": (channels,), f"{name}.running_var": (channels,)}
    return {**learned, **statistics, f"{name}.num_batches_tracked": ()}


def linear(name, outputs, inputs):
    return {f"{name}.weight": (outputs, inputs), f"{name}.bias": (outputs,)}


def insightface_iresnet(depths, kernel=3, positions=49):
    shapes = {"conv1.weight": (64, 3, kernel, kernel), **norm("bn1", 64), "prelu.weight": (64,)}
    inputs = 64
    for stage, (depth, width) in enumerate(zip(depths, WIDTHS, strict=True), start=1):
        for unit in range(depth):
            name = f"layer{stage}.{unit}"
            shapes |= norm(f"{name}.bn1", inputs) | norm(f"{name}.bn2", width) | norm(f"{name}.bn3", width)
            shapes |= {f"{name}.conv1.weight": (width, inputs, 3, 3), f"{name}.conv2.weight": (width, width, 3, 3)}
            shapes[f"{name}.prelu.weight"] = (width,)
            if unit == 0:
                shapes |= {f"{name}.downsample.0.weight": (width, inputs, 1, 1), **norm(f"{name}.downsample.1", width)}
            inputs = width
    return shapes | norm("bn2", 512) | linear("fc", 512, 512 * positions) | norm("features", 512)


def adaface_iresnet(depths, widths=WIDTHS, se=False, positions=49):
    shapes = {"input_layer.0.weight": (64, 3, 3, 3), **norm("input_layer.1", 64), "input_layer.2.weight": (64,)}
    inputs, unit = 64, 0
    for depth, width in zip(depths, widths, strict=True):
        for _ in range(depth):
            name = f"body.{unit}.res_layer"
            middle = width // 4
            basic = [(width, inputs, 3), (width, width, 3)]
            convolutions = [(middle, inputs, 1), (middle, middle, 3), (width, middle, 1)]
            shapes |= norm(f"{name}.0", inputs)
            for i, (out, into, kernel) in enumerate(basic if widths == WIDTHS else convolutions):
                shapes[f"{name}.{3 * i + 1}.weight"] = (out, into, kernel, kernel)
                shapes |= norm(f"{name}.{3 * i + 2}", out)
                if i < len(basic if widths == WIDTHS else convolutions) - 1:
                    shapes[f"{name}.{3 * i + 3}.weight"] = (out,)
            if se:
                shapes[f"{name}.se_block.fc1.weight"] = (width // 16, width, 1, 1)
                shapes[f"{name}.se_block.fc2.weight"] = (width, width // 16, 1, 1)
            if inputs != width:
                shapes[f"body.{unit}.shortcut_layer.0.weight"] = (width, inputs, 1, 1)
                shapes |= norm(f"body.{unit}.shortcut_layer.1", width)
            inputs, unit = width, unit + 1
    shapes |= norm("output_layer.0", inputs) | linear("output_layer.3", 512, inputs * positions)
    return shapes | norm("output_layer.4", 512, affine=False)


def insightface_vit(width, depth, mlp_ratio=4, patch_weighting=False):
    shapes = {"patch_embed.proj.weight": (width, 3, 9, 9), "patch_embed.proj.bias": (width,)}
    shapes |= {"pos_embed": (1, 144, width), "mask_token": (1, 1, width)}
    for i in range(depth):
        for part in ("norm1", "norm2"):
            shapes |= {f"blocks.{i}.{part}.weight": (width,), f"blocks.{i}.{part}.bias": (width,)}
        shapes |= {f"blocks.{i}.attn.qkv.weight": (3 * width, width)} | linear(f"blocks.{i}.attn.proj", width, width)
        shapes |= linear(f"blocks.{i}.mlp.fc1", mlp_ratio * width, width)
        shapes |= linear(f"blocks.{i}.mlp.fc2", width, mlp_ratio * width)
    shapes |= {"norm.weight": (width,), "norm.bias": (width,)}
    shapes |= {"feature.0.weight": (width, 144 * width), **norm("feature.1", width)}
    shapes |= {"feature.2.weight": (512, width), **norm("feature.3", 512)}
    if patch_weighting:
        shapes |= {"senet.0.weight": (144, 144 * width), "senet.2.weight": (144, 144)}
    return shapes


def insightface_mobilefacenet(depths, scale):
    shapes = {}

    def block(name, outputs, inputs, kernel=1, prelu=True):
        shapes[f"{name}.layers.0.weight"] = (outputs, inputs, kernel, kernel)
        shapes.update(norm(f"{name}.layers.1", outputs))
        if prelu:
            shapes[f"{name}.layers.2.weight"] = (outputs,)

    def unit(name, outputs, inputs, hidden):
        block(f"{name}.layers.0", hidden, inputs)
        block(f"{name}.layers.1", hidden, 1, 3)
        block(f"{name}.layers.2", outputs, hidden, prelu=False)

    def residual(name, depth, channels, hidden):
        for i in range(depth):
            unit(f"{name}.layers.{i}", channels, channels, hidden)

    narrow, wide = 64 * scale, 128 * scale
    block("layers.0", narrow, 3, 3)
    if depths[0] == 1:
        block("layers.1", narrow, narrow // 64, 3)
    else:
        residual("layers.1", depths[0], narrow, 128)
    unit("layers.2", narrow, narrow, 128)
    residual("layers.3", depths[1], narrow, 128)
    unit("layers.4", wide, narrow, 256)
    residual("layers.5", depths[2], wide, 256)
    unit("layers.6", wide, wide, 512)
    residual("layers.7", depths[3], wide, 256)
    block("conv_sep", 512, wide)
    block("features.layers.0", 512, 1, 7, prelu=False)
    return shapes | {"features.layers.2.weight": (512, 512)} | norm("features.layers.3", 512)


def clip(width, depth, patch, image, projection):
    positions = (image // patch) ** 2 + 1
    shapes = {"visual.class_embedding": (width,), "visual.positional_embedding": (positions, width)}
    shapes |= {"visual.proj": (width, projection), "visual.conv1.weight": (width, 3, patch, patch)}
    norms = ["visual.ln_pre", "visual.ln_post"]
    for i in range(depth):
        name = f"visual.transformer.resblocks.{i}"
        norms += [f"{name}.ln_1", f"{name}.ln_2"]
        shapes |= {f"{name}.attn.in_proj_weight": (3 * width, width), f"{name}.attn.in_proj_bias": (3 * width,)}
        shapes |= linear(f"{name}.attn.out_proj", width, width)
        shapes |= linear(f"{name}.mlp.c_fc", 4 * width, width) | linear(f"{name}.mlp.c_proj", width, 4 * width)
    for name in norms:
        shapes |= {f"{name}.weight": (width,), f"{name}.bias": (width,)}
    return shapes | {"text_projection": (projection, projection), "logit_scale": ()}


def dinov2(width, depth, gated=False):
    shapes = {"embeddings.cls_token": (1, 1, width), "embeddings.mask_token": (1, width)}
    shapes |= {"embeddings.position_embeddings": (1, 37 * 37 + 1, width)}
    shapes |= {"embeddings.patch_embeddings.projection.weight": (width, 3, 14, 14)}
    shapes |= {"embeddings.patch_embeddings.projection.bias": (width,)}
    norms = ["layernorm"]
    for i in range(depth):
        name = f"encoder.layer.{i}"
        norms += [f"{name}.norm1", f"{name}.norm2"]
        for part in ("attention.query", "attention.key", "attention.value", "output.dense"):
            shapes |= linear(f"{name}.attention.{part}", width, width)
        if gated:
            hidden = (width * 4 * 2 // 3 + 7) // 8 * 8
            shapes |= linear(f"{name}.mlp.weights_in", 2 * hidden, width)
            shapes |= linear(f"{name}.mlp.weights_out", width, hidden)
        else:
            shapes |= linear(f"{name}.mlp.fc1", 4 * width, width) | linear(f"{name}.mlp.fc2", width, 4 * width)
        shapes |= {f"{name}.layer_scale1.lambda1": (width,), f"{name}.layer_scale2.lambda1": (width,)}
    for name in norms:
        shapes |= {f"{name}.weight": (width,), f"{name}.bias": (width,)}
    return shapes


def iresnet_says(depths, **others):
    return {"depths": list(depths), "hidden_sizes": list(WIDTHS), "neck": "flatten", "image_size": 112, **others}


ADAFACE = {"shortcut": "subsample", "embedding_norm": "plain", "batch_norm_eps": 1e-5}
DEEP_ADAFACE = {"152": (3, 8, 36, 3), "200": (3, 24, 36, 3)}
# Case: (source, what comes before the names, shapes by name, what the caller says, what the config must say).
PUBLISHED = {}
for size in ("18", "34", "50", "100", "200", "2060"):
    shapes = insightface_iresnet(IRESNET[size])
    PUBLISHED[f"arcface_r{size}"] = ("arcface_torch", "", shapes, {}, iresnet_says(IRESNET[size], batch_norm_eps=1e-5))
for size in ("18", "34", "50", "100"):
    shapes, depths = insightface_iresnet(IRESNET[size]), IRESNET[size]
    says = iresnet_says(depths, batch_norm_eps=2e-5, embedding_norm="affine")
    PUBLISHED[f"magface_{size}"] = ("magface", "features.module.", shapes, {}, says)
    PUBLISHED[f"face_embeddings_{size}"] = ("face_embeddings", "backbone.", shapes, {}, says)
    for neck, kernel in (("gwp", 7), ("gap", 7), ("gwp", 3)):
        shapes = insightface_iresnet(depths, kernel, positions=1)
        says = iresnet_says(depths, neck=neck, stem_kernel_size=kernel)
        PUBLISHED[f"{neck}_{kernel}_{size}"] = ("revisit_linearize", "", shapes, {"neck": neck}, says)
for size in ("18", "34", "50", "100"):
    shapes, says = adaface_iresnet(IRESNET[size]), iresnet_says(IRESNET[size], **ADAFACE, layer_type="basic")
    PUBLISHED[f"adaface_ir_{size}"] = ("adaface", "model.", shapes, {}, says)
    PUBLISHED[f"cvlface_ir_{size}"] = ("cvlface", "net.", shapes, {}, says)
    shapes, says = adaface_iresnet(IRESNET[size], se=True), {**says, "squeeze_excitation": True}
    PUBLISHED[f"adaface_ir_se_{size}"] = ("adaface", "model.", shapes, {}, says)
for size, depths in DEEP_ADAFACE.items():
    for se in (False, True):
        shapes = adaface_iresnet(depths, BOTTLENECK, se)
        says = iresnet_says(depths, hidden_sizes=list(BOTTLENECK), layer_type="bottleneck", squeeze_excitation=se)
        PUBLISHED[f"adaface_ir_{'se_' if se else ''}{size}"] = ("adaface", "model.", shapes, {}, {**says, **ADAFACE})
PUBLISHED["adaface_ir_50_224"] = (
    "adaface", "model.", adaface_iresnet(IRESNET["50"], positions=196), {}, {"image_size": 224, **ADAFACE}
)  # fmt: skip
for name, width, depth in (("t", 256, 12), ("s", 512, 12), ("b", 512, 24), ("l", 768, 24), ("h", 1024, 48)):
    says = {"hidden_size": width, "num_hidden_layers": depth, "num_attention_heads": 8, "intermediate_size": 4 * width}
    PUBLISHED[f"arcface_vit_{name}"] = ("arcface_torch", "", insightface_vit(width, depth), {}, says)
    shapes, says = insightface_vit(width, depth, patch_weighting=True), {**says, "patch_weighting": True}
    PUBLISHED[f"transface_vit_{name}"] = ("transface", "", shapes, {}, says)
for name, mlp_ratio, heads, depth in (("small", 5, 8, 12), ("base", 3, 16, 24)):
    shapes, says = insightface_vit(512, depth, mlp_ratio), {"num_attention_heads": heads, "num_hidden_layers": depth}
    PUBLISHED[f"cvlface_vit_{name}"] = ("cvlface", "net.", shapes, {}, says)
for name, depths, scale in (("mbf", (1, 4, 6, 2), 2), ("mbf_large", (2, 8, 12, 4), 4), ("paper", (1, 4, 6, 2), 1)):
    says = {"depths": list(depths), "width": scale, "embedding_size": 512, "image_size": 112}
    PUBLISHED[f"arcface_{name}"] = ("arcface_torch", "", insightface_mobilefacenet(depths, scale), {}, says)
for name, width, depth, patch, image, projection in (
    ("b32", 768, 12, 32, 224, 512),
    ("b16", 768, 12, 16, 224, 512),
    ("l14", 1024, 24, 14, 224, 768),
    ("l14_336", 1024, 24, 14, 336, 768),
):
    says = {"hidden_size": width, "num_hidden_layers": depth, "num_attention_heads": width // 64, "patch_size": patch}
    says |= {"image_size": image, "projection_dim": projection, "intermediate_size": 4 * width}
    shapes = clip(width, depth, patch, image, projection)
    PUBLISHED[f"clip_{name}"] = ("froundation", "", shapes, {}, {"backbone_config": says, "image_size": image})
for name, width, depth in (("small", 384, 12), ("base", 768, 12), ("large", 1024, 24), ("giant", 1536, 40)):
    says = {"hidden_size": width, "num_hidden_layers": depth, "num_attention_heads": width // 64, "image_size": 518}
    says |= {"use_swiglu_ffn": name == "giant", "patch_size": 14}
    shapes = dinov2(width, depth, gated=name == "giant")
    PUBLISHED[f"dinov2_{name}"] = ("froundation", "", shapes, {}, {"backbone_config": says, "image_size": 224})


@pytest.mark.parametrize("case", PUBLISHED)
def test_is_recognized_and_read(case):
    source, prefix, shapes, told, expected = PUBLISHED[case]
    tensors = {prefix + name: torch.empty(shape, device="meta") for name, shape in shapes.items()}
    assert [name for name in SOURCES if get_source(name).recognizes(Checkpoint(tensors))] == [source]
    if source == "froundation":  # which loads what `convert` has split and merged
        tower = {name: tensor for name, tensor in tensors.items() if not name.startswith(get_source(source).text_tower)}
        tensors = plain_layout(tower)
    config, weights, _ = get_source(source).read(Checkpoint(tensors), **told)
    found = config.to_dict()
    inner = expected.get("backbone_config", {})
    assert {name: found["backbone_config"][name] for name in inner} == inner
    outer = {name: value for name, value in expected.items() if name != "backbone_config"}
    assert {name: found[name] for name in outer} == outer
    assert len(weights) == len(tensors)
