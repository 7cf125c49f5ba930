"""Any timm model as a face backbone."""

import pytest
import timm
import torch

from hf_face import TimmFaceConfig, TimmFaceModel
from hf_face.models.modeling_timm_face import LowRankLinear

VIT = {"img_size": 32, "patch_size": 8, "embed_dim": 16, "depth": 2, "num_heads": 2}


def faces(size=32):
    return torch.randn(2, 3, size, size, generator=torch.Generator().manual_seed(1))


@torch.no_grad()
def embed(model, pixel_values):
    output = model(pixel_values)
    return output.pooler_output * output.norm


@pytest.mark.parametrize(
    ("architecture", "model_args"),
    [
        ("vit_tiny_patch16_224", VIT),
        ("vit_tiny_patch16_224", {**VIT, "class_token": False, "global_pool": "avg"}),
        ("resnet10t", {"channels": (8, 8, 16, 16)}),
    ],
)
def test_embedding_is_the_classifiers_output(architecture, model_args):
    config = TimmFaceConfig(architecture=architecture, model_args=model_args, embedding_size=24, image_size=32)
    torch.manual_seed(0)
    model = TimmFaceModel(config).eval()
    theirs = timm.create_model(architecture, num_classes=24, **model_args).eval()
    theirs.load_state_dict(model.model.state_dict())
    with torch.no_grad():
        torch.testing.assert_close(embed(model, faces()), theirs(faces()))


def test_initialization_is_timms():
    config = TimmFaceConfig(model_args=VIT, embedding_size=24, image_size=32)
    torch.manual_seed(0)
    ours = TimmFaceModel(config).model.state_dict()
    torch.manual_seed(0)
    theirs = timm.create_model(config.architecture, num_classes=24, **VIT).state_dict()
    assert all(torch.equal(ours[name], tensor) for name, tensor in theirs.items())


def test_halved_stride_doubles_the_resolution():
    config = {"architecture": "resnet10t", "model_args": {"channels": (8, 8, 16, 16)}, "embedding_size": 24}
    usual = TimmFaceModel(TimmFaceConfig(**config)).eval()
    finer = TimmFaceModel(TimmFaceConfig(**config, reduce_first_conv_stride=True)).eval()
    with torch.no_grad():
        assert usual(faces(64)).last_hidden_state.shape[-2:] == (2, 2)
        assert finer(faces(64)).last_hidden_state.shape[-2:] == (4, 4)
    with pytest.raises(ValueError, match=r"even stride; vit_\w+ has patch_embed.proj with stride \(9, 9\)"):
        TimmFaceModel(TimmFaceConfig(model_args={**VIT, "patch_size": 9}, reduce_first_conv_stride=True))


@pytest.mark.parametrize(("ratio", "rank"), [(0.1, 2), (0.4, 3), (0.99, 7)])
def test_the_rank_is_a_share_of_the_smaller_side(ratio, rank):
    """Rounded down, but two at least."""
    for layer in (torch.nn.Linear(8, 20), torch.nn.Linear(20, 8, bias=False)):
        lowered = LowRankLinear(layer, ratio)
        assert lowered.linear1.weight.shape == (rank, layer.in_features) and lowered.linear1.bias is None
        assert lowered.linear2.weight.shape == (layer.out_features, rank)
        assert (lowered.linear2.bias is None) == (layer.bias is None)


def test_errors_name_what_timm_does_not_have():
    with pytest.raises(ValueError, match=r"Did you mean vit_tiny_patch16_224( or \w+){2}\?"):
        TimmFaceModel(TimmFaceConfig(architecture="vit_tiny_patch16_24"))
    with pytest.raises(ValueError, match="does not accept model_args"):
        TimmFaceModel(TimmFaceConfig(model_args={"patch_sise": 8}))
    with pytest.raises(ValueError, match="has no model"):
        TimmFaceModel(TimmFaceConfig(architecture="hf-hub:somebody/something"))


def test_gradient_checkpointing_counts_the_batches_of_timms_norms_once():
    config = TimmFaceConfig(architecture="resnet10t", model_args={"channels": (8, 8, 16, 16)}, embedding_size=8)
    states = []
    for checkpointed in (False, True):
        torch.manual_seed(0)
        model = TimmFaceModel(config).train()
        if checkpointed:
            model.activation_checkpointing_enable()
            assert model.is_activation_checkpointing
        model(faces()).norm.sum().backward()
        states.append(model.state_dict())
    assert states[0]["model.bn1.num_batches_tracked"] == 1
    assert all(torch.equal(states[1][name], tensor) for name, tensor in states[0].items())


@pytest.mark.parametrize(
    ("architecture", "model_args"), [("dla34", {}), ("hrnet_w18_small", {}), ("convit_tiny", {"depth": 1})]
)
def test_architectures_without_gradient_checkpointing_say_so(architecture, model_args):
    with torch.device("meta"):
        model = TimmFaceModel(TimmFaceConfig(architecture=architecture, model_args=model_args))
    with pytest.raises(ValueError, match=f"{architecture} has no gradient checkpointing"):
        model.activation_checkpointing_enable()
    model.activation_checkpointing_disable()


@pytest.mark.parametrize(
    ("architecture", "model_args", "blocks"),
    [
        ("vit_tiny_patch16_224", VIT, {"Block"}),
        ("convnext_atto", {"depths": [1, 1, 1, 1], "dims": [8, 8, 8, 8]}, {"ConvNeXtBlock"}),
        ("swin_tiny_patch4_window7_224", {"img_size": 64, "window_size": 2}, {"SwinTransformerBlock"}),
        ("mobilenetv3_small_050", {}, set()),  # whose blocks are sequences of blocks
        ("resnet10t", {}, set()),
    ],
)
def test_blocks_are_kept_whole(architecture, model_args, blocks):
    with torch.device("meta"):
        model = TimmFaceModel(TimmFaceConfig(architecture=architecture, model_args=model_args, embedding_size=8))
    assert model._no_split_modules == blocks
