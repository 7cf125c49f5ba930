"""Tests specific to MobileFaceNet; test_common.py tests what all families share."""

import pytest
import torch
from huggingface_hub.errors import StrictDataclassClassValidationError
from torch import nn

from hf_face import MobileFaceNetConfig, MobileFaceNetModel

FOAMLIU = {"stem": "separable", "hidden_act": "relu6", "projection_bias": True}
INSIGHTFACE_LARGE = {"embedding_size": 512, "width": 4, "depths": [2, 8, 12, 4]}


@pytest.mark.parametrize(
    "settings, parameters",
    [  # counted in the projects' own code; the paper says 0.99 million
        ({}, 1_003_136),
        ({"embedding_size": 512, "width": 2}, 2_059_520),
        (INSIGHTFACE_LARGE, 6_314_880),
        (FOAMLIU, 999_936),
    ],
)
def test_published_networks_have_their_number_of_parameters(settings, parameters):
    with torch.device("meta"):
        assert MobileFaceNetModel(MobileFaceNetConfig(**settings)).num_parameters() == parameters


def test_the_stem_has_64_groups_at_any_width():
    for width in (1, 2):
        grouped = MobileFaceNetModel(MobileFaceNetConfig(width=width)).stem.grouped.convolution
        assert grouped.groups == 64 and grouped.in_channels == 64 * width


def test_units_widen_as_the_paper_says():
    model = MobileFaceNetModel(MobileFaceNetConfig(depths=[1, 1, 1, 1], width=2))
    hidden = [[unit.layers.depthwise.convolution.groups for unit in stage] for stage in model.stages]
    assert hidden == [[128, 128], [256, 256], [512, 256]]
    assert [[unit.has_shortcut for unit in stage] for stage in model.stages] == [[False, True]] * 3


def test_slopes_start_as_pytorchs():
    model = MobileFaceNetModel(MobileFaceNetConfig(depths=[1, 0, 0, 0]))
    assert {value for m in model.modules() if isinstance(m, nn.PReLU) for value in m.weight.tolist()} == {0.25}


@torch.no_grad()
def test_activations():
    large = torch.full((1, 64, 2, 2), 9.0)
    paper, foamliu = (MobileFaceNetModel(MobileFaceNetConfig(**settings)).eval() for settings in ({}, FOAMLIU))
    assert isinstance(paper.stem.first.activation, nn.PReLU)
    assert foamliu.stem.first.activation(large).max() == 6
    # Its separable stem is the one place with a plain ReLU.
    assert foamliu.stem.depthwise.activation(large).max() == 9
    assert foamliu.stem.pointwise.activation(-large).max() == 0
    for model in (paper, foamliu):
        assert not hasattr(model.stages[0][0].layers.project, "activation")


@torch.no_grad()
def test_global_depthwise_convolution_covers_the_last_feature_map():
    model = MobileFaceNetModel(MobileFaceNetConfig(image_size=64, depths=[1, 0, 0, 0])).eval()
    assert model.neck.pool.convolution.kernel_size == (4, 4)
    assert model(torch.randn(1, 3, 64, 64)).pooler_output.shape == (1, 128)
    with pytest.raises(ValueError, match="takes crops of 64 x 64 pixels, found 112 x 112"):
        model(torch.randn(1, 3, 112, 112))


def test_stages_halve_and_round_up():
    model = MobileFaceNetModel(MobileFaceNetConfig(image_size=33, depths=[1, 0, 0, 0])).eval()
    assert model.neck.pool.convolution.kernel_size == (3, 3)
    assert model(torch.randn(1, 3, 33, 33)).pooler_output.shape == (1, 128)


@pytest.mark.parametrize("depths", [[1, 4, 6], [0, 4, 6, 2], [1, -1, 6, 2]])
def test_depths_are_checked(depths):
    with pytest.raises(StrictDataclassClassValidationError, match="stem's"):
        MobileFaceNetConfig(depths=depths)
