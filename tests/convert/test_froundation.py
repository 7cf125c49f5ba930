"""FRoundation's CLIP and DINOv2 checkpoints against the reference's own numbers."""

import math
import re
import runpy
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn
from transformers import AutoModel, Dinov2Config, Dinov2Model, pipeline

from hf_face import FoundationFaceConfig, FoundationFaceModel, convert_checkpoint, export_checkpoint

SCRIPT = Path(__file__).parents[2] / "scripts" / "convert_checkpoint.py"
# What a file of the reference does not say. Heads are of 64 channels unless told otherwise.
TOLD = {
    "froundation_clip_tiny": {"lora_alpha": 8},
    "froundation_dinov2_tiny": {"lora_alpha": 8, "num_attention_heads": 2},
}


@pytest.fixture(params=TOLD)
def name(request):
    return request.param


@pytest.fixture
def case(name, load_reference):
    return load_reference(name)


@pytest.fixture
def told(name):
    return dict(TOLD[name])


@torch.no_grad()
def embed(model, pixel_values):
    output = model(pixel_values)
    return output.pooler_output * output.norm


def largest_difference(model, case):
    expected = torch.from_numpy(case.arrays["output"])
    return ((embed(model, case.batch) - expected).abs().max() / expected.abs().max()).item()


@pytest.mark.parametrize("merge_lora", [True, False])
def test_gives_the_reference_output(name, case, told, merge_lora):
    model, _ = convert_checkpoint(case.state_dict, "auto", merge_lora=merge_lora, **told)
    difference = largest_difference(model, case)
    print(f"{'froundation':18} {name:26} largest relative difference {difference:.1e} (merge_lora={merge_lora})")
    assert difference <= 1e-4


def test_adapter_travels_alone(case, told, tmp_path):
    tuned, _ = convert_checkpoint(case.state_dict, "froundation", merge_lora=False, **told)
    tuned.save_pretrained(tmp_path)
    assert not (tmp_path / "model.safetensors").exists()
    base, _ = convert_checkpoint(case.state_dict, "froundation", **{**told, "lora_alpha": 0})
    assert largest_difference(base, case) > 1e-2
    base.load_adapter(str(tmp_path))
    assert largest_difference(base, case) <= 1e-4


def test_base_and_adapter_share_a_folder(case, told, tmp_path, monkeypatch):
    torch.save(case.state_dict, tmp_path / "30_backbone.pth")
    options = {"merge_lora": "false", **told}
    settings = [f"--set={key}={value}" for key, value in options.items()]
    paths = [str(tmp_path / "30_backbone.pth"), str(tmp_path / "out")]
    monkeypatch.setattr(sys, "argv", [str(SCRIPT), *settings, *paths])
    runpy.run_path(str(SCRIPT), run_name="__main__")
    model = AutoModel.from_pretrained(tmp_path / "out")
    assert any("lora_A" in key for key in model.state_dict())
    assert largest_difference(model, case) <= 1e-4
    pipe = pipeline("image-feature-extraction", model=str(tmp_path / "out"))
    crop = Image.fromarray(np.random.default_rng(0).integers(0, 256, (40, 40, 3), dtype=np.uint8))
    pixel_values = pipe.image_processor(crop, return_tensors="pt").pixel_values
    with torch.no_grad():
        torch.testing.assert_close(torch.tensor(pipe(crop)), model(pixel_values).pooler_output)


def test_scale_of_plain_lora_is_alpha_over_rank(case, told):
    told |= {"lora_alpha": 16, "use_rslora": False}  # 16 / 4 = 8 / sqrt(4)
    for merge_lora in (True, False):
        model, _ = convert_checkpoint(case.state_dict, "froundation", merge_lora=merge_lora, **told)
        assert largest_difference(model, case) <= 1e-4


def test_asks_for_alpha(case, told):
    del told["lora_alpha"]
    with pytest.raises(ValueError, match="Pass `lora_alpha=`"):
        convert_checkpoint(case.state_dict, "froundation", **told)


def test_export_is_the_inverse(case, told):
    adapted, _ = convert_checkpoint(case.state_dict, "froundation", merge_lora=False, **told)
    exported = export_checkpoint(adapted, "froundation")
    text_tower = (
        "transformer.",
        "token_embedding",
        "positional_embedding",
        "ln_final",
        "text_projection",
        "logit_scale",
    )
    expected = {name: t for name, t in case.state_dict.items() if not name.startswith(text_tower)}
    assert exported.keys() == expected.keys()
    assert all(torch.equal(exported[name], tensor) for name, tensor in expected.items())


