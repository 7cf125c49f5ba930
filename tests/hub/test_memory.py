"""Publishing holds the weights once."""

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


@pytest.mark.slow  # 200 MB written, hashed and sent, twice
def test_pushing_a_large_model_with_head_needs_little_more_than_loading_it(hub, strangers, tmp_path):
    from hf_face import FaceRecognitionConfig, FaceRecognitionModel, IResNetConfig

    backbone = IResNetConfig(depths=(1, 1, 1, 1), hidden_sizes=(64, 64, 128, 256))
    model = FaceRecognitionModel(FaceRecognitionConfig(backbone_config=backbone, num_identities=82_000))
    model.save_pretrained(tmp_path / "trained")
    assert 195e6 < (tmp_path / "trained" / "model.safetensors").stat().st_size < 205e6

    assert float(strangers.run(LOAD + PUSH, tmp_path, hf_face=True)) < 1.2
    assert sum(request.received for request in hub.store.uploads()) > 195e6
    hub.store.requests.clear()
    strangers.run(LOAD + PUSH, tmp_path, hf_face=True)
    assert hub.store.uploads() == []
