"""CVLface's vision transformers with keypoint relative position encoding (KP-RPE)."""

import numpy as np
import pytest
import torch
from parity import difference
from transformers import AutoModel

from hf_face import FaceRecognitionModel, ViTFaceConfig, ViTFaceModel, convert_checkpoint, export_checkpoint
from hf_face.convert import convert_to_folder
from hf_face.models.modeling_vit_face import distance_buckets


@pytest.fixture(scope="module")
def reference(load_reference):
    return load_reference("cvlface_vit_kprpe_tiny")


@pytest.fixture(scope="module")
def model(reference) -> ViTFaceModel:
    return convert_checkpoint(dict(reference.state_dict))[0]


@pytest.fixture(scope="module")
def keypoints(reference) -> torch.Tensor:
    return torch.from_numpy(reference.arrays["keypoints"])


@torch.inference_mode()
def answer(model, batch, keypoints):
    output = model(batch, keypoints=keypoints)
    return output.pooler_output * output.norm


def test_answers_as_the_reference(model, reference, keypoints):
    for name, chosen in {"output": keypoints[:2], "output_other_keypoints": keypoints[2:]}.items():
        found = difference(answer(model, reference.batch, chosen), reference.arrays[name])
        print(f"{'cvlface':18} {'vit_kprpe_tiny ' + name:26} largest relative difference {found:.1e}")
        assert found <= 1e-4


@torch.inference_mode()
def test_on_the_way(model, reference, keypoints):
    side = 14
    assert np.array_equal(distance_buckets(side, torch.device("cpu")), reference.arrays["bucket_index"])
    bias = next(iter(model.keypoint_bias(keypoints[:2])))[0]
    assert difference(bias, reference.arrays["relative_position_bias_block0"]) <= 1e-4
    tokens = model(reference.batch, keypoints=keypoints[:2], output_hidden_states=True).hidden_states[1][0]
    assert difference(tokens, reference.arrays["block0_output"]) <= 1e-4


def test_the_hub_wrappers_names(model, reference):
    wrapped, _ = convert_checkpoint({f"model.{name}": tensor for name, tensor in reference.state_dict.items()})
    assert wrapped.config.to_diff_dict() == model.config.to_diff_dict()
    assert (wrapped.config.num_attention_heads, wrapped.config.num_hidden_layers) == (4, 3)


def test_round_trip_is_bit_exact(model, reference):
    exported = export_checkpoint(model, "cvlface")
    assert exported.keys() == reference.state_dict.keys()
    assert all(torch.equal(exported[name], tensor) for name, tensor in reference.state_dict.items())
    with pytest.raises(ValueError, match="no names for"):
        export_checkpoint(model, "arcface_torch")


def test_a_saved_folder_answers_the_same(reference, keypoints, tmp_path):
    convert_to_folder(dict(reference.state_dict), tmp_path)
    loaded = AutoModel.from_pretrained(tmp_path)
    assert difference(answer(loaded, reference.batch, keypoints[:2]), reference.arrays["output"]) <= 1e-4
    eager = AutoModel.from_pretrained(tmp_path, attn_implementation="eager")
    assert difference(answer(eager, reference.batch, keypoints[:2]), reference.arrays["output"]) <= 1e-4


def test_without_keypoints_it_says_where_to_get_them(model, reference, keypoints):
    with pytest.raises(ValueError, match=r"keypoints of shape \(2, 5, 2\).*found none.*FaceAlignerModel"):
        model(reference.batch)
    with pytest.raises(ValueError, match=r"found \(4, 5, 2\)"):
        model(reference.batch, keypoints=keypoints)
    plain = ViTFaceModel(ViTFaceConfig(hidden_size=16, num_hidden_layers=1, num_attention_heads=2, mask_ratio=0.0))
    with pytest.raises(ValueError, match='position="keypoint_relative"'):
        plain(reference.batch, keypoints=keypoints[:2])


def test_trains_with_keypoints(reference, keypoints):
    config = ViTFaceConfig(
        image_size=32,
        patch_size=8,
        hidden_size=16,
        intermediate_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        position="keypoint_relative",
        mask_ratio=0.0,
        embedding_size=8,
    )
    model = FaceRecognitionModel.from_backbone(ViTFaceModel(config), num_identities=2)
    model.backbone.gradient_checkpointing_enable()
    loss = model(torch.randn(4, 3, 32, 32), labels=torch.tensor([0, 1, 0, 1]), keypoints=keypoints).loss
    loss.backward()
    assert model.backbone.keypoint_bias.linear.weight.grad.abs().sum() > 0
