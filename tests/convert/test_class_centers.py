"""Class centers in checkpoints: kept on request, discarded with a warning otherwise."""

import pytest
import torch
from safetensors.torch import load_file
from tiny_checkpoints import tiny, tiny_checkpoint

from hf_face import (
    InceptionResNetConfig,
    InceptionResNetModel,
    convert_checkpoint,
    export_checkpoint,
)
from hf_face.convert import convert_to_folder
from hf_face.heads import MarginHead, load_head


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


def test_facenets_class_layer_is_kept_on_request():
    facenet = InceptionResNetModel(InceptionResNetConfig(depths=[1, 1, 1], embedding_size=8))
    classifier = {"logits.weight": torch.randn(5, 8), "logits.bias": torch.randn(5)}
    tensors = {**export_checkpoint(facenet, "facenet_pytorch"), **classifier}
    model, _ = convert_checkpoint(tensors, keep_class_centers=True)
    assert torch.equal(model.class_centers, classifier["logits.weight"])
    older = {name: tensor for name, tensor in tensors.items() if not name.endswith("num_batches_tracked")}
    assert convert_checkpoint(older)[0].config.depths == [1, 1, 1]


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


def test_no_class_centers_to_keep():
    with pytest.raises(ValueError, match="contains no class centers"):
        convert_checkpoint(tiny_checkpoint(), keep_class_centers=True)


def test_class_centers_of_another_width_are_refused():
    tensors = {**export_checkpoint(tiny("adaface"), "adaface"), "head.kernel": torch.randn(25, 5)}
    with pytest.raises(ValueError, match=r"class centers \(5, 25\) are not those of an embedding of size 24"):
        convert_checkpoint(tensors, keep_class_centers=True)
