"""Tests specific to GhostFaceNet; test_common.py tests what all families share."""

import torch
from torch import nn

from hf_face import GhostFaceNetConfig, GhostFaceNetModel
from hf_face.models.modeling_ghostfacenet import GhostAttention


@torch.no_grad()
def test_attention_has_the_hard_sigmoid_of_keras_2():
    attention = GhostAttention(channels=4, squeezed=2)
    nn.init.zeros_(attention.excite.weight)
    attention.excite.bias.copy_(torch.tensor([9.0, -9.0, 0.0, 1.0]))
    gates = attention(torch.full((1, 4, 3, 5), 10.0))
    torch.testing.assert_close(gates, torch.tensor([10.0, 0.0, 5.0, 7.0])[None, :, None, None].expand_as(gates))


@torch.no_grad()
def test_a_stride_alone_calls_for_a_shortcut_of_its_own():
    lists = {"expansion_sizes": [8, 16], "squeeze_sizes": [0, 4], "kernel_sizes": [3, 3], "strides": [1, 2]}
    config = GhostFaceNetConfig(stem_size=8, hidden_sizes=[8, 8], **lists, head_size=16, image_size=20)
    model = GhostFaceNetModel(config).eval()
    assert [len(stage.shortcut) for stage in model.stages] == [0, 2]
    assert model(torch.randn(1, 3, 20, 20)).last_hidden_state.shape == (1, 8, 5, 5)
    biased = [name for name, m in model.named_modules() if isinstance(m, nn.Conv2d | nn.Linear) and m.bias is not None]
    assert biased == ["stages.1.attention.squeeze", "stages.1.attention.excite", "neck.projection.linear"]
