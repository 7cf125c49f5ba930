"""A training run that takes seconds: a tiny backbone and the ORL faces."""

import pytest
import torch

from hf_face import FaceRecognitionConfig, FaceRecognitionModel
from hf_face.data import load_orl, make_verification_pairs, split_identities
from hf_face.training import FaceTrainer, FaceTrainingArguments

TINY_VIT = {
    "model_type": "timm_face",
    "architecture": "vit_tiny_patch16_224",
    "model_args": {"img_size": 32, "patch_size": 8, "depth": 1, "embed_dim": 24, "num_heads": 2},
    "embedding_size": 16,
    "image_size": 32,
}


@pytest.fixture(scope="session")
def faces():
    """Thirty people to train on and the pairs of ten others."""
    train, held_out = split_identities(load_orl(), num_held_out=10, seed=0)
    return train, make_verification_pairs(held_out, name="orl")


@pytest.fixture
def make_trainer(faces, tmp_path):
    """A trainer of the same fresh model each time it is called; `parameters` are others of the constructor."""
    train, pairs = faces

    def make(
        margin: str = "arcface",
        train_dataset=train,
        eval_dataset=pairs,
        augmentation="flip",
        on_bad_image="raise",
        parameters=None,
        method=None,
        **settings,
    ):
        torch.manual_seed(0)
        config = FaceRecognitionConfig(backbone_config=TINY_VIT, num_identities=30, margin=margin)
        parameters = {"model": FaceRecognitionModel(config)} | (parameters or {})
        settings = {
            "output_dir": str(tmp_path / "run"),
            "max_steps": 4,
            "per_device_train_batch_size": 16,
            "per_device_eval_batch_size": 50,
            "learning_rate": 0.01,
            "logging_steps": 1,
            "save_strategy": "no",
            "report_to": "none",
            "disable_tqdm": True,
            "use_cpu": True,
            **settings,
        }
        return FaceTrainer(
            args=FaceTrainingArguments(**settings),
            train_dataset=train_dataset,
            eval_dataset=eval_dataset,
            augmentation=augmentation,
            on_bad_image=on_bad_image,
            method=method,
            **parameters,
        )

    return make
