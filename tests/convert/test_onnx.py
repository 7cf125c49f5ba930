"""ONNX files, whose names say nothing: InsightFace's packs, and exports of other depths and shapes."""

import importlib.util

import pytest
import torch
from parity import difference, raw_embedding
from torch import nn
from transformers import AutoModel

from hf_face import (
    FaceRecognitionModel,
    IResNetConfig,
    IResNetModel,
    MobileFaceNetConfig,
    convert_checkpoint,
    export_checkpoint,
)
from hf_face.convert import convert_to_folder

onnx = pytest.importorskip("onnx", reason="the extra [onnx] is not installed")

TINY = {"depths": [1, 2], "hidden_sizes": [8, 16], "stem_size": 8, "embedding_size": 12, "image_size": 16}
PACKS = ["mbf_numbers", "mbf_legacy", "mbf_new", "r18_numbers", "r18_new"]


@pytest.fixture(scope="session")
def write_pack(fixtures, fill, tmp_path_factory):
    """Writes the ONNX file of a case, once, and returns the case and the file."""
    spec = importlib.util.spec_from_file_location("fill_onnx", fixtures / "onnx" / "fill_onnx.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    folder = tmp_path_factory.mktemp("packs")

    def write(name: str):
        path = folder / f"{name}.onnx"
        return module.build(str(fixtures / "onnx" / f"{name}.npz"), str(path)), path

    return write


class RawEmbedding(nn.Module):
    """What arcface_torch exports: the embedding before normalization."""

    def __init__(self, model):
        super().__init__()
        self.model = model

    def forward(self, pixel_values):
        feature_map = self.model.stem(pixel_values)
        for stage in self.model.stages:
            feature_map = stage(feature_map)
        return self.model.neck(feature_map)


def with_statistics(model):
    """A model in eval mode whose batch norms have seen something."""
    for module in model.modules():
        if isinstance(module, nn.BatchNorm1d | nn.BatchNorm2d):
            nn.init.normal_(module.running_mean, std=0.1)
            nn.init.uniform_(module.running_var, 0.5, 1.5)
    return model.eval()


def export(module, path, image_size=16, **options):
    image = torch.randn(1, 3, image_size, image_size)
    torch.onnx.export(module.eval(), (image,), path, input_names=["data"], dynamo=False, **options)
    return path


@pytest.mark.parametrize("name", PACKS)
@pytest.mark.parametrize("unfuse", [False, True])
def test_packs_answer_as_their_network(write_pack, fill, name, unfuse):
    case, path = write_pack(name)
    model, image_processor = convert_checkpoint(path, unfuse=unfuse)
    found = difference(raw_embedding(model, fill.images(2, 112)), case["output"])
    print(f"{'onnx':18} {name + ' unfused' * unfuse:26} largest relative difference {found:.1e}")
    assert found <= 1e-4
    assert model.config.fused != unfuse
    assert any(isinstance(module, nn.BatchNorm1d) for module in model.modules()) == unfuse
    assert tuple(image_processor.image_mean) == tuple(image_processor.image_std) == (0.5, 0.5, 0.5)


def test_a_pack_is_saved_and_loaded_fused(write_pack, fill, tmp_path):
    case, path = write_pack("mbf_numbers")
    convert_to_folder(path, tmp_path)
    model = AutoModel.from_pretrained(tmp_path)
    assert model.config.fused
    assert difference(raw_embedding(model, fill.images(2, 112)), case["output"]) <= 1e-4


NETWORKS = {
    "iresnet": IResNetConfig(**TINY),
    "iresnet of AdaFace": IResNetConfig(**TINY, shortcut="subsample", embedding_norm="plain"),
    "iresnet with bottlenecks": IResNetConfig(
        **{**TINY, "depths": [1, 1, 2], "hidden_sizes": [8, 16, 16]}, layer_type="bottleneck", shortcut="subsample"
    ),
    "iresnet of another epsilon": IResNetConfig(**TINY, batch_norm_eps=2e-5, stem_kernel_size=7),
    "mobilefacenet": MobileFaceNetConfig(depths=[1, 2, 1, 1], embedding_size=12, image_size=32),
    "mobilefacenet with units in the stem": MobileFaceNetConfig(depths=[2, 1, 2, 1], width=2, image_size=32),
}


@pytest.mark.parametrize("folded", [True, False])
@pytest.mark.parametrize("name", NETWORKS)
def test_other_networks_and_exports(name, folded, tmp_path):
    config = NETWORKS[name]
    torch.manual_seed(0)
    model = with_statistics(AutoModel.from_config(config))
    mode = torch.onnx.TrainingMode.EVAL if folded else torch.onnx.TrainingMode.PRESERVE
    path = export(RawEmbedding(model), tmp_path / "model.onnx", config.image_size, training=mode)
    batch = torch.randn(2, 3, config.image_size, config.image_size)
    found, _ = convert_checkpoint(path)
    assert found.config.fused == folded
    assert difference(raw_embedding(found, batch), raw_embedding(model, batch)) <= 1e-4
    for field in ("depths", "embedding_size", "image_size", "batch_norm_eps"):
        assert getattr(found.config, field) == getattr(config, field), field
    if not folded:  # nothing was lost
        weights = found.state_dict()
        assert all(
            torch.equal(weights[name], tensor)
            for name, tensor in model.state_dict().items()
            if not name.endswith("num_batches_tracked")
        )


def test_unfused_networks_are_fine_tuned_as_usual(write_pack):
    _, path = write_pack("mbf_numbers")
    backbone, _ = convert_checkpoint(path, unfuse=True)
    model = FaceRecognitionModel.from_backbone(backbone, num_identities=3).train()
    before = backbone.stem.first.norm.running_mean.clone()
    model(torch.randn(4, 3, 112, 112), labels=torch.tensor([0, 1, 2, 0])).loss.backward()
    assert not torch.equal(backbone.stem.first.norm.running_mean, before)
    assert all(parameter.grad is not None for parameter in backbone.parameters())


def test_half_precision_is_kept_and_widened_on_request(tmp_path):
    model = with_statistics(IResNetModel(IResNetConfig(**TINY)))
    path = export(RawEmbedding(model), tmp_path / "float.onnx")
    graph = onnx.load(path)
    for tensor in graph.graph.initializer:
        tensor.CopyFrom(onnx.numpy_helper.from_array(onnx.numpy_helper.to_array(tensor).astype("float16"), tensor.name))
    onnx.save(graph, tmp_path / "half.onnx")
    assert convert_checkpoint(tmp_path / "half.onnx")[0].dtype == torch.float16
    batch = torch.randn(2, 3, 16, 16)
    widened, _ = convert_checkpoint(tmp_path / "half.onnx", dtype="float32")
    assert difference(raw_embedding(widened, batch), raw_embedding(model, batch)) <= 1e-2


def test_normalization_in_the_graph_becomes_the_image_processors(tmp_path):
    class Normalizing(RawEmbedding):
        def forward(self, pixel_values):
            return super().forward((pixel_values - 127.5) * 0.0078125)

    model = with_statistics(IResNetModel(IResNetConfig(**TINY)))
    _, image_processor = convert_checkpoint(export(Normalizing(model), tmp_path / "model.onnx"))
    assert image_processor.image_mean == pytest.approx([0.5] * 3)
    assert image_processor.image_std == pytest.approx([128 / 255] * 3)


@pytest.mark.parametrize("name", ["iresnet", "mobilefacenet"])
def test_the_size_of_images_is_read_off_the_network_where_the_file_leaves_it_open(name, tmp_path):
    config = NETWORKS[name]
    path = export(RawEmbedding(AutoModel.from_config(config)), tmp_path / "model.onnx", config.image_size)
    graph = onnx.load(path)
    for side in graph.graph.input[0].type.tensor_type.shape.dim[2:]:
        side.dim_param = "size"
    onnx.save(graph, path)
    assert convert_checkpoint(path)[0].config.image_size == config.image_size


def test_half_a_normalization_is_refused(tmp_path):
    class Shifting(RawEmbedding):
        def forward(self, pixel_values):
            return super().forward(pixel_values - 127.5)

    with pytest.raises(ValueError, match=r"node .*Conv.* does not fit: a normalization is"):
        convert_checkpoint(export(Shifting(IResNetModel(IResNetConfig(**TINY))), tmp_path / "model.onnx"))


# Files that are not what they should be


def test_a_layer_that_adds_nothing_in_the_graph_gets_a_bias_of_zeros(tmp_path):
    model = with_statistics(IResNetModel(IResNetConfig(**TINY)))
    model.neck.projection.linear.bias = None
    path = export(RawEmbedding(model), tmp_path / "model.onnx", training=torch.onnx.TrainingMode.PRESERVE)
    converted, _ = convert_checkpoint(path)
    assert not converted.neck.projection.linear.bias.any()
    images = torch.randn(2, 3, 16, 16)
    assert difference(raw_embedding(converted, images), raw_embedding(model, images)) <= 1e-4


class Transformer(nn.Module):
    def __init__(self):
        super().__init__()
        self.patch, self.linear = nn.Conv2d(3, 8, 8, 8), nn.Linear(32, 12)

    def forward(self, pixel_values):
        return self.linear(self.patch(pixel_values).flatten(1).softmax(-1))


def test_another_network_is_named_with_its_first_layer_that_does_not_fit(tmp_path):
    path = export(Transformer(), tmp_path / "vit.onnx")
    with pytest.raises(ValueError, match=r"vit\.onnx: node .*Softmax.*does not fit"):
        convert_checkpoint(path)
    wide = IResNetModel(IResNetConfig(**{**TINY, "squeeze_excitation": True, "hidden_sizes": [16, 32]})).eval()
    with pytest.raises(ValueError, match=r"se\.onnx: node .*(ReduceMean|GlobalAveragePool).* does not fit"):
        convert_checkpoint(export(RawEmbedding(wide), tmp_path / "se.onnx"))


def test_quantized_operators_are_named(tmp_path):
    quantization = pytest.importorskip("onnxruntime.quantization", reason="the extra [onnx] is not installed")
    path = export(RawEmbedding(with_statistics(IResNetModel(IResNetConfig(**TINY)))), tmp_path / "float.onnx")
    quantization.quantize_dynamic(path, tmp_path / "int8.onnx")
    with pytest.raises(ValueError, match=r"int8\.onnx: .*DynamicQuantizeLinear"):
        convert_checkpoint(tmp_path / "int8.onnx")


def test_weights_beside_the_file(tmp_path):
    model = with_statistics(IResNetModel(IResNetConfig(**TINY)))
    graph = onnx.load(export(RawEmbedding(model), tmp_path / "plain.onnx"))
    path = tmp_path / "model.onnx"
    onnx.save(graph, path, save_as_external_data=True, location="model.onnx.data", size_threshold=0)
    batch = torch.randn(2, 3, 16, 16)
    assert difference(raw_embedding(convert_checkpoint(path)[0], batch), raw_embedding(model, batch)) <= 1e-4
    (tmp_path / "model.onnx.data").unlink()
    with pytest.raises(FileNotFoundError, match=r"model\.onnx keeps its weights in model\.onnx\.data"):
        convert_checkpoint(path)


@pytest.mark.parametrize("location", ["../secret.data", "/etc/passwd"])
def test_weights_outside_the_folder_are_refused(tmp_path, location):
    graph = onnx.load(export(RawEmbedding(IResNetModel(IResNetConfig(**TINY)).eval()), tmp_path / "plain.onnx"))
    folder = tmp_path / "model"
    folder.mkdir()
    onnx.save(graph, folder / "model.onnx", save_as_external_data=True, location="inside.data", size_threshold=0)
    (folder / "inside.data").rename(tmp_path / "secret.data")
    written = onnx.load(folder / "model.onnx", load_external_data=False)
    for tensor in written.graph.initializer:
        for entry in tensor.external_data:
            if entry.key == "location":
                entry.value = location
    onnx.save(written, folder / "model.onnx")
    with pytest.raises(ValueError, match="outside"):
        convert_checkpoint(folder / "model.onnx")


@pytest.mark.parametrize("kept", [0.5, 0.0])
def test_damaged_files(tmp_path, kept):
    path = export(RawEmbedding(IResNetModel(IResNetConfig(**TINY))), tmp_path / "model.onnx")
    data = path.read_bytes()
    path.write_bytes(data[: int(kept * len(data))])
    with pytest.raises(ValueError, match=r"model\.onnx"):
        convert_checkpoint(path)


def test_values_that_are_not_finite_are_named(tmp_path):
    graph = onnx.load(export(RawEmbedding(IResNetModel(IResNetConfig(**TINY)).eval()), tmp_path / "model.onnx"))
    tensor = next(t for t in graph.graph.initializer if len(t.dims) == 4)
    tensor.CopyFrom(onnx.numpy_helper.from_array(onnx.numpy_helper.to_array(tensor) * float("nan"), tensor.name))
    onnx.save(graph, tmp_path / "model.onnx")
    with pytest.raises(ValueError, match=r"model\.onnx is damaged.*NaN"):
        convert_checkpoint(tmp_path / "model.onnx")


def test_onnx_is_not_a_format_to_export_to():
    with pytest.raises(ValueError, match=r"torch\.onnx\.export"):
        export_checkpoint(IResNetModel(IResNetConfig(**TINY)), "onnx")


def test_a_torch_file_is_not_an_onnx_file(tmp_path):
    torch.save({"weight": torch.zeros(1)}, tmp_path / "model.pt")
    with pytest.raises(ValueError, match="is not an ONNX file"):
        convert_checkpoint(tmp_path / "model.pt", source="onnx")
