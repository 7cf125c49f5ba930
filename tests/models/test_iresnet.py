"""Tests specific to the iresnet; test_common.py tests what all families share."""

import math

import pytest
import torch
from huggingface_hub.errors import StrictDataclassClassValidationError
from torch import nn
from transformers import AutoModel

from hf_face import IResNetConfig, IResNetModel

TINY = {"depths": [1, 2], "hidden_sizes": [16, 32], "stem_size": 8, "embedding_size": 24, "image_size": 32}
ADAFACE = {"shortcut": "subsample", "embedding_norm": "plain"}
BOTTLENECK = {**ADAFACE, "layer_type": "bottleneck", "hidden_sizes": [256, 512, 1024, 2048]}


@pytest.mark.parametrize(
    "settings, parameters",
    [  # counted in the projects' own code
        ({"depths": [2, 2, 2, 2]}, 24_025_600),
        ({"depths": [3, 4, 6, 3]}, 34_139_328),
        ({}, 43_590_848),
        ({"depths": [3, 13, 30, 3]}, 65_156_160),
        ({"depths": [6, 26, 60, 6]}, 118_833_920),
        ({"depths": [2, 2, 2, 2], **ADAFACE}, 24_020_352),
        ({"depths": [3, 13, 30, 3], **ADAFACE}, 65_150_912),
        ({**ADAFACE, "squeeze_excitation": True}, 43_808_320),
        ({"depths": [3, 8, 36, 3], **BOTTLENECK}, 109_636_736),
        ({"depths": [3, 24, 36, 3], **BOTTLENECK}, 114_138_240),
        ({"depths": [3, 8, 36, 3], **BOTTLENECK, "squeeze_excitation": True}, 116_214_912),
    ],
)
def test_published_networks_have_their_number_of_parameters(settings, parameters):
    with torch.device("meta"):
        tensors = IResNetModel(IResNetConfig(**settings)).state_dict()
    assert sum(tensor.numel() for name, tensor in tensors.items() if name.endswith(("weight", "bias"))) == parameters


@torch.no_grad()
def test_gaussian_weighted_pooling():
    model = IResNetModel(IResNetConfig(**{**TINY, "image_size": 28}, neck="gwp", gwp_sigma=2.0)).eval()
    feature_map = torch.randn(1, 32, 7, 7)
    weights = [[math.exp(-((x - 3) ** 2 + (y - 3) ** 2) / (2 * 2.0**2)) for x in range(7)] for y in range(7)]
    window = torch.tensor(weights) / sum(map(sum, weights))
    expected = (model.neck.norm(feature_map) * window).sum((2, 3)) / 49
    pooled = []
    model.neck.projection.register_forward_pre_hook(lambda _, inputs: pooled.append(inputs[0]))
    model.neck(feature_map)
    torch.testing.assert_close(pooled[0], expected)


@torch.no_grad()
def test_the_gaussian_survives_loading(tmp_path):
    model = IResNetModel(IResNetConfig(**TINY, neck="gwp")).eval()
    model.save_pretrained(tmp_path)
    faces = torch.randn(2, 3, 32, 32)
    assert torch.equal(AutoModel.from_pretrained(tmp_path)(faces).pooler_output, model(faces).pooler_output)


@torch.no_grad()
def test_subsampling_shortcut_takes_every_other_pixel():
    unit = IResNetModel(IResNetConfig(**{**TINY, "stem_size": 16}, shortcut="subsample")).stages[0][0]
    x = torch.randn(1, 16, 8, 8)
    assert torch.equal(unit.shortcut(x), x[..., ::2, ::2])


def test_the_stride_is_on_the_last_convolution():
    for layer_type, last in (("basic", "convolution2"), ("bottleneck", "convolution3")):
        unit = IResNetModel(IResNetConfig(**TINY, layer_type=layer_type)).stages[0][0]
        strides = {name: m.stride[0] for name, m in unit.residual.named_children() if isinstance(m, nn.Conv2d)}
        assert strides.pop(last) == 2
        assert set(strides.values()) == {1}


def test_every_batch_norm_has_the_epsilon_of_the_config():
    model = IResNetModel(IResNetConfig(**TINY, batch_norm_eps=2e-5))
    assert {m.eps for m in model.modules() if isinstance(m, nn.BatchNorm2d | nn.BatchNorm1d)} == {2e-5}


@pytest.mark.parametrize(
    "embedding_norm, learned", [("bias", {"bias"}), ("affine", {"weight", "bias"}), ("plain", set())]
)
def test_what_the_last_batch_norm_learns(embedding_norm, learned, tmp_path):
    IResNetModel(IResNetConfig(**TINY, embedding_norm=embedding_norm)).save_pretrained(tmp_path)
    loaded = AutoModel.from_pretrained(tmp_path)
    assert {name for name, p in loaded.neck.projection.norm.named_parameters() if p.requires_grad} == learned


def test_new_weights():
    model = IResNetModel(IResNetConfig(**TINY))
    assert {value for m in model.modules() if isinstance(m, nn.PReLU) for value in m.weight.tolist()} == {0.25}
    linear = model.neck.projection.linear
    bound = linear.in_features**-0.5  # as PyTorch's linear layers
    assert 0.99 * bound < linear.weight.abs().max() <= bound and not linear.bias.any()


def test_dropout_is_for_training():
    model = IResNetModel(IResNetConfig(**TINY, dropout=0.5))
    zeros = []
    model.neck.projection.register_forward_pre_hook(lambda _, inputs: zeros.append((inputs[0] == 0).float().mean()))
    faces = torch.randn(2, 3, 32, 32)
    model.train()(faces)
    model.eval()(faces)
    assert 0.4 < zeros[0] < 0.6
    assert zeros[1] == 0


@torch.no_grad()
def test_crops_of_another_size():
    flattening, pooling = (IResNetModel(IResNetConfig(**TINY, neck=neck)).eval() for neck in ("flatten", "gap"))
    with pytest.raises(ValueError, match="takes crops of 32 x 32 pixels, found 40 x 48"):
        flattening(torch.randn(1, 3, 40, 48))
    assert pooling(torch.randn(1, 3, 40, 48)).pooler_output.shape == (1, 24)


@torch.no_grad()
def test_hidden_states_are_the_stem_and_the_stages():
    output = IResNetModel(IResNetConfig(**TINY)).eval()(torch.randn(1, 3, 32, 32), output_hidden_states=True)
    assert [tuple(state.shape[1:]) for state in output.hidden_states] == [(8, 32, 32), (16, 16, 16), (32, 8, 8)]
    assert output.last_hidden_state is output.hidden_states[-1]


def test_folding_takes_the_statistics_of_inference():
    with pytest.raises(ValueError, match=r"call model\.eval\(\) first"):
        IResNetModel(IResNetConfig(**TINY)).train().fuse()


@pytest.mark.parametrize("wrong", [{"depths": [1, 2, 3]}, {"depths": [1, 0]}, {"depths": [], "hidden_sizes": []}])
def test_stages_are_checked(wrong):
    with pytest.raises(StrictDataclassClassValidationError, match="one positive number for each stage"):
        IResNetConfig(**{**TINY, **wrong})
