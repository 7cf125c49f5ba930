"""What all face models do with raw embeddings, and how their files are imported."""

import importlib.util

import pytest
import torch

from hf_face.models import modeling_timm_face, modeling_vit_face
from hf_face.models.modeling_face import face_embedding_output


def test_short_embeddings_have_a_direction_and_zero_has_none():
    raw = torch.tensor([[3e-5, 4e-5], [0.0, 0.0]], requires_grad=True)
    output = face_embedding_output(raw)
    torch.testing.assert_close(output.pooler_output, torch.tensor([[0.6, 0.8], [0.0, 0.0]]))
    torch.testing.assert_close(output.norm, torch.tensor([[5e-5], [0.0]]))
    output.pooler_output[:, 0].sum().backward()
    torch.testing.assert_close(raw.grad, torch.tensor([[0.64, -0.48], [0.0, 0.0]]) / torch.tensor([[5e-5], [1.0]]))


@pytest.mark.parametrize("module", [modeling_vit_face, modeling_timm_face])
def test_a_folders_copy_may_be_imported_beside_the_package(module):
    """Both say how former names of weights are read."""
    spec = importlib.util.spec_from_file_location("hf_face.models.copied", module.__file__)
    spec.loader.exec_module(importlib.util.module_from_spec(spec))
