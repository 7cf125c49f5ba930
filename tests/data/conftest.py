"""Images that several files of tests augment."""

import pytest
import torch
from torch import Tensor

from hf_face.data import FaceCollator
from hf_face.data.augmentation.draws import uniform


@pytest.fixture(scope="module")
def faces(orl) -> Tensor:
    """Eight colored faces, uint8 (8, 3, 112, 112)."""
    gray = FaceCollator(112)([orl[i] for i in range(0, 400, 50)])["pixel_values"]
    tints = uniform(8, 3, 1, 1, low=0.4, generator=torch.Generator().manual_seed(0))
    return (gray * tints).to(torch.uint8)
