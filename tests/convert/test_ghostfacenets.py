"""GhostFaceNets, from Keras's files."""

import json

import numpy as np
import pytest
import torch
from parity import difference, raw_embedding
from timm.layers import Conv2dSame

from hf_face import GhostFaceNetConfig, GhostFaceNetModel, convert_checkpoint, export_checkpoint
from hf_face.models import modeling_ghostfacenet

h5py = pytest.importorskip("h5py", reason="the extra [keras] is not installed")


@pytest.fixture(scope="module", params=["w05", "w13"])
def case_and_file(request, fixtures, fill, tmp_path_factory):
    case = fill.load_case(fixtures / "models" / f"ghostfacenet_v1_{request.param}_s2.npz")
    path = tmp_path_factory.mktemp("keras") / "GhostFaceNet.h5"
    fill.write_keras_h5(path, case)
    return case, path


@pytest.fixture
def narrow_file(fixtures, fill, tmp_path):
    path = tmp_path / "GhostFaceNet.h5"
    fill.write_keras_h5(path, fill.load_case(fixtures / "models" / "ghostfacenet_v1_w05_s2.npz"))
    return path


def test_answers_as_keras(case_and_file, fill):
    case, path = case_and_file
    model, image_processor = convert_checkpoint(path)
    batch = fill.images(2, 112)
    with torch.inference_mode():
        features = model.neck.expand(model(batch).last_hidden_state).permute(0, 2, 3, 1)
    assert difference(features, case["features"]) <= 1e-4
    found = difference(raw_embedding(model, batch), case["output"])
    print(f"{'ghostfacenets':18} {case['meta']['case']:26} largest relative difference {found:.1e}")
    assert found <= 1e-4
    assert model.config.head_bias == ("GDC_conv/GDC_conv/bias:0" in case["keys"])
    assert tuple(image_processor.image_std) == pytest.approx((128 / 255,) * 3)  # (x - 127.5) / 128


def rewritten(path, change):
    """The file with `change(model_config)`."""
    with h5py.File(path, "r+") as file:
        config = json.loads(file.attrs["model_config"])
        change(config)
        file.attrs["model_config"] = json.dumps(config)
    return path


def test_layers_are_found_by_their_numbers_not_by_their_order(narrow_file, fill):
    def reversed_layers(config):
        first, *others = config["config"]["layers"]
        config["config"]["layers"] = [first, *reversed(others)]

    expected = raw_embedding(convert_checkpoint(narrow_file)[0], fill.images(2, 112))
    found = raw_embedding(convert_checkpoint(rewritten(narrow_file, reversed_layers))[0], fill.images(2, 112))
    assert np.array_equal(found, expected)


def test_numbers_that_start_elsewhere(narrow_file, fill):
    """Keras numbers layers on through a session."""
    expected = raw_embedding(convert_checkpoint(narrow_file)[0], fill.images(2, 112))

    def renumbered(name):
        stem, _, number = name.rpartition("_")
        if name == "conv2d" or (stem == "conv2d" and number.isdigit()):
            return f"conv2d_{int(number) + 97 if number.isdigit() else 97}"
        return name

    def change(config):
        for layer in config["config"]["layers"]:
            layer["config"]["name"] = renumbered(layer["config"]["name"])

    with h5py.File(narrow_file, "r+") as file:
        root = file["model_weights"]
        for name in list(root):
            if renumbered(name) != name and len(root[name]):
                root[name].move(name, renumbered(name))
                root.move(name, f"new/{renumbered(name)}")
        for name in list(root["new"]):
            root.move(f"new/{name}", name)
        del root["new"]
    model, _ = convert_checkpoint(rewritten(narrow_file, change))
    assert np.array_equal(raw_embedding(model, fill.images(2, 112)), expected)


def test_stride_1(narrow_file):
    def change(config):
        layers = {layer["config"]["name"]: layer["config"] for layer in config["config"]["layers"]}
        layers["conv2d"]["strides"] = [1, 1]

    with h5py.File(narrow_file, "r+") as file:
        group = file["model_weights/GDC_dw/GDC_dw"]
        del group["depthwise_kernel:0"]
        group["depthwise_kernel:0"] = np.zeros((7, 7, 256, 1), np.float32)
    model, _ = convert_checkpoint(rewritten(narrow_file, change))
    assert model.config.stem_stride == 1
    assert model(torch.zeros(1, 3, 112, 112)).pooler_output.shape == (1, 512)


def test_class_centers_are_kept_on_request(narrow_file):
    with h5py.File(narrow_file, "r+") as file:
        file["model_weights/arcface/arcface/norm_dense_w:0"] = np.ones((512, 5), np.float32)
    model, _ = convert_checkpoint(narrow_file, keep_class_centers=True)
    assert model.class_centers.shape == (5, 512)


def test_weights_without_the_network_are_refused(narrow_file):
    with h5py.File(narrow_file, "r+") as file:
        del file.attrs["model_config"]
    with pytest.raises(ValueError, match=r"found .* and no `model_config`. Save it with `model\.save"):
        convert_checkpoint(narrow_file)


def test_another_network_is_refused(tmp_path):
    path = tmp_path / "resnet.h5"
    with h5py.File(path, "w") as file:
        file.attrs["model_config"] = json.dumps({"config": {"layers": []}})
        file["model_weights/conv1/conv1/kernel:0"] = np.zeros((3, 3, 3, 8), np.float32)
    with pytest.raises(ValueError, match=r"resnet\.h5 does not match any known project"):
        convert_checkpoint(path)
    with pytest.raises(ValueError, match=r"resnet\.h5: not a GhostFaceNet"):
        convert_checkpoint(path, source="ghostfacenets")


def test_other_layers_are_refused(narrow_file):
    def without_the_last_blocks(config):
        config["config"]["layers"] = config["config"]["layers"][:200]

    with pytest.raises(ValueError, match=r"its layers are not those of a GhostFaceNet v1|leftover"):
        convert_checkpoint(rewritten(narrow_file, without_the_last_blocks))


def test_a_bias_that_only_the_file_or_only_the_model_has_is_refused(narrow_file, monkeypatch):
    with h5py.File(narrow_file, "r+") as file:
        file["model_weights/conv2d/conv2d/bias:0"] = np.zeros(16, np.float32)
    with pytest.raises(ValueError, match=r"GhostFaceNet\.h5 does not fit .* leftover: conv2d/conv2d/bias:0\."):
        convert_checkpoint(narrow_file)
    with h5py.File(narrow_file, "r+") as file:
        del file["model_weights/conv2d/conv2d/bias:0"]

    class Biased(Conv2dSame):
        def __init__(self, *args, groups, **kwargs):
            super().__init__(*args, groups=groups, **{**kwargs, "bias": groups > 1})

    monkeypatch.setattr(modeling_ghostfacenet, "Conv2dSame", Biased)
    with pytest.raises(ValueError, match=r"missing: .*stages\.0\.expand\.cheap\.convolution\.bias"):
        convert_checkpoint(narrow_file)


def test_a_file_cut_short_is_refused(narrow_file):
    narrow_file.write_bytes(narrow_file.read_bytes()[:100_000])
    with pytest.raises(ValueError, match=r"GhostFaceNet\.h5 is not a complete HDF5 file"):
        convert_checkpoint(narrow_file)


def test_keras_is_not_a_format_to_export_to():
    with pytest.raises(ValueError, match="writes no Keras files"):
        export_checkpoint(GhostFaceNetModel(GhostFaceNetConfig()), "ghostfacenets")
