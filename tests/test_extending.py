"""Everything people add is one class in a module of their own, which a recipe names under `plugins:`."""

import json
from pathlib import Path

import pytest
import torch
import yaml
from huggingface_hub import ModelCard
from safetensors.torch import load_file, save_file
from transformers import AutoModel

from hf_face import convert_checkpoint, export_checkpoint
from hf_face.cli.train import main

pytestmark = pytest.mark.usefixtures("registries_as_before")

RECIPE = {
    "plugins": ["face_extension"],
    "held_out_identities": 10,
    "eval_data": [{"our_protocol": {"data": "orl", "num_images": 30}}],
    "backbone": {"model_type": "our_family", "embedding_size": 16, "image_size": 32, "grid": 5},
    "margin": "our_margin",
    "margin_kwargs": {"m": 0.1},
    "method": {"two_passes": {"weight": 0.5}},
    "augmentation": ["flip", {"our_augmentation": {"p": 0.25}}],
    "max_steps": 4,
    "per_device_train_batch_size": 32,
    "learning_rate": 0.01,
    "logging_steps": 1,
    "save_steps": 2,
    "report_to": "none",
    "disable_tqdm": True,
    "use_cpu": True,
    "card": {"license": "mit", "training_data": [{"name": "ORL faces", "license": "free for research"}]},
}


@pytest.fixture
def extension(monkeypatch):
    """The module, importable as an installed package is."""
    monkeypatch.syspath_prepend(str(Path(__file__).parent / "extension"))
    import face_extension

    return face_extension


def run(tmp_path, **changes) -> Path:
    """The output folder of a recipe, trained."""
    recipe = {**RECIPE, "output_dir": str(tmp_path / "run"), **changes}
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(recipe))
    main([str(tmp_path / "recipe.yaml")])
    return tmp_path / "run"


def logged(folder: Path, step: int) -> list[dict]:
    state = json.loads((folder / f"checkpoint-{step}" / "trainer_state.json").read_text())
    return [entry for entry in state["log_history"] if "loss" in entry]


def test_a_recipe_trains_evaluates_and_publishes_with_one_of_everything(extension, hub, tmp_path):
    folder = run(tmp_path, push_to_hub=True, hub_model_id="org/extended", hub_strategy="end")

    steps = logged(folder, 4)
    for step in steps:
        assert step["loss"] == pytest.approx(step["margin_softmax"] + step["colors"], rel=1e-4)
        assert step["norm_of_first_pass"] > 0
    metrics = json.loads((folder / "eval_results.json").read_text())
    assert -1 <= metrics["eval_neighbors_similarity"] <= 1 and 0 <= metrics["eval_orl_accuracy"] <= 1
    assert (folder / "figures" / "neighbors_similarities.png").stat().st_size > 1000
    assert json.loads((folder / "config.json").read_text())["margin"] == {
        "name": "our_margin", "m": 0.1, "scale": 64.0, "sub_centers": 1,
    }  # fmt: skip

    card = ModelCard.load("org/extended").text
    for key in ("ourmargin", "ourfamily", "ourprotocol", "twopasses", "ouraugmentation"):
        assert f"@misc{{{key}," in card, key
    assert "| method | two_passes |" in card and "neighbors" in card
    published = AutoModel.from_pretrained("org/extended")
    assert type(published) is extension.OurModel and published.config.grid == 5
    for name, weight in load_file(folder / "model.safetensors").items():
        assert torch.equal(published.state_dict()[name], weight), name


def test_modules_of_a_method_are_trained_checkpointed_and_left_out_of_the_model(extension, tmp_path):
    straight = run(tmp_path)
    assert not any("projection" in name for name in load_file(straight / "model.safetensors"))
    projections = [
        load_file(straight / f"checkpoint-{step}" / "model.safetensors")["method.projection.weight"] for step in (2, 4)
    ]
    assert not torch.equal(*projections)
    resumed = run(tmp_path, output_dir=str(tmp_path / "resumed"), resume_from_checkpoint=str(straight / "checkpoint-2"))
    assert logged(resumed, 4) == logged(straight, 4)


def test_a_loss_without_class_centers_leaves_the_head_alone(extension, tmp_path):
    folder = run(tmp_path, method={"our_triplets": {"margin": 0.5}})
    heads = [load_file(folder / f"checkpoint-{step}" / "model.safetensors")["head.weight"] for step in (2, 4)]
    assert torch.equal(*heads)
    losses = [step["loss"] for step in logged(folder, 4)]
    assert len(set(losses)) == 4 and "triplets" not in logged(folder, 4)[0], "one loss is the loss"


def test_a_source_of_ones_own_converts_both_ways_and_its_class_centers_start_a_training(extension, tmp_path):
    torch.manual_seed(0)
    theirs = {"fc.weight": torch.randn(16, 75), "fc.bias": torch.randn(16), "proxies": torch.randn(30, 16)}
    save_file(theirs, tmp_path / "theirs.safetensors")
    model, _ = convert_checkpoint(tmp_path / "theirs.safetensors", image_size=32, keep_class_centers=True)
    assert type(model) is extension.OurModel and (model.config.grid, model.config.embedding_size) == (5, 16)
    assert torch.equal(model.linear.weight, theirs["fc.weight"])
    back = export_checkpoint(model, "our_project")
    assert back.keys() == {"fc.weight", "fc.bias"} and torch.equal(back["fc.bias"], theirs["fc.bias"])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"plugins": ["nowhere_extension"]}, "The plugin 'nowhere_extension' cannot be imported"),
        ({"margin": "our_magrin"}, "Did you mean 'our_margin'"),
        ({"method": {"two_pases": {}}}, "Did you mean 'two_passes'"),
        ({"method": {"two_passes": {"wait": 1}}}, "its options are: weight"),
        ({"augmentation": ["our_augmentations"]}, "Did you mean 'our_augmentation'"),
        ({"eval_data": [{"our_protocl": {}}]}, "Did you mean 'our_protocol'"),
        ({"backbone": {"model_type": "our_famly"}}, "Did you mean 'our_family'"),
    ],
)
def test_a_name_that_is_misspelled_is_answered_with_what_was_meant(extension, tmp_path, change, message):
    with pytest.raises(ValueError, match=message):
        run(tmp_path, **change)


def test_the_extension_is_not_part_of_the_package(extension):
    assert "hf_face" not in Path(extension.__file__).parts
