"""Every family of backbones is published and used by someone who has transformers alone."""

import json
import re

import numpy as np
import torch
from tiny_models import CASES

from hf_face import FAMILIES, FaceImageProcessor, TimmFaceConfig

OF_THE_DEMO = TimmFaceConfig(architecture="resnet10t", embedding_size=16, image_size=32)
CONFIGS = [*{type(config): config for config, _ in CASES.values()}.values(), OF_THE_DEMO]
USE = """
import json
import numpy as np
from transformers import AutoImageProcessor, pipeline
for repo in json.load(open("repos.json")):
    processor = AutoImageProcessor.from_pretrained(repo, trust_remote_code=True)
    embed = pipeline("image-feature-extraction", model=repo, image_processor=processor, trust_remote_code=True)
    np.save(repo.replace("/", "-") + ".npy", np.concatenate(embed(["first.png", "second.png"])))
    print(type(embed.model).__module__, type(processor).__module__)
"""


def test_each_is_used_without_hf_face(hub, card, faces, strangers, tmp_path):
    expected = {}
    for i, config in enumerate(CONFIGS):
        torch.manual_seed(0)
        model, image_processor = FAMILIES[type(config)](config).eval(), FaceImageProcessor(**config.preprocessing)
        repo = f"org/family-{i}"
        model.push_to_hub(repo, card=card, image_processor=image_processor)
        with torch.inference_mode():
            expected[repo] = model(**image_processor(faces, return_tensors="pt")).pooler_output.numpy()
    for name, face in zip(("first.png", "second.png"), faces, strict=True):
        face.save(tmp_path / name)
    (tmp_path / "repos.json").write_text(json.dumps(list(expected)))

    printed = strangers.run(USE, tmp_path, hf_face=False).splitlines()
    for (repo, embeddings), modules in zip(expected.items(), printed, strict=True):
        np.testing.assert_allclose(np.load(tmp_path / f"{repo.replace('/', '-')}.npy"), embeddings, atol=1e-6)
        folder = rf"transformers_modules\.org\.{repo.split('/')[1].replace('-', '_hyphen_')}\.\w+"
        assert re.fullmatch(rf"{folder}\.modeling_\w+ {folder}\.image_processing_face", modules)
