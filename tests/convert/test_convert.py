"""Recognition, the way there and back, and folders, on tiny checkpoints."""

import json
import re
import textwrap

import pytest
import torch
import yaml
from peft import LoraConfig, get_peft_model
from PIL import Image
from safetensors.torch import save_file
from tiny_checkpoints import FORMATS, tiny, tiny_checkpoint
from torch import nn
from transformers import pipeline

from hf_face import (
    convert_checkpoint,
    export_checkpoint,
)
from hf_face.convert import SOURCES, CheckpointSource, convert_to_folder
from hf_face.convert.arcface_torch import ArcFaceTorch
from hf_face.convert.checkpoint import read_checkpoint
from hf_face.convert.convert import recognize


@pytest.mark.parametrize("network, source", FORMATS)
@torch.no_grad()
def test_every_format_comes_back(network, source):
    model = tiny(network)
    checkpoint = export_checkpoint(model, source)
    told = {"neck": "gwp"} if network == "pooled" else {}
    if network != "pooled":  # a pooled network does not tell its image size, and needs none
        told |= {"image_size": model.config.image_size}
    back, _ = convert_checkpoint(checkpoint, **told)
    faces = torch.randn(2, 3, model.config.image_size, model.config.image_size)
    assert recognize(read_checkpoint(checkpoint), told).name == source
    assert torch.equal(back(faces).pooler_output, model(faces).pooler_output)


@pytest.mark.parametrize(
    "network, source, epsilon, channel_order, mean, std",
    [
        ("flatten", "arcface_torch", 1e-5, "rgb", 0.5, 0.5),
        ("mobilefacenet", "arcface_torch", 1e-5, "rgb", 0.5, 0.5),
        ("vit", "arcface_torch", 2e-5, "rgb", 0.5, 0.5),
        ("transface", "transface", 2e-5, "rgb", 0.5, 0.5),
        ("adaface", "adaface", 1e-5, "bgr", 0.5, 0.5),
        ("magface", "magface", 2e-5, "bgr", 0.0, 1.0),
        ("magface", "face_embeddings", 2e-5, "rgb", 0.5, 0.5),
        ("pooled", "revisit_linearize", 1e-5, "rgb", 0.5, 0.5),
        ("pooled_adaface", "revisit_linearize", 1e-5, "bgr", 0.5, 0.5),
        ("adaface", "cvlface", 1e-5, "rgb", 0.5, 0.5),
        ("foamliu", "mobilefacenet", 1e-5, "rgb", 0.485, 0.229),
    ],
)
def test_what_the_projects_code_says_and_shapes_do_not(network, source, epsilon, channel_order, mean, std):
    told = {"neck": "gwp"} if source == "revisit_linearize" else {}
    model, image_processor = convert_checkpoint(tiny_checkpoint(network, source), source, **told)
    norms = [module for module in model.modules() if isinstance(module, nn.BatchNorm1d | nn.BatchNorm2d)]
    assert {norm.eps for norm in norms} == {epsilon}
    assert image_processor.channel_order == channel_order
    assert (image_processor.image_mean[0], image_processor.image_std[0]) == (mean, std)


def test_changing_the_model_leaves_the_checkpoint_alone():
    checkpoint = tiny_checkpoint()
    before = checkpoint["fc.weight"].clone()
    model, _ = convert_checkpoint(checkpoint)
    with torch.no_grad():
        model.neck.projection.linear.weight.zero_()
    assert torch.equal(checkpoint["fc.weight"], before)


def test_overrides_go_to_the_config_and_to_the_image_processor():
    model, image_processor = convert_checkpoint(tiny_checkpoint(), dropout=0.4, channel_order="bgr")
    assert model.config.dropout == 0.4
    assert image_processor.channel_order == "bgr"
    assert dict(image_processor.size) == {"height": 32, "width": 32}


def test_magfaces_file_as_face_embeddings_runs_it():
    checkpoint = {**tiny_checkpoint("magface", "magface"), "parallel_fc.weight": torch.randn(7, 24)}
    model, image_processor = convert_checkpoint(checkpoint, "face_embeddings")
    assert (model.config.batch_norm_eps, image_processor.channel_order) == (2e-5, "rgb")


