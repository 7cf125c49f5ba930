"""
Run by test_package.py: one order of imports in a process, after which the Auto classes have to know our models.

The processes are forked from one that has loaded torch, torchvision and timm, to save the time; nothing of transformers
or hf_face is loaded before.
"""

import json
import os
import sys
import traceback
from pathlib import Path

import timm  # noqa: F401
import torch  # noqa: F401
import torchvision  # noqa: F401

KNOWN_EVERYWHERE = """
import hf_face
from transformers import AutoConfig, AutoImageProcessor, AutoModel, pipeline

config = AutoConfig.for_model("iresnet", depths=[1], hidden_sizes=[8])
assert type(config) is hf_face.IResNetConfig
assert type(AutoModel.from_config(config)) is hf_face.IResNetModel
assert type(AutoConfig.from_pretrained(backbone)) is hf_face.IResNetConfig
assert type(AutoModel.from_pretrained(backbone)) is hf_face.IResNetModel
assert type(AutoImageProcessor.from_pretrained(backbone)) is hf_face.FaceImageProcessor
embed = pipeline("image-feature-extraction", model=backbone)
assert type(embed.model) is hf_face.IResNetModel and type(embed.image_processor) is hf_face.FaceImageProcessor
for auto_class in (AutoModel, hf_face.AutoModelForFaceRecognition):
    assert type(auto_class.from_pretrained(training)) is hf_face.FaceRecognitionModel
"""


def run_in_fork(code: str, names: dict[str, str]) -> str:
    """Runs the code in a process of its own. Returns the traceback of what went wrong."""
    read_end, write_end = os.pipe()
    if (child := os.fork()) == 0:
        failure = ""
        try:
            exec(code, dict(names))
        except BaseException:
            failure = traceback.format_exc()
        os.write(write_end, failure.encode())
        os._exit(0)
    os.close(write_end)
    with open(read_end, encoding="utf-8") as pipe:
        failure = pipe.read()
    os.waitpid(child, 0)
    return failure


if __name__ == "__main__":
    folder, orders = Path(sys.argv[1]), json.loads(sys.argv[2])
    names = {"backbone": str(folder / "backbone"), "training": str(folder / "training")}
    print(json.dumps([run_in_fork(order + KNOWN_EVERYWHERE, names) for order in orders]))
