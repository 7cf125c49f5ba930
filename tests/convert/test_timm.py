"""timm's folders and state dicts, and timm-face's training checkpoints."""

import json

import pytest
import timm
import torch

from hf_face import TimmFaceConfig, TimmFaceModel, convert_checkpoint, export_checkpoint

VIT_TINY = {"architecture": "vit_tiny_patch16_224", "model_args": {"img_size": 112, "patch_size": 8}}
CONVNEXT = {"architecture": "convnext_atto", "model_args": {"patch_size": 2, "depths": [1, 1, 1, 1]}}
FACES = torch.randn(2, 3, 96, 96)


def embed(model, pixel_values):
    with torch.no_grad():
        output = model(pixel_values)
    return output.pooler_output * output.norm


def largest_difference(model, case):
    expected = torch.from_numpy(case.arrays["output"])
    return ((embed(model, case.batch) - expected).abs().max() / expected.abs().max()).item()


def report(source, name, difference):
    print(f"{source:18} {name:26} largest relative difference {difference:.1e}")


@pytest.fixture
def training_checkpoint(load_reference):
    """The file of timm-face's train.py: what it averaged, and what it trained in a distributed run."""
    case = load_reference("timm_face_checkpoint_vit_tiny")
    averaged = case.state_dict
    trained = {f"module.{name}": tensor + 1 for name, tensor in averaged.items()}
    return {"step": 10, "model": trained, "ema": averaged, "optim": {"state": {}, "param_groups": []}}, case


def test_state_dict_gives_the_reference_output(load_reference):
    case = load_reference("timm_face_vit_tiny")
    tensors = case.state_dict
    model, processor = convert_checkpoint(tensors, "auto", **VIT_TINY)
    difference = largest_difference(model, case)
    report("timm", "timm_face_vit_tiny", difference)
    assert difference <= 1e-4
    assert (processor.size["height"], processor.channel_order, tuple(processor.image_mean)) == (112, "rgb", (0.5,) * 3)
    exported = export_checkpoint(model, "timm")
    assert exported.keys() == tensors.keys() and all(torch.equal(exported[k], t) for k, t in tensors.items())


def test_training_checkpoint_gives_the_averaged_weights(training_checkpoint, tmp_path):
    checkpoint, case = training_checkpoint
    torch.save(checkpoint, tmp_path / "step_10.pth")
    model, _ = convert_checkpoint(tmp_path / "step_10.pth", "auto", keep_class_centers=True, **VIT_TINY)
    difference = largest_difference(model, case)
    report("timm_face", "timm_face_checkpoint_vit_tiny", difference)
    assert difference <= 1e-4
    with torch.no_grad():
        normalized = model(case.batch).pooler_output
    torch.testing.assert_close(normalized, torch.from_numpy(case.arrays["normalized"]), rtol=0, atol=1e-5)
    assert torch.equal(model.class_centers, checkpoint["ema"]["weight"])
    exported = export_checkpoint(model, "timm_face", tmp_path / "exported.pth")
    assert exported.keys() == checkpoint["ema"].keys()
    assert all(torch.equal(exported[k], t) for k, t in checkpoint["ema"].items())
    assert largest_difference(convert_checkpoint(tmp_path / "exported.pth", "auto", **VIT_TINY)[0], case) <= 1e-4
    del model.class_centers
    assert "weight" not in export_checkpoint(model, "timm_face", tmp_path / "exported.pth")
    assert largest_difference(convert_checkpoint(tmp_path / "exported.pth", "auto", **VIT_TINY)[0], case) <= 1e-4


def test_without_average_the_trained_weights_are_taken(training_checkpoint):
    checkpoint, case = training_checkpoint
    del checkpoint["ema"]
    checkpoint["model"] = {name: tensor - 1 for name, tensor in checkpoint["model"].items()}
    checkpoint["model"] |= {"module.loss.norm_mean": torch.tensor(20.0), "module.loss.norm_std": torch.tensor(100.0)}
    assert largest_difference(convert_checkpoint(checkpoint, "timm_face", **VIT_TINY)[0], case) <= 1e-3


@pytest.mark.parametrize("architecture", ["resnet10t", "levit_128s"])  # whose classifiers are fc and head.linear
def test_naming_the_architecture_says_that_it_is_timms(architecture):
    tensors = timm.create_model(architecture, num_classes=24).state_dict()
    with pytest.raises(ValueError, match="does not match any known project"):
        convert_checkpoint(tensors)
    model, _ = convert_checkpoint(tensors, architecture=architecture)
    assert (model.config.architecture, model.config.embedding_size) == (architecture, 24)


