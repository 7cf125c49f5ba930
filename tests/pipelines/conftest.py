"""A face that is photographed in every way, and pipelines that take no time."""

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import pipeline

from hf_face import FaceImageProcessor, IResNetConfig, IResNetModel
from hf_face.data.alignment import ARCFACE_LANDMARKS


class MarkedFaces:
    """A detector for tests: finds a face where a photograph was said to have one, by its size."""

    def __init__(self):
        self.faces: dict[tuple[int, int], np.ndarray] = {}

    def put(self, image: np.ndarray, *faces: tuple[float, float, float]) -> np.ndarray:
        """Say that an image has faces, each of (left, top, side)."""
        self.faces[image.shape[:2]] = np.array(faces, dtype=np.float32).reshape(-1, 3)
        return image

    def detect(self, images):
        return [self.find(image) for image in images]

    def find(self, image):
        corner, side = np.split(self.faces.get(image.shape[:2], np.empty((0, 3), dtype=np.float32)), [2], axis=1)
        landmarks = corner[:, None] + ARCFACE_LANDMARKS * side[:, None] / 112
        return np.concatenate([corner, corner + side], 1), landmarks, 1 - 0.1 * np.arange(len(side))


@pytest.fixture
def detector() -> MarkedFaces:
    return MarkedFaces()


@pytest.fixture(scope="session")
def model_folder(tmp_path_factory) -> str:
    """A tiny model without training, with thresholds, saved as somebody has it."""
    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("models") / "calibrated"
    config = IResNetConfig(depths=[1, 1, 1, 1], hidden_sizes=[8, 8, 16, 16], stem_size=8, embedding_size=16)
    config.similarity_thresholds = {"1e-2": 0.25, "1e-3": 0.5}
    IResNetModel(config).save_pretrained(folder)
    FaceImageProcessor().save_pretrained(folder)
    return str(folder)


@pytest.fixture
def embed(model_folder, detector):
    return pipeline("face-embedding", model=model_folder, detector=detector)


@pytest.fixture
def verify(model_folder, detector):
    return pipeline("face-verification", model=model_folder, detector=detector)


@pytest.fixture(scope="session")
def portrait(orl) -> Image.Image:
    """A gray photograph of one person, 368 x 448."""
    return orl[300]["image"].resize((368, 448), Image.Resampling.BICUBIC)


@pytest.fixture
def noise():
    """`noise(height, width)` is an image that differs from those of other sizes."""
    return lambda height, width: np.random.default_rng(height * width).integers(
        0, 256, (height, width, 3), dtype=np.uint8
    )
