"""Images and files that several files of tests share."""

import pytest
import torch
from torch import Tensor

from hf_face.data import FaceCollator, select_identities, write_recordio
from hf_face.data.augmentation.draws import uniform


@pytest.fixture(scope="module")
def faces(orl) -> Tensor:
    """Eight colored faces, uint8 (8, 3, 112, 112)."""
    gray = FaceCollator(112)([orl[i] for i in range(0, 400, 50)])["pixel_values"]
    tints = uniform(8, 3, 1, 1, low=0.4, generator=torch.Generator().manual_seed(0))
    return (gray * tints).to(torch.uint8)


@pytest.fixture
def small(orl):
    """Five people with four images each, in mixed order."""
    return select_identities(orl, 5, 4).shuffle(seed=0)


@pytest.fixture
def written(small, tmp_path):
    write_recordio(small, tmp_path / "rec")
    return tmp_path / "rec"
