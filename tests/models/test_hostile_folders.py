"""A model's folder from a stranger opens no other file, contacts nobody and runs nothing."""

import json
import os
import pickle
import sys

import pytest
import torch
from safetensors.torch import save_file
from transformers import AutoConfig, AutoModel

from hf_face import FoundationFaceModel, TimmFaceModel
from hf_face.models.modeling_timm_face import architecture_arguments

events: list[tuple[str, str]] = []
watching = False


def watch(event: str, arguments: tuple) -> None:
    if watching and (event in ("open", "os.system", "subprocess.Popen") or event.startswith("socket.")):
        events.append((event, str(arguments[0] if event == "open" else arguments)))


sys.addaudithook(watch)  # cannot be removed


class Bait:
    """What unpickles it creates a file."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)


@pytest.fixture
def bait(tmp_path):
    """A pickle beside the folder; fails the test if it was opened or ran, or if anything was asked of the network."""
    global watching
    path = tmp_path / "bait" / "pytorch_model.bin"
    path.parent.mkdir()
    path.write_bytes(pickle.dumps(Bait(tmp_path / "ran")))
    (path.parent / "config.json").write_text(json.dumps({"architecture": "resnet18", "pretrained_cfg": {}}))
    events.clear()
    watching = True
    yield path
    watching = False
    assert not (tmp_path / "ran").exists()
    assert not [event for event in events if event[0] != "open" or str(path.parent) in event[1]]


def write(folder, **config):
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(config))
    save_file({}, folder / "model.safetensors", metadata={"format": "pt"})
    return folder


@pytest.mark.parametrize("name", ["timm_face", "timm's own"])
@pytest.mark.parametrize(
    "model_args",
    [
        {"checkpoint_path": "BAIT"},
        {"pretrained": True},
        {"pretrained": True, "pretrained_cfg": {"file": "BAIT"}},
        {"pretrained_cfg_overlay": {"file": "BAIT"}},
        {"pretrained_cfg": {"hf_hub_id": "somebody/evil"}},
        {"pretrained_strict": False},
        {"cache_dir": "BAIT"},
        {"features_only": True},
        {"feature_cfg": {}},
        {"pruned": True},
        {"scriptable": True},
    ],
    ids=str,
)
def test_timm_gets_only_an_architectures_own_arguments(bait, tmp_path, name, model_args):
    model_args = json.loads(json.dumps(model_args).replace("BAIT", str(bait)))
    config = {"architecture": "resnet10t", "model_args": model_args}
    config |= {
        "timm_face": {"model_type": "timm_face"},
        "timm's own": {"num_classes": 8, "pretrained_cfg": {"input_size": [3, 32, 32]}},
    }[name]
    folder = write(tmp_path / "model", **config)
    with pytest.raises(ValueError, match=f"resnet10t does not accept model_args .*{next(iter(model_args))}"):
        TimmFaceModel.from_pretrained(folder)


@pytest.mark.parametrize("architecture", ["hf-hub:somebody/evil", "local-dir:{}", "hf_hub:somebody/evil.tag", "{}"])
def test_an_architecture_is_one_of_timms(bait, tmp_path, architecture):
    architecture = architecture.format(bait.parent)
    with pytest.raises(ValueError, match="has no model"):
        AutoModel.from_pretrained(write(tmp_path / "model", model_type="timm_face", architecture=architecture))


WRAPPED = {"model_type": "timm_wrapper", "architecture": "local-dir:BAIT", "model_args": {"checkpoint_path": "BAIT"}}
BACKBONES = {
    "a name": ("somebody/evil", "names its backbone_config"),
    "a folder": ("BAIT", "names its backbone_config"),
    "timm_wrapper": (WRAPPED, "Use `TimmFaceConfig`"),
    "timm_backbone": ({"model_type": "timm_backbone", "backbone": "hf-hub:somebody/evil"}, "Use `TimmFaceConfig`"),
    "a nested timm_wrapper": ({"model_type": "dpt", "backbone_config": WRAPPED}, "made of others"),
    "a nested name": ({"model_type": "dpt", "backbone": "somebody/evil"}, "made of others"),
    "a name in several": ({"model_type": "detr", "backbone": "a/b", "use_pretrained_backbone": True}, "made of others"),
    "of several towers": ({"model_type": "clip", "vision_config": {"hidden_size": 8}}, "made of others"),
    "one of ours": ({"model_type": "foundation_face", "backbone_config": "somebody/evil"}, "made of others"),
}


@pytest.mark.parametrize("kind", BACKBONES)
@pytest.mark.parametrize("inside", ["", "face_recognition"])
def test_a_backbone_is_described_in_the_file_itself(bait, tmp_path, kind, inside):
    backbone, message = BACKBONES[kind]
    backbone = json.loads(json.dumps(backbone).replace("BAIT", str(bait.parent)))
    config = {"model_type": "foundation_face", "backbone_config": backbone}
    if inside:
        config = {"model_type": inside, "backbone_config": config}
    folder = write(tmp_path / "model", **config)
    for load in (AutoConfig, AutoModel) if inside else (AutoConfig, AutoModel, FoundationFaceModel):
        with pytest.raises(ValueError, match=message):
            load.from_pretrained(folder)


@pytest.mark.parametrize(
    "backbone", [WRAPPED, {"model_type": "dinov2"}, {"model_type": "unheard_of"}, {"model_type": 3}]
)
def test_a_training_checkpoint_holds_a_face_backbone(bait, tmp_path, backbone):
    folder = write(tmp_path / "model", model_type="face_recognition", backbone_config=backbone)
    with pytest.raises(ValueError, match="not a family of face backbones"):
        AutoModel.from_pretrained(folder)


@pytest.mark.parametrize("family", ["iresnet", "foundation_face", "face_recognition"])
@pytest.mark.parametrize("attention", ["somebody/kernel", "somebody/kernel:attend", {"": "somebody/kernel"}])
def test_a_configuration_brings_no_kernel(bait, tmp_path, family, attention):
    folder = write(tmp_path / "model", model_type=family, attn_implementation=attention)
    with pytest.raises(ValueError, match="asks for attn_implementation="):
        AutoModel.from_pretrained(folder)


def test_private_settings_of_a_file_are_ignored(bait, tmp_path):
    private = {
        "_attn_implementation_internal": "somebody/kernel",
        "_auto_class": "Evil",
        "_name_or_path": "somebody/evil",
    }
    config = AutoConfig.from_pretrained(write(tmp_path / "model", model_type="iresnet", **private))
    assert (config._attn_implementation, config._auto_class) == (None, "AutoConfig")


@pytest.mark.parametrize(
    ("architecture", "own"),
    [
        (
            "vit_tiny_patch16_224",
            {"img_size", "patch_size", "embed_dim", "depth", "num_heads", "class_token", "reg_tokens"},
        ),
        ("convnext_atto", {"depths", "dims", "patch_size", "drop_path_rate"}),
        ("resnet10t", {"channels", "layers", "stem_width", "avg_down", "act_layer"}),
        ("mobilenetv3_small_050", {"bn_eps", "drop_rate", "fix_stem"}),
        ("swin_tiny_patch4_window7_224", {"img_size", "window_size"}),
        ("deit_tiny_patch16_224", {"img_size", "global_pool"}),
    ],
)
def test_every_argument_of_the_architecture_is_allowed(architecture, own):
    assert own <= architecture_arguments(architecture)


def test_the_watch_sees_what_an_open_door_lets_in(bait):
    with pytest.raises(pickle.UnpicklingError):
        torch.load(bait, weights_only=True)
    assert ("open", str(bait)) in events
    events.clear()