def test_plain_models_are_exported_as_their_projects_name_them(case, told):
    merged, _ = convert_checkpoint(case.state_dict, "froundation", **told)
    exported = export_checkpoint(merged, "froundation")
    assert not any("lora" in name or "q_proj" in name for name in exported)
    del told["lora_alpha"]
    again, _ = convert_checkpoint(exported, "auto", **told)
    assert all(torch.equal(again.state_dict()[name], tensor) for name, tensor in merged.state_dict().items())


def test_openai_layout_of_clip(load_reference):
    """Without LoRA, CLIP keeps query, key and value in one matrix and calls the output projection out_proj."""
    case = load_reference("froundation_clip_tiny")
    tensors = case.state_dict
    openai = {
        name: tensor for name, tensor in tensors.items() if ".attn." not in name or name.startswith("transformer")
    }
    for block in ("visual.transformer.resblocks.0.attn", "visual.transformer.resblocks.1.attn"):
        for kind in ("weight", "bias"):
            openai[f"{block}.in_proj_{kind}"] = torch.cat([tensors[f"{block}.{part}_proj.{kind}"] for part in "qkv"])
            openai[f"{block}.out_proj.{kind}"] = tensors[f"{block}.proj.{kind}"]
    model, _ = convert_checkpoint(openai, "auto")
    split, _ = convert_checkpoint(tensors, "froundation", lora_alpha=0)
    torch.testing.assert_close(embed(model, case.batch), embed(split, case.batch))


def test_dinov2_giant_has_a_gated_mlp(tmp_path):
    """Old names of DINOv2 with SwiGLU, which transformers itself translates when it loads them."""
    backbone = Dinov2Config(
        hidden_size=128, num_hidden_layers=2, num_attention_heads=2, image_size=28, use_swiglu_ffn=True
    )
    model = FoundationFaceModel(FoundationFaceConfig(backbone_config=backbone)).eval()
    old = export_checkpoint(model, "froundation")
    assert old["encoder.layer.0.mlp.weights_in.weight"].shape == (
        688,
        128,
    )  # 2 * 344: 2/3 of 512, up to a multiple of 8
    converted, _ = convert_checkpoint(old, "auto")
    theirs = Dinov2Model.from_pretrained(None, config=backbone, state_dict=old).eval()
    pixel_values = torch.randn(2, 3, 28, 28)
    with torch.no_grad():
        torch.testing.assert_close(embed(converted, pixel_values), theirs(pixel_values).pooler_output)


TINY_CLIP = {"hidden_size": 64, "num_hidden_layers": 1, "num_attention_heads": 1, "intermediate_size": 64}


def tiny_dinov2(**changes):
    backbone = {"model_type": "dinov2", "hidden_size": 64, "num_hidden_layers": 1, "num_attention_heads": 1, **changes}
    return export_checkpoint(FoundationFaceModel(FoundationFaceConfig(backbone_config=backbone)), "froundation")


def test_reads_architecture_and_preprocessing_off_the_file(load_reference):
    case = load_reference("froundation_clip_tiny")
    clip, processor = convert_checkpoint(case.state_dict, "froundation", lora_alpha=8)
    assert clip.config.backbone_config.num_attention_heads == 1  # 64 channels
    assert clip.config.backbone_config.hidden_act == "quick_gelu"
    assert (clip.config.pooling, clip.config.embedding_size, clip.config.image_size) == ("image_embeds", 32, 32)
    assert tuple(processor.image_mean) == (0.48145466, 0.4578275, 0.40821073)
    assert tuple(processor.image_std) == (0.26862954, 0.26130258, 0.27577711)

    dinov2, processor = convert_checkpoint(tiny_dinov2(image_size=518), "froundation")
    assert dinov2.config.backbone_config.image_size == 518
    assert dinov2.config.image_size == processor.size["height"] == 224  # what FRoundation feeds it
    assert tuple(processor.image_mean) == (0.485, 0.456, 0.406)
    assert dinov2(torch.zeros(1, 3, 224, 224)).pooler_output.shape == (1, 64)