def test_halved_stride_is_timm_faces_alone():
    stride = {"architecture": "resnet10t", "model_args": {"channels": (8, 8, 16, 16)}, "reduce_first_conv_stride": True}
    model = TimmFaceModel(TimmFaceConfig(**stride, embedding_size=24)).eval()
    with pytest.raises(ValueError, match=r"timm's format cannot express reduce_first_conv_stride"):
        export_checkpoint(model, "timm")
    back, _ = convert_checkpoint(export_checkpoint(model, "timm_face"), "timm_face", **stride)
    torch.testing.assert_close(embed(back, FACES), embed(model, FACES))


def save_timm_folder(folder, mean=(0.5, 0.5, 0.5)):
    """A folder as timm itself publishes a model."""
    torch.manual_seed(0)
    model = timm.create_model(CONVNEXT["architecture"], num_classes=24, **CONVNEXT["model_args"]).eval()
    own = {"input_size": (3, 96, 96), "mean": mean, "std": (0.25, 0.25, 0.25)}
    timm.models.save_for_hf(model, folder, {"pretrained_cfg": {**model.pretrained_cfg, **own}}, CONVNEXT["model_args"])
    return model


def test_folder_of_timm_says_all_that_is_needed(tmp_path):
    theirs = save_timm_folder(tmp_path)
    model, processor = convert_checkpoint(tmp_path)
    with torch.no_grad():
        torch.testing.assert_close(embed(model, FACES), theirs(FACES))
    model_args = {"global_pool": "avg"} | model.config.model_args  # timm before 1.0.31 does not say how it pools
    assert model_args == {**CONVNEXT["model_args"], "global_pool": "avg"}
    assert (model.config.embedding_size, model.config.image_size) == (24, 96)
    assert (processor.size["height"], tuple(processor.image_std)) == (96, (0.25, 0.25, 0.25))
    assert tuple(convert_checkpoint(tmp_path, image_mean=(0.1, 0.2, 0.3))[1].image_mean) == (0.1, 0.2, 0.3)


def test_folder_of_timm_loads_with_from_pretrained(tmp_path):
    theirs = save_timm_folder(tmp_path / "timm")
    model, info = TimmFaceModel.from_pretrained(tmp_path / "timm", output_loading_info=True)
    assert not any(info.values())
    model.save_pretrained(tmp_path / "ours")
    for ours in (model, TimmFaceModel.from_pretrained(tmp_path / "ours")):
        with torch.no_grad():
            torch.testing.assert_close(embed(ours, FACES), theirs(FACES))
    assert "pretrained_cfg" not in json.loads((tmp_path / "ours" / "config.json").read_text())


def test_older_config_of_timm_is_flat(tmp_path):
    theirs = save_timm_folder(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    flat = {**config.pop("pretrained_cfg"), **config}
    (tmp_path / "config.json").write_text(json.dumps(flat))
    converted, processor = convert_checkpoint(tmp_path)
    assert tuple(processor.image_std) == (0.25, 0.25, 0.25)
    for ours in (converted, TimmFaceModel.from_pretrained(tmp_path)):
        with torch.no_grad():
            torch.testing.assert_close(embed(ours, FACES), theirs(FACES))


def test_epsilon_and_activation_are_timms(load_reference):
    model, _ = convert_checkpoint(load_reference("timm_face_vit_tiny").state_dict, **VIT_TINY)
    assert {m.eps for m in model.modules() if isinstance(m, torch.nn.LayerNorm)} == {1e-6}
    one = torch.ones(1)
    assert model.model.blocks[0].mlp.act(one).item() == pytest.approx(0.8413447)  # 0.8411920 by the tanh formula


def test_asks_for_what_a_state_dict_does_not_tell():
    model = timm.create_model(CONVNEXT["architecture"], num_classes=24, **CONVNEXT["model_args"]).eval()
    tensors = model.state_dict()
    with pytest.raises(ValueError, match=r"Pass `architecture=`.*model_args"):
        convert_checkpoint(tensors, "timm")
    with pytest.raises(ValueError, match="Did you mean convnext_atto"):
        convert_checkpoint(tensors, "timm", architecture="convnext_ato")
    with pytest.raises(ValueError, match=r"misshaped: stem\.0\.weight \(40, 3, 2, 2\) instead of \(40, 3, 4, 4\)"):
        convert_checkpoint(tensors, "timm", **{**CONVNEXT, "model_args": {"depths": [1, 1, 1, 1]}})
    converted, processor = convert_checkpoint(tensors, "timm", **CONVNEXT)
    assert (converted.config.embedding_size, processor.size["height"]) == (24, 112)
    with torch.no_grad():
        torch.testing.assert_close(embed(converted, FACES), model(FACES))
