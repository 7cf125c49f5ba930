"""Weights that someone trained, on photographs that nobody trained on."""

import pytest

from hf_face import convert_checkpoint


@pytest.mark.slow  # embeds 1,129 photographs twice: 40 seconds of one core
def test_foamlius_mobilefacenet_recognizes_people(shared_data):
    from hf_face.data import load_verification_pairs
    from hf_face.evaluation import VerificationEvaluator

    model, image_processor = convert_checkpoint(shared_data / "mobilefacenet_foamliu.safetensors", "mobilefacenet")
    folder = shared_data / "lfw_112"
    pairs = load_verification_pairs(folder / "validation_pairs.csv", images=folder / "validation.parquet")
    metrics = VerificationEvaluator(pairs, flip="sum")(model, image_processor)
    print({name: value for name, value in metrics.items() if "accuracy" in name})
    assert metrics[f"{pairs.name}_accuracy"] == pytest.approx(0.9919, abs=0.001)
