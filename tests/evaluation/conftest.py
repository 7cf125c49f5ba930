import pytest
import torch
from torch import nn

from hf_face import FaceImageProcessor
from hf_face.data import VerificationPairs, load_orl, make_verification_pairs, split_identities
from hf_face.models.modeling_face import face_embedding_output


class PixelModel(nn.Module):
    """A face model that takes no time: a random projection of the shrunken image. Counts its forward passes."""

    def __init__(self, embedding_size: int = 16):
        super().__init__()
        torch.manual_seed(0)
        self.pool = nn.AdaptiveAvgPool2d(8)
        self.norm = nn.BatchNorm2d(3)
        self.projection = nn.Linear(3 * 8 * 8, embedding_size)
        self.num_calls = 0

    def forward(self, pixel_values):
        self.num_calls += 1
        return face_embedding_output(self.projection(self.norm(self.pool(pixel_values)).flatten(1)))


@pytest.fixture
def model() -> PixelModel:
    return PixelModel().eval()


@pytest.fixture
def image_processor() -> FaceImageProcessor:
    return FaceImageProcessor()


@pytest.fixture(scope="session")
def orl_pairs() -> VerificationPairs:
    """All genuine pairs of four people's ten photographs each, 180, and as many impostor pairs."""
    return make_verification_pairs(split_identities(load_orl(), num_held_out=4, seed=0)[1], name="orl")