def test_names_that_are_another_projects_too_are_warned_of(caplog):
    convert_checkpoint(tiny_checkpoint("flatten"))
    assert not caplog.records
    bare = {name.removeprefix("features.module."): t for name, t in tiny_checkpoint("magface", "magface").items()}
    bare["features.weight"] = torch.full((24,), 0.9)  # learned, as InsightFace's never is
    convert_checkpoint(bare, "magface")
    assert not caplog.records
    assert convert_checkpoint(bare)[0].config.batch_norm_eps == 1e-5
    assert "is converted as arcface_torch" in caplog.text and "magface and face_embeddings" in caplog.text


@pytest.mark.parametrize("file, content", [("config.json", {"conf": {"color_space": "BGR"}}), ("model.yaml", None)])
def test_cvlfaces_settings_say_the_channel_order(tmp_path, file, content):
    save_file(tiny_checkpoint("adaface", "cvlface"), tmp_path / "model.safetensors")
    assert convert_checkpoint(tmp_path)[1].channel_order == "rgb"
    text = json.dumps(content) if content else yaml.safe_dump({"color_space": "BGR"})
    (tmp_path / file).write_text(text)
    assert convert_checkpoint(tmp_path)[1].channel_order == "bgr"
    assert convert_checkpoint(tmp_path, channel_order="rgb")[1].channel_order == "rgb"


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_precision_is_the_checkpoints(dtype):
    checkpoint = {name: t.to(dtype) if t.is_floating_point() else t for name, t in tiny_checkpoint().items()}
    model, _ = convert_checkpoint(checkpoint)
    assert model.dtype == dtype
    back = export_checkpoint(model, "arcface_torch")
    assert all(back[name].dtype == t.dtype and torch.equal(back[name], t) for name, t in checkpoint.items())


def test_mixed_precision_becomes_the_one_that_holds_all():
    checkpoint = {name: t.half() if t.dim() > 1 else t for name, t in tiny_checkpoint().items()}
    model, _ = convert_checkpoint(checkpoint)
    assert model.dtype == torch.float32
    back = export_checkpoint(model, "arcface_torch")
    assert all(torch.equal(back[name], t.to(back[name].dtype)) for name, t in checkpoint.items())


@pytest.mark.parametrize(
    "network, target, reason",
    [
        ("adaface", "arcface_torch", "no names for"),
        ("flatten", "adaface", "no names for"),
        ("transface", "arcface_torch", "no names for"),
        ("mobilefacenet", "mobilefacenet", "no names for"),
        ("vit", "magface", "no names for"),
        ("flatten", "revisit_linearize", "no names for"),
        ("pooled", "arcface_torch", "no names for"),
        ("magface", "arcface_torch", r"cannot express batch_norm_eps=2e-05 \(it would build 1e-05\)"),
        ("flatten", "magface", "cannot express batch_norm_eps=1e-05"),
        ("cvlface_base", "arcface_torch", r"cannot express num_attention_heads=16 \(it would build 8\)"),
        ("fused", "arcface_torch", r"cannot express fused=True \(it would build False\)"),
    ],
)
def test_a_format_that_would_build_another_network_is_refused(network, target, reason):
    with pytest.raises(ValueError, match=reason):
        export_checkpoint(tiny(network), target)


def test_a_model_that_is_not_what_its_config_says_is_not_exported():
    adapted = get_peft_model(tiny(), LoraConfig(r=2, target_modules=["linear"]))
    with pytest.raises(ValueError, match=r"no longer matches its configuration.*merge_and_unload"):
        export_checkpoint(adapted, "arcface_torch")
    assert export_checkpoint(adapted.merge_and_unload(), "arcface_torch").keys() == tiny_checkpoint().keys()


