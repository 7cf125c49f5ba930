"""What Inference Endpoints get: a handler that they call as here, where hf_face is not installed."""

import base64
import io
import json
import re

import pytest
import torch

from hf_face.hub import push_to_hub, write_model_folder
from hf_face.hub.endpoint_handler import EndpointHandler

CALLED = """
import base64, importlib.util, io, json, sys
from PIL import Image

folder, crop, photograph = ARGUMENTS
spec = importlib.util.spec_from_file_location("handler.EndpointHandler", folder + "/handler.py")
module = importlib.util.module_from_spec(spec)
sys.modules[spec.name] = module
sys.path.insert(0, folder)
spec.loader.exec_module(module)
handler = module.EndpointHandler(folder)
encoded = base64.b64encode(open(crop, "rb").read()).decode()
answers = {
    "image": handler({"inputs": Image.open(crop).convert("RGB")}),
    "base64": handler({"inputs": encoded}),
    "list": handler({"inputs": [encoded, "data:image/png;base64," + encoded]}),
    "photograph": handler({"inputs": Image.open(photograph).convert("RGB"), "parameters": {"detect": True}}),
}
print(json.dumps(answers))
"""


@pytest.fixture
def folder(backbone, image_processor, card, measurements, monkeypatch, tmp_path):
    monkeypatch.setattr("hf_face.hub.model_card.measure_model", lambda model: measurements)
    settings = {"card": card, "image_processor": image_processor, "endpoint": True}
    return write_model_folder(backbone, tmp_path / "model", "org/model", **settings)


@torch.inference_mode()
def test_called_as_endpoints_do_without_hf_face(folder, backbone, image_processor, orl, strangers, tmp_path):
    pytest.importorskip("cv2", reason="the extra [detection] is not installed")
    crop, photograph = tmp_path / "crop.png", tmp_path / "photograph.png"
    orl[0]["image"].save(crop)
    orl[0]["image"].resize((368, 448)).save(photograph)
    arguments = f"ARGUMENTS = {[str(folder), str(crop), str(photograph)]!r}\n"
    answers = json.loads(strangers.run(arguments + CALLED, tmp_path, hf_face=False).splitlines()[-1])
    expected = backbone(**image_processor(orl[0]["image"], return_tensors="pt"))
    assert answers["image"]["embedding"] == pytest.approx(expected.pooler_output[0].tolist(), abs=1e-5)
    assert answers["image"]["norm"] == pytest.approx(expected.norm.item(), rel=1e-5)
    assert answers["base64"]["embedding"] == pytest.approx(answers["image"]["embedding"], abs=1e-6)
    assert len(answers["list"]) == 2 and all(each.keys() == {"embedding", "norm"} for each in answers["list"])
    (face,) = answers["photograph"]
    assert face.keys() == {"box", "landmarks", "score", "embedding", "norm"}
    assert len(face["embedding"]) == 64 and len(face["landmarks"]) == 5


def test_requirements_are_those_of_the_model(folder):
    lines = (folder / "requirements.txt").read_text().splitlines()
    assert [re.match(r"[\w-]+", line)[0] for line in lines] == [
        "opencv-python-headless",
        "timm",
        "torchvision",
        "transformers",
    ]


@pytest.fixture
def handler(folder):
    return EndpointHandler(str(folder))


def test_nothing_but_images_in_the_request_is_read(handler, orl, tmp_path):
    orl[0]["image"].save(tmp_path / "face.png")
    for path in (str(tmp_path / "face.png"), "http://127.0.0.1:9/face.png", "file:///etc/passwd"):
        with pytest.raises(ValueError, match=r"Expected images in base64|is not an image"):
            handler({"inputs": path})
    with pytest.raises(ValueError, match=r"found named values: path"):
        handler({"inputs": {"path": str(tmp_path / "face.png"), "bytes": None}})
    with pytest.raises(ValueError, match=r"is not an image, or damaged"):
        handler({"inputs": base64.b64encode(b"no image").decode()})
    assert handler({"inputs": []}) == []


def test_bytes_of_a_file_are_read(handler, orl):
    buffer = io.BytesIO()
    orl[0]["image"].save(buffer, "PNG")
    assert len(handler({"inputs": buffer.getvalue()})["embedding"]) == 64


def test_the_handler_is_published_only_when_asked_for(hub, backbone, image_processor, card, measurements, monkeypatch):
    monkeypatch.setattr("hf_face.hub.model_card.measure_model", lambda model: measurements)
    for endpoint in (False, True):
        push_to_hub(backbone, "org/endpoint", card=card, image_processor=image_processor, endpoint=endpoint)
        files = hub.store.repos["model", "org/endpoint"].commit("main").files.keys()
        assert ({"handler.py", "requirements.txt"} <= files) == endpoint
