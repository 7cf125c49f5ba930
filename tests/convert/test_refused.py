"""Checkpoints that do not fit, or do not say enough: what is wrong with them, and what to pass."""

import pytest
import torch
from tiny_checkpoints import tiny_checkpoint

from hf_face import (
    convert_checkpoint,
)
from hf_face.convert.arcface_torch import ArcFaceTorch
from hf_face.convert.checkpoint import Checkpoint


def test_missing_leftover_and_misshapen_tensors_are_listed_by_the_checkpoints_names():
    checkpoint = tiny_checkpoint("magface", "magface")
    del checkpoint["features.module.bn2.bias"]
    checkpoint["features.module.layer1.0.extra"] = torch.zeros(1)
    checkpoint["features.module.prelu.weight"] = torch.zeros(5)
    with pytest.raises(ValueError, match="does not fit") as error:
        convert_checkpoint(checkpoint)
    assert "missing: features.module.bn2.bias" in str(error.value)
    assert "leftover: features.module.layer1.0.extra" in str(error.value)
    assert "misshaped: features.module.prelu.weight (5,) instead of (8,)" in str(error.value)


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"neck.extra.bias": torch.zeros(1)}, "the state dict does not fit .* leftover: neck.extra.bias."),
        ({"neck.norm.bias": None}, "the state dict does not fit .* missing: neck.norm.bias."),
        ({"neck.norm.num_batches_tracked": None}, None),
    ],
)
def test_no_source_reads_more_or_less_than_the_model_has(changed, message):
    class Careless(ArcFaceTorch):
        def read(self, checkpoint, **overrides):
            config, weights, centers = super().read(checkpoint, **overrides)
            weights = {name: tensor for name, tensor in (weights | changed).items() if tensor is not None}
            return config, weights, centers

    checkpoint = Checkpoint(tiny_checkpoint())
    if message is None:
        assert Careless().convert(checkpoint)[0].neck.norm.num_batches_tracked == 0
    else:
        with pytest.raises(ValueError, match=message):
            Careless().convert(checkpoint)


def test_what_the_architecture_is_read_off_is_named_when_missing():
    checkpoint = tiny_checkpoint()
    del checkpoint["layer2.0.conv2.weight"]
    with pytest.raises(ValueError, match=r"read from layer2\.0\.conv2\.weight, which is missing"):
        convert_checkpoint(checkpoint, "arcface_torch")


@pytest.mark.parametrize(
    "network, source, name, kept",
    [
        ("flatten", "arcface_torch", "layer1.0.conv2.weight", "layer"),
        ("adaface", "adaface", "model.body.0.res_layer.4.weight", "model.body"),
        ("vit", "arcface_torch", "blocks.0.mlp.fc1.weight", "blocks"),
    ],
)
def test_a_checkpoint_without_layers_is_told_so(network, source, name, kept):
    checkpoint = {key: t for key, t in tiny_checkpoint(network, source).items() if not key.startswith(kept)}
    with pytest.raises(ValueError, match=f"read from {name.removeprefix('model.')}, which is missing"):
        convert_checkpoint(checkpoint)


def test_a_shape_that_tells_nothing_is_named():
    with pytest.raises(ValueError, match=r"read from conv1\.weight; expected 4 dimensions, found shape \(8, 3\)"):
        convert_checkpoint({**tiny_checkpoint(), "conv1.weight": torch.zeros(8, 3)})


def test_counters_may_be_missing():
    checkpoint = {name: t for name, t in tiny_checkpoint().items() if not name.endswith("num_batches_tracked")}
    model, _ = convert_checkpoint(checkpoint)
    assert model.stem.norm.num_batches_tracked == 0


def test_pooling_is_asked_for():
    checkpoint = tiny_checkpoint("pooled", "revisit_linearize")
    with pytest.raises(ValueError, match=r"cannot infer the neck .*\. Pass neck='gwp' or neck='gap'; it was not given"):
        convert_checkpoint(checkpoint)
    with pytest.raises(ValueError, match="found neck='flatten'"):
        convert_checkpoint(checkpoint, neck="flatten")
    with pytest.raises(ValueError, match="Pass neck='gwp'"):
        convert_checkpoint(checkpoint, source="arcface_torch")
    assert convert_checkpoint(checkpoint, neck="gap")[0].config.neck == "gap"


def test_heads_and_crop_of_an_unknown_transformer_are_asked_for():
    checkpoint = tiny_checkpoint("cvlface_base", "cvlface")
    assert convert_checkpoint(checkpoint)[0].config.num_attention_heads == 16
    other = {f"net.{name}": tensor for name, tensor in tiny_checkpoint("vit").items()}
    with pytest.raises(ValueError, match="Pass `num_attention_heads=`"):
        convert_checkpoint(other)
    assert convert_checkpoint(other, num_attention_heads=4)[0].config.num_attention_heads == 4
    checkpoint["net.pos_embed"] = torch.zeros(1, 100, 16)
    with pytest.raises(ValueError, match=r"100 positions of patches of 9 pixels.*Pass `image_size=`"):
        convert_checkpoint(checkpoint)


def test_unknown_checkpoints_sources_and_settings_are_refused():
    with pytest.raises(ValueError, match=r"does not match any known project.*adaface"):
        convert_checkpoint({"encoder.weight": torch.zeros(2, 2)})
    with pytest.raises(ValueError, match=r"No checkpoint source is called 'arcface'\. Did you mean 'arcface_torch'"):
        convert_checkpoint(tiny_checkpoint(), "arcface")
    with pytest.raises(ValueError, match=r"not a checkpoint of adaface: expected model\.input_layer.*found bn1\.bias"):
        convert_checkpoint(tiny_checkpoint(), "adaface")
    with pytest.raises(ValueError, match="no setting droput"):
        convert_checkpoint(tiny_checkpoint(), droput=0.4)