def test_written_files_are_nested_as_the_project_nests_them(tmp_path):
    export_checkpoint(tiny("adaface"), "adaface", tmp_path / "adaface.ckpt")
    written = torch.load(tmp_path / "adaface.ckpt", weights_only=True)
    assert "model.input_layer.0.weight" in written["state_dict"]
    export_checkpoint(tiny("flatten"), "arcface_torch", tmp_path / "backbone.pth")
    assert "conv1.weight" in torch.load(tmp_path / "backbone.pth", weights_only=True)
    model, _ = convert_checkpoint(tmp_path / "adaface.ckpt")
    assert model.config.squeeze_excitation
    export_checkpoint(model, "adaface", tmp_path / "adaface.safetensors")
    again, _ = convert_checkpoint(tmp_path / "adaface.safetensors")
    assert all(torch.equal(again.state_dict()[name], tensor) for name, tensor in model.state_dict().items())


@pytest.fixture
def own_sources(monkeypatch):
    """What a test registers is forgotten after it."""
    monkeypatch.setattr(SOURCES, "_entries", dict(SOURCES))


def test_the_example_is_a_source(own_sources):
    """The one in the docstring, in a module of the user's: recognized, named, and exported to."""
    (example,) = re.findall(r"```python\n(.*?)```", CheckpointSource.__doc__, flags=re.DOTALL)
    exec(textwrap.dedent(example), {"__name__": "our_sources"})
    centers = torch.randn(7, 24)
    weights = {f"encoder.{name}": tensor for name, tensor in tiny_checkpoint().items()}
    file = {"weights": {**weights, "centers": centers}, "epoch": 3}
    assert recognize(read_checkpoint(file), {}).name == "our_lab"
    for source in ("auto", "our_lab"):
        model, image_processor = convert_checkpoint(file, source, keep_class_centers=True)
        assert torch.equal(model.class_centers, centers) and image_processor.channel_order == "bgr"
    exported = export_checkpoint(model, "our_lab")
    assert exported.keys() == weights.keys()
    assert all(torch.equal(exported[name], tensor) for name, tensor in weights.items())
    with pytest.raises(ValueError, match=r"not a checkpoint of our_lab: expected encoder\.prelu\.weight, found"):
        convert_checkpoint(tiny_checkpoint(), "our_lab")
    with pytest.raises(ValueError, match=r"does not match any known project.*our_lab"):
        convert_checkpoint({"encoder.weight": torch.zeros(2, 2)})


def test_a_source_that_takes_what_is_anothers_is_named_beside_it(own_sources):
    SOURCES.register("greedy")(type("Greedy", (ArcFaceTorch,), {}))
    with pytest.raises(ValueError, match=r"matches several projects.*`source=`: arcface_torch, greedy"):
        convert_checkpoint(tiny_checkpoint())


def test_every_source_can_be_named():
    built_in = {name for name, entry in SOURCES.items() if entry.target.__module__.startswith("hf_face.")}
    assert built_in == {
        "adaface", "arcface_torch", "cvlface", "cvlface_aligner", "edgeface", "face_embeddings", "facenet_pytorch",
        "froundation", "ghostfacenets", "lvface", "magface", "mobilefacenet", "onnx", "revisit_linearize", "sface",
        "timm", "timm_face", "transface",
    }  # fmt: skip


def test_a_folder_is_ready_for_a_pipeline(tmp_path):
    convert_to_folder(tiny_checkpoint(), tmp_path)
    assert not (tmp_path / "head.index.json").exists()
    embed = pipeline("image-feature-extraction", model=str(tmp_path))
    embedding = torch.tensor(embed(Image.new("RGB", (32, 32), "red")))
    assert embedding.shape == (1, 24)
    torch.testing.assert_close(embedding.norm(), torch.tensor(1.0))


def test_what_is_no_model_folder_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match="nowhere: no such file or folder"):
        export_checkpoint(tmp_path / "nowhere", "adaface")
    with pytest.raises(FileNotFoundError, match=r"is not a model folder: it has no config\.json"):
        export_checkpoint(tmp_path, "adaface")
    with pytest.raises(FileNotFoundError, match=r"nowhere\.pth: no such file or folder"):
        convert_to_folder(tmp_path / "nowhere.pth", tmp_path / "out")
    assert not (tmp_path / "out").exists()
