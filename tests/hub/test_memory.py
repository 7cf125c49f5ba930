"""Publishing holds the weights once."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

LOAD = """
import resource
import hf_face
from transformers import AutoModel
model = AutoModel.from_pretrained("trained")
checksum = sum(parameter.sum().item() for parameter in model.parameters())  # every weight is really in memory
loaded = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
"""
PUSH = """
from hf_face import FaceImageProcessor, push_to_hub
from hf_face.hub import FaceModelCardData, TrainingData
card = FaceModelCardData(license="mit", training_data=[TrainingData("faces", "none")])
push_to_hub(model, "org/large", card=card, image_processor=FaceImageProcessor(), include_head=True)
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / loaded)
"""


def in_a_fresh_process(hub, tmp_path, code: str) -> str:
    """The last line that code prints in a process that has not inherited another one's memory."""
    environment = {"HF_ENDPOINT": hub.url, "HF_HUB_DISABLE_XET": "1", "HF_HUB_OFFLINE": "0", "HF_TOKEN": hub.token}
    environment |= {"HF_HOME": str(tmp_path / "home"), "PYTHONPATH": str(Path(__file__).parents[2])}
    command = [sys.executable, "-c", code]
    printed = subprocess.check_output(command, cwd=tmp_path, env=os.environ | environment, text=True, timeout=300)
    return printed.splitlines()[-1]  # after what libraries print


@pytest.mark.slow  # 200 MB written, hashed and sent by two fresh processes
def test_pushing_a_large_model_with_head_needs_little_more_than_loading_it(hub, tmp_path):
    from hf_face import FaceRecognitionConfig, FaceRecognitionModel, IResNetConfig

    backbone = IResNetConfig(depths=(1, 1, 1, 1), hidden_sizes=(64, 64, 128, 256))
    model = FaceRecognitionModel(FaceRecognitionConfig(backbone_config=backbone, num_identities=82_000))
    model.save_pretrained(tmp_path / "trained")
    assert 195e6 < (tmp_path / "trained" / "model.safetensors").stat().st_size < 205e6

    assert float(in_a_fresh_process(hub, tmp_path, LOAD + PUSH)) < 1.2
    assert sum(request.received for request in hub.store.uploads()) > 195e6
    hub.store.requests.clear()
    in_a_fresh_process(hub, tmp_path, LOAD + PUSH)
    assert hub.store.uploads() == []
