"""ONNX files in a model's folder are published beside its weights, and only beside those."""

import pytest
import torch

from hf_face import IResNetModel
from hf_face.hub import push_to_hub, write_model_folder
from hf_face.hub.onnx_files import WEIGHTS_KEY, weights_digest

onnx = pytest.importorskip("onnx", reason="the extra [onnx] is not installed")


@pytest.fixture
def folder(backbone, image_processor, card, measurements, monkeypatch, tmp_path):
    monkeypatch.setattr("hf_face.hub.model_card.measure_model", lambda model: measurements)
    folder = write_model_folder(backbone, tmp_path / "run", "run", card=card, image_processor=image_processor)
    (folder / "onnx").mkdir()
    return folder


def write_onnx(path, digest: str | None):
    """A file that says which weights it was exported from."""
    value = onnx.helper.make_tensor_value_info("pixel_values", onnx.TensorProto.FLOAT, [1])
    node = onnx.helper.make_node("Identity", ["pixel_values"], ["pooler_output"])
    output = onnx.helper.make_tensor_value_info("pooler_output", onnx.TensorProto.FLOAT, [1])
    model = onnx.helper.make_model(onnx.helper.make_graph([node], "face", [value], [output]))
    if digest:
        onnx.helper.set_model_props(model, {WEIGHTS_KEY: digest})
    onnx.save(model, path)


def names(hub, repo_id: str) -> set[str]:
    return {name for name in hub.store.repos["model", repo_id].commit("main").files if name.startswith("onnx/")}


def test_they_are_published_and_go_with_the_weights(hub, folder, backbone):
    for name in ("model.onnx", "model_quantized.onnx"):
        write_onnx(folder / "onnx" / name, weights_digest(backbone))
    push_to_hub(folder, "org/onnx")
    assert names(hub, "org/onnx") == {"onnx/model.onnx", "onnx/model_quantized.onnx"}
    assert hub.store.read("org/onnx", "onnx/model.onnx") == (folder / "onnx" / "model.onnx").read_bytes()
    (folder / "onnx" / "model_quantized.onnx").unlink()
    push_to_hub(folder, "org/onnx")
    assert names(hub, "org/onnx") == {"onnx/model.onnx"}
    (folder / "onnx" / "model.onnx").unlink()
    push_to_hub(folder, "org/onnx")
    assert names(hub, "org/onnx") == set()


def test_those_of_other_weights_are_refused(hub, folder, backbone):
    other = IResNetModel(backbone.config)
    torch.nn.init.normal_(next(other.parameters()))
    for digest in (weights_digest(other), None):
        write_onnx(folder / "onnx" / "model.onnx", digest)
        with pytest.raises(ValueError, match=r"model\.onnx was not exported from these weights.*hf-face export"):
            push_to_hub(folder, "org/stale")
    (folder / "onnx" / "model.onnx").write_bytes(b"\xff\xff\xff")
    with pytest.raises(ValueError, match=r"model\.onnx is not a complete ONNX file"):
        push_to_hub(folder, "org/stale")
    assert ("model", "org/stale") not in hub.store.repos


def test_those_elsewhere_are_refused(folder, backbone, tmp_path, hub):
    write_onnx(tmp_path / "elsewhere.onnx", weights_digest(backbone))
    (folder / "onnx" / "model.onnx").symlink_to(tmp_path / "elsewhere.onnx")
    with pytest.raises(ValueError, match="refers to a file outside it"):
        push_to_hub(folder, "org/link")
