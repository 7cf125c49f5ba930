"""Recognition, questions, errors, class centers and export, on tiny checkpoints."""

import json
import re
import textwrap

import pytest
import torch
import yaml
from peft import LoraConfig, get_peft_model
from PIL import Image
from safetensors.torch import load_file, save_file
from torch import nn
from transformers import pipeline

from hf_face import (
    InceptionResNetConfig,
    InceptionResNetModel,
    IResNetConfig,
    IResNetModel,
    MobileFaceNetConfig,
    MobileFaceNetModel,
    ViTFaceConfig,
    ViTFaceModel,
    convert_checkpoint,
    export_checkpoint,
)
from hf_face.convert import SOURCES, CheckpointSource, convert_to_folder
from hf_face.convert.arcface_torch import ArcFaceTorch
from hf_face.convert.checkpoint import Checkpoint, read_checkpoint
from hf_face.convert.convert import recognize
from hf_face.heads import MarginHead, load_head

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


def test_missing_leftover_and_misshapen_tensors_are_listed_by_the_checkpoints_names():
    checkpoint = tiny_checkpoint("magface", "magface")
    del checkpoint["features.module.bn2.bias"]
    checkpoint["features.module.layer1.0.extra"] = torch.zeros(1)
    checkpoint["features.module.prelu.weight"] = torch.zeros(5)
    with pytest.raises(ValueError, match="does not fit") as error:
        convert_checkpoint(checkpoint)
    assert "missing: features.module.bn2.bias" in str(error.value)
    assert "leftover: features.module.layer1.0.extra" in str(error.value)
    assert "misshaped: features.module.prelu.weight (5,) instead of (8,)" in str(error.value)


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"neck.extra.bias": torch.zeros(1)}, "the state dict does not fit .* leftover: neck.extra.bias."),
        ({"neck.norm.bias": None}, "the state dict does not fit .* missing: neck.norm.bias."),
        ({"neck.norm.num_batches_tracked": None}, None),
    ],
)
def test_no_source_reads_more_or_less_than_the_model_has(changed, message):
    class Careless(ArcFaceTorch):
        def read(self, checkpoint, **overrides):
            config, weights, centers = super().read(checkpoint, **overrides)
            weights = {name: tensor for name, tensor in (weights | changed).items() if tensor is not None}
            return config, weights, centers

    checkpoint = Checkpoint(tiny_checkpoint())
    if message is None:
        assert Careless().convert(checkpoint)[0].neck.norm.num_batches_tracked == 0
    else:
        with pytest.raises(ValueError, match=message):
            Careless().convert(checkpoint)


def test_what_the_architecture_is_read_off_is_named_when_missing():
    checkpoint = tiny_checkpoint()
    del checkpoint["layer2.0.conv2.weight"]
    with pytest.raises(ValueError, match=r"read from layer2\.0\.conv2\.weight, which is missing"):
        convert_checkpoint(checkpoint, "arcface_torch")


@pytest.mark.parametrize(
    "network, source, name, kept",
    [
        ("flatten", "arcface_torch", "layer1.0.conv2.weight", "layer"),
        ("adaface", "adaface", "model.body.0.res_layer.4.weight", "model.body"),
        ("vit", "arcface_torch", "blocks.0.mlp.fc1.weight", "blocks"),
    ],
)
def test_a_checkpoint_without_layers_is_told_so(network, source, name, kept):
    checkpoint = {key: t for key, t in tiny_checkpoint(network, source).items() if not key.startswith(kept)}
    with pytest.raises(ValueError, match=f"read from {name.removeprefix('model.')}, which is missing"):
        convert_checkpoint(checkpoint)


def test_a_shape_that_tells_nothing_is_named():
    with pytest.raises(ValueError, match=r"read from conv1\.weight; expected 4 dimensions, found shape \(8, 3\)"):
        convert_checkpoint({**tiny_checkpoint(), "conv1.weight": torch.zeros(8, 3)})


def test_counters_may_be_missing():
    checkpoint = {name: t for name, t in tiny_checkpoint().items() if not name.endswith("num_batches_tracked")}
    model, _ = convert_checkpoint(checkpoint)
    assert model.stem.norm.num_batches_tracked == 0


def test_pooling_is_asked_for():
    checkpoint = tiny_checkpoint("pooled", "revisit_linearize")
    with pytest.raises(ValueError, match=r"cannot infer the neck .*\. Pass neck='gwp' or neck='gap'; it was not given"):
        convert_checkpoint(checkpoint)
    with pytest.raises(ValueError, match="found neck='flatten'"):
        convert_checkpoint(checkpoint, neck="flatten")
    with pytest.raises(ValueError, match="Pass neck='gwp'"):
        convert_checkpoint(checkpoint, source="arcface_torch")
    assert convert_checkpoint(checkpoint, neck="gap")[0].config.neck == "gap"


def test_heads_and_crop_of_an_unknown_transformer_are_asked_for():
    checkpoint = tiny_checkpoint("cvlface_base", "cvlface")
    assert convert_checkpoint(checkpoint)[0].config.num_attention_heads == 16
    other = {f"net.{name}": tensor for name, tensor in tiny_checkpoint("vit").items()}
    with pytest.raises(ValueError, match="Pass `num_attention_heads=`"):
        convert_checkpoint(other)
    assert convert_checkpoint(other, num_attention_heads=4)[0].config.num_attention_heads == 4
    checkpoint["net.pos_embed"] = torch.zeros(1, 100, 16)
    with pytest.raises(ValueError, match=r"100 positions of patches of 9 pixels.*Pass `image_size=`"):
        convert_checkpoint(checkpoint)