@pytest.mark.parametrize(
    ("network", "name"),
    [
        ("froundation_clip_tiny", "visual.proj"),
        ("froundation_clip_tiny", "visual.conv1.weight"),
        ("froundation_clip_tiny", "visual.positional_embedding"),
        ("froundation_clip_tiny", "visual.transformer.resblocks.0.mlp.c_fc.weight"),
        ("froundation_clip_tiny", "visual.transformer.resblocks.0.attn.q_proj.w_lora_B"),
        ("froundation_clip_tiny", "visual.transformer.resblocks.1.attn.v_proj.weight"),
        ("froundation_clip_tiny", "visual.ln_post.bias"),
        ("froundation_dinov2_tiny", "embeddings.position_embeddings"),
        ("froundation_dinov2_tiny", "embeddings.patch_embeddings.projection.weight"),
        ("froundation_dinov2_tiny", "encoder.layer.0.mlp.fc1.weight"),
        ("froundation_dinov2_tiny", "encoder.layer.1.attention.attention.value.lora_A.default.weight"),
    ],
)
def test_what_is_missing_is_named(network, name, load_reference):
    tensors = dict(load_reference(network).state_dict)
    del tensors[name]
    layer = name.split(".w_lora")[0].split(".lora")[0].removesuffix(".weight")
    with pytest.raises(ValueError, match=rf"missing.*{re.escape(layer)}|{re.escape(name)}, which is missing"):
        convert_checkpoint(tensors, "froundation", **TOLD[network])


def test_factors_that_do_not_fit_are_named(load_reference):
    name = "visual.transformer.resblocks.0.attn.q_proj.w_lora_A"
    tensors = {**load_reference("froundation_clip_tiny").state_dict, name: torch.zeros(4, 63)}
    with pytest.raises(ValueError, match=r"misshaped for visual\.transformer\.resblocks\.0\.attn\.q_proj"):
        convert_checkpoint(tensors, lora_alpha=8)


def test_prefixes_of_a_wrapped_adapter_are_recognized(load_reference):
    case = load_reference("froundation_dinov2_tiny")
    wrapped = {f"base_model.model.{name}": tensor for name, tensor in case.state_dict.items()}
    model, _ = convert_checkpoint(wrapped, "auto", **TOLD["froundation_dinov2_tiny"])
    assert largest_difference(model, case) <= 1e-4


def test_epsilons_and_activations(load_reference):
    """Small enough to hide below the tolerance of the reference's output."""
    expected = {
        "froundation_clip_tiny": (1e-5, 1 / (1 + math.exp(-1.702))),
        "froundation_dinov2_tiny": (1e-6, 0.8413447),
    }
    for network, (epsilon, activated) in expected.items():
        model, _ = convert_checkpoint(load_reference(network).state_dict, **TOLD[network])
        assert {module.eps for module in model.modules() if isinstance(module, nn.LayerNorm)} == {epsilon}
        activations = [
            module.activation_fn if hasattr(module, "activation_fn") else module.activation
            for name, module in model.named_modules()
            if name.endswith("mlp")
        ]
        assert [activation(torch.ones(1)).item() for activation in activations] == pytest.approx([activated] * 2)


def test_what_does_not_fit_is_named():
    tensors = tiny_dinov2(image_size=28)
    with pytest.raises(ValueError, match=r"leftover: encoder\.layer\.0\.extra"):
        convert_checkpoint({**tensors, "encoder.layer.0.extra": torch.zeros(1)}, "froundation")
    with pytest.raises(ValueError, match=r"missing: layernorm\.bias"):
        convert_checkpoint({k: v for k, v in tensors.items() if k != "layernorm.bias"}, "froundation")
    with pytest.raises(ValueError, match="lora_alfa"):
        convert_checkpoint(tensors, "froundation", lora_alfa=8)
    with pytest.raises(ValueError, match="not a checkpoint of froundation"):
        convert_checkpoint({"conv1.weight": torch.zeros(1)}, "froundation")
    with pytest.raises(ValueError, match="Pass `num_attention_heads=`"):
        convert_checkpoint(tiny_dinov2(hidden_size=32, image_size=28), "froundation")


def test_what_the_format_cannot_hold_is_not_exported():
    backbone = {"model_type": "dinov2", "hidden_size": 64, "num_hidden_layers": 1, "num_attention_heads": 1}
    projected = FoundationFaceModel(FoundationFaceConfig(backbone_config=backbone, embedding_size=16))
    with pytest.raises(ValueError, match="cannot express"):
        export_checkpoint(projected, "froundation")
    vit = {**backbone, "model_type": "vit", "intermediate_size": 64}
    pooled = {"model_type": "clip_vision_model", **TINY_CLIP}
    with pytest.raises(ValueError, match="cannot express pooling='pooler'"):
        export_checkpoint(
            FoundationFaceModel(FoundationFaceConfig(backbone_config=pooled, pooling="pooler")), "froundation"
        )
    with pytest.raises(ValueError, match="not vit"):
        export_checkpoint(FoundationFaceModel(FoundationFaceConfig(backbone_config=vit)), "froundation")
