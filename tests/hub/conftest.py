"""What publishing tests share; the Hub itself is in tests/conftest.py."""

import pytest


@pytest.fixture(scope="session")
def backbone():
    """A backbone of 1.1 MB; its batch norms have seen faces, so that different faces get different embeddings."""
    import torch

    from hf_face import IResNetConfig, IResNetModel

    torch.manual_seed(0)
    config = IResNetConfig(depths=(1, 1, 1, 1), hidden_sizes=(8, 8, 16, 16), stem_size=8, embedding_size=64)
    config.margin = {"name": "arcface", "m": 0.5, "scale": 64.0}
    model = IResNetModel(config).train()
    with torch.no_grad():
        for _ in range(5):
            model(torch.rand(16, 3, 112, 112) * 2 - 1)
    return model.eval()


@pytest.fixture(scope="session")
def measurements(backbone):
    from hf_face.hub import measure_model

    return measure_model(backbone)


@pytest.fixture(scope="session")
def image_processor():
    from hf_face import FaceImageProcessor

    return FaceImageProcessor()


@pytest.fixture
def card(tmp_path):
    """What a training run of a moment would know."""
    from matplotlib.figure import Figure

    from hf_face.hub import Evaluation, FaceModelCardData, TrainingData

    roc = tmp_path / "orl_roc.png"
    Figure(figsize=(1, 1)).savefig(roc)
    return FaceModelCardData(
        license="cc-by-nc-4.0",
        training_data=[TrainingData("ORL faces", "free for research", images=300, identities=30, citation="orl")],
        evaluations=[
            Evaluation("ORL", {"accuracy": 0.91, "tar@far=1e-2": 0.75, "single_image_threshold@far=1e-2": 0.3125})
        ],
        hyperparameters={"learning_rate": 0.001},
        log_history=[{"step": 1, "loss": 12.5}],
        figures=[str(roc)],
        train_runtime=12.0,
    )


@pytest.fixture(scope="session")
def faces():
    """Two crops that no codec changes: saved as PNG they are the same again."""
    import numpy as np
    from PIL import Image

    random = np.random.default_rng(0)
    small = random.integers(256, size=(2, 8, 8, 3), dtype=np.uint8)
    return [Image.fromarray(crop).resize((112, 112), Image.Resampling.BICUBIC) for crop in small]


@pytest.fixture(scope="session")
def embeddings(backbone, image_processor, faces):
    """What the plain model says of `faces`, (2, 64)."""
    import torch

    with torch.inference_mode():
        embeddings = backbone(**image_processor(faces, return_tensors="pt")).pooler_output
    assert (embeddings[0] @ embeddings[1]).abs() < 0.99, "the two crops must not look the same to the model"
    return embeddings