def test_unknown_checkpoints_sources_and_settings_are_refused():
    with pytest.raises(ValueError, match=r"does not match any known project.*adaface"):
        convert_checkpoint({"encoder.weight": torch.zeros(2, 2)})
    with pytest.raises(ValueError, match=r"No checkpoint source is called 'arcface'\. Did you mean 'arcface_torch'"):
        convert_checkpoint(tiny_checkpoint(), "arcface")
    with pytest.raises(ValueError, match=r"not a checkpoint of adaface: expected model\.input_layer.*found bn1\.bias"):
        convert_checkpoint(tiny_checkpoint(), "adaface")
    with pytest.raises(ValueError, match="no setting droput"):
        convert_checkpoint(tiny_checkpoint(), droput=0.4)


def test_overrides_go_to_the_config_and_to_the_image_processor():
    model, image_processor = convert_checkpoint(tiny_checkpoint(), dropout=0.4, channel_order="bgr")
    assert model.config.dropout == 0.4
    assert image_processor.channel_order == "bgr"
    assert dict(image_processor.size) == {"height": 32, "width": 32}


@pytest.mark.parametrize(
    "network, source, name, transposed",
    [
        ("adaface", "adaface", "head.kernel", True),
        ("magface", "magface", "fc.weight", True),
        ("magface", "face_embeddings", "header.weight", False),
        ("magface", "face_embeddings", "header.kernel", True),
    ],
)
def test_class_centers_are_reported_and_kept_on_request(network, source, name, transposed, caplog):
    centers = torch.randn(7, 24)
    file = {"state_dict": {**tiny_checkpoint(network, source), name: centers.T if transposed else centers}}
    if source == "adaface":
        file["state_dict"]["head.batch_mean"] = torch.ones(1)
    model, _ = convert_checkpoint(file)
    assert "class centers of 7 identities" in caplog.text
    assert not hasattr(model, "class_centers")
    assert torch.equal(convert_checkpoint(file, keep_class_centers=True)[0].class_centers, centers)


@pytest.mark.parametrize("network, source", [("flatten", "arcface_torch"), ("pooled", "revisit_linearize")])
def test_class_centers_of_a_partial_fc_shard(network, source):
    centers = torch.randn(7, 24)
    backbone = tiny_checkpoint(network, source)
    file = {"state_dict_backbone": backbone, "state_dict_softmax_fc": {"weight": centers}, "epoch": 3}
    told = {"neck": "gwp"} if network == "pooled" else {}
    model, _ = convert_checkpoint(file, keep_class_centers=True, **told)
    assert torch.equal(model.class_centers, centers)
    assert torch.equal(model.stem.convolution.weight, backbone["conv1.weight"])


@pytest.mark.parametrize(
    "prefix, name, transposed",
    [("module.features.", "module.fc.weight", True), ("features.module.", "parallel_fc.weight", False)],
)
def test_magfaces_two_trainers(prefix, name, transposed):
    centers = torch.randn(7, 24)
    backbone = {
        key.replace("features.module.", prefix, 1): t for key, t in tiny_checkpoint("magface", "magface").items()
    }
    file = {"state_dict": {**backbone, name: centers.T if transposed else centers}}
    model, image_processor = convert_checkpoint(file, keep_class_centers=True)
    assert torch.equal(model.class_centers, centers)
    assert (model.config.batch_norm_eps, image_processor.channel_order) == (2e-5, "bgr")


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


def test_no_class_centers_to_keep():
    with pytest.raises(ValueError, match="contains no class centers"):
        convert_checkpoint(tiny_checkpoint(), keep_class_centers=True)


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


def test_class_centers_become_a_head_beside_the_model(tmp_path):
    centers = torch.randn(24, 7)
    file = {"state_dict": {**tiny_checkpoint("adaface", "adaface"), "head.kernel": centers}}
    model, _ = convert_to_folder(file, tmp_path, keep_class_centers=True)
    head = MarginHead(24, 7)
    load_head(head, tmp_path)
    assert torch.equal(head.weight, centers.T)
    assert "class_centers" not in load_file(tmp_path / "model.safetensors")
    back = export_checkpoint(tmp_path, "adaface")  # by its folder
    assert all(torch.equal(back[name], tensor) for name, tensor in export_checkpoint(model, "adaface").items())


def test_what_is_no_model_folder_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match="nowhere: no such file or folder"):
        export_checkpoint(tmp_path / "nowhere", "adaface")
    with pytest.raises(FileNotFoundError, match=r"is not a model folder: it has no config\.json"):
        export_checkpoint(tmp_path, "adaface")
    with pytest.raises(FileNotFoundError, match=r"nowhere\.pth: no such file or folder"):
        convert_to_folder(tmp_path / "nowhere.pth", tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_facenets_class_layer_is_kept_on_request():
    facenet = InceptionResNetModel(InceptionResNetConfig(depths=[1, 1, 1], embedding_size=8))
    classifier = {"logits.weight": torch.randn(5, 8), "logits.bias": torch.randn(5)}
    tensors = {**export_checkpoint(facenet, "facenet_pytorch"), **classifier}
    model, _ = convert_checkpoint(tensors, keep_class_centers=True)
    assert torch.equal(model.class_centers, classifier["logits.weight"])
    older = {name: tensor for name, tensor in tensors.items() if not name.endswith("num_batches_tracked")}
    assert convert_checkpoint(older)[0].config.depths == [1, 1, 1]


def test_class_centers_of_another_width_are_refused():
    tensors = {**export_checkpoint(tiny("adaface"), "adaface"), "head.kernel": torch.randn(25, 5)}
    with pytest.raises(ValueError, match=r"class centers \(5, 25\) are not those of an embedding of size 24"):
        convert_checkpoint(tensors, keep_class_centers=True)
