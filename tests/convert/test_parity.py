"""Converted checkpoints answer as their own project's code does. `pytest tests/convert -q -rP` prints the table."""

import copy
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
import torch
from transformers import AutoImageProcessor, AutoModel

from hf_face import FaceImageProcessor, FacePreTrainedModel, convert_checkpoint, export_checkpoint

TOLERANCE = 1e-4

CASES = {
    "arcface_iresnet18": ("arcface_torch", {}),
    "arcface_iresnet50": ("arcface_torch", {}),
    "arcface_mbf": ("arcface_torch", {}),
    "arcface_mbf_units": ("arcface_torch", {}),
    "arcface_vit_t": ("arcface_torch", {}),
    "transface_vit_s": ("transface", {}),
    "adaface_ir_18": ("adaface", {}),
    "adaface_ir_se_bottleneck": ("adaface", {}),
    "magface_iresnet18": ("magface", {}),
    "gwp_iresnet18": ("revisit_linearize", {"neck": "gwp"}),
    "gap_iresnet18": ("revisit_linearize", {"neck": "gap"}),
    "gwp_adaface_r18": ("revisit_linearize", {"neck": "gwp"}),
    "cvlface_vit": ("cvlface", {}),
    "mobilefacenet_foamliu": ("mobilefacenet", {}),
    "edgeface_xs_gamma_06": ("edgeface", {}),
    "facenet_inception_resnet_v1": ("facenet_pytorch", {}),
}
CLASSIFIER = {"logits.weight", "logits.bias"}  # of facenet-pytorch's training identities


@dataclass
class Converted:
    name: str
    source: str
    overrides: dict
    reference: Any  # of conftest.py
    model: FacePreTrainedModel
    image_processor: FaceImageProcessor


@pytest.fixture(scope="module", params=CASES)
def converted(request, load_reference) -> Converted:
    source, overrides = CASES[request.param]
    reference = load_reference(request.param)
    model, image_processor = convert_checkpoint(dict(reference.state_dict), source, **overrides)
    return Converted(request.param, source, overrides, reference, model, image_processor)


@torch.inference_mode()
def answer(model: FacePreTrainedModel, batch: torch.Tensor) -> dict[str, np.ndarray]:
    weighs_patches = getattr(model.config, "patch_weighting", False)
    output = model(batch, output_patch_weights=True) if weighs_patches else model(batch)
    arrays = {"output": output.pooler_output * output.norm, "normalized": output.pooler_output, "norm": output.norm}
    if weighs_patches:
        arrays |= {"patch_weight": output.patch_weights, "patch_entropy": output.patch_entropy}
    return {name: tensor.numpy() for name, tensor in arrays.items()}


def largest_difference(model: FacePreTrainedModel, reference) -> float:
    got = answer(model, reference.batch)
    compared = got.keys() & reference.arrays.keys()
    assert "output" in compared
    return max(np.abs(got[k] - reference.arrays[k]).max() / np.abs(reference.arrays[k]).max() for k in compared)


def test_answers_as_the_reference(converted):
    difference = largest_difference(converted.model, converted.reference)
    print(f"{converted.source:18} {converted.name:26} largest relative difference {difference:.1e}")
    assert difference <= TOLERANCE


def test_recognized(converted):
    model, image_processor = convert_checkpoint(dict(converted.reference.state_dict), **converted.overrides)
    assert model.config.to_diff_dict() == converted.model.config.to_diff_dict()
    assert image_processor.to_dict() == converted.image_processor.to_dict()


def test_round_trip_is_bit_exact(converted):
    exported = export_checkpoint(converted.model, converted.source)
    original = converted.reference.state_dict
    assert exported.keys() == original.keys() - CLASSIFIER
    for name, tensor in exported.items():
        assert original[name].dtype == tensor.dtype and torch.equal(original[name], tensor), name


@pytest.mark.parametrize("converted", ["gwp_iresnet18", "cvlface_vit", "mobilefacenet_foamliu"], indirect=True)
def test_answers_the_same_from_a_saved_folder(converted, tmp_path):
    converted.model.save_pretrained(tmp_path)
    converted.image_processor.save_pretrained(tmp_path)
    assert largest_difference(AutoModel.from_pretrained(tmp_path), converted.reference) <= TOLERANCE
    assert AutoImageProcessor.from_pretrained(tmp_path).to_dict() == converted.image_processor.to_dict()


def test_folded_batch_norms_answer_the_same(converted):
    if not hasattr(converted.model, "fuse"):
        pytest.skip("a timm model, whose batch norms timm knows")
    model = copy.deepcopy(converted.model).fuse()
    assert not any(isinstance(module, torch.nn.BatchNorm1d) for module in model.modules())
    assert largest_difference(model, converted.reference) <= TOLERANCE
