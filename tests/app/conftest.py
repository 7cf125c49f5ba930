"""A small model, and photographs of people that it has never seen."""

from pathlib import Path

import pytest
import torch

from hf_face import FaceImageProcessor, MobileFaceNetConfig, MobileFaceNetModel
from hf_face.data import load_orl

THRESHOLDS = {"1e-1": -0.9, "1e-2": 1.1}  # everybody is one person, and nobody


@pytest.fixture(scope="session")
def app_model(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("app") / "model"
    torch.manual_seed(0)
    config = MobileFaceNetConfig(
        depths=[1, 1, 1, 1], image_size=32, embedding_size=16, similarity_thresholds=THRESHOLDS
    )
    MobileFaceNetModel(config).save_pretrained(folder)
    FaceImageProcessor(size={"height": 32, "width": 32}).save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def photographs(tmp_path_factory) -> list[Path]:
    """Three photographs each of two of ORL's people, enlarged twice."""
    pytest.importorskip("cv2", reason="finding faces requires OpenCV")
    folder, faces = tmp_path_factory.mktemp("photographs"), load_orl()
    files = []
    for row in (0, 4, 5, 10, 11, 12):
        image = faces[row]["image"]
        files.append(folder / f"{row}.png")
        image.resize((2 * image.width, 2 * image.height)).save(files[-1])
    return files
