"""Files of recipes: found by name, extended and merged."""

import re
from pathlib import Path

import pytest

import hf_face
from hf_face.training import recipe_files
from hf_face.training.recipe_arguments import parse_recipe
from hf_face.training.recipe_files import find_recipe, merge, recipe_names

from .test_recipe import RECIPE


@pytest.mark.parametrize(
    ("name", "hint"),
    [
        ("demo/orll", "did you mean demo/orl"),
        ("recipes/demo/orll.yaml", "did you mean demo/orl"),
        ("???", "`hf-face recipes` lists those"),
    ],
)
def test_a_recipe_that_is_not_there_is_named_with_what_was_meant(name, hint):
    with pytest.raises(FileNotFoundError, match=f"no such file or recipe: {re.escape(name)}; {hint}"):
        parse_recipe([name])


def test_recipes_are_beside_the_package_or_in_it():
    assert Path(hf_face.__file__).parent == recipe_files.PACKAGE
    assert find_recipe("demo/orl") == find_recipe("demo/orl.yaml") == recipe_files.FOLDER / "demo" / "orl.yaml"


def test_mappings_are_merged_and_everything_else_is_replaced():
    layers = [{"a": {"b": 1, "c": 2}, "d": [1, 2], "e": 5}, {"a": {"b": 3}, "d": [3], "e": {"f": 1}}, {"a": 7}]
    assert merge(layers[:2]) == {"a": {"b": 3, "c": 2}, "d": [3], "e": {"f": 1}}
    assert merge(layers) == {"a": 7, "d": [3], "e": {"f": 1}}


def write(folder, **files: str) -> str:
    """Write recipes into a folder; returns the path of the last one."""
    for name, text in files.items():
        (folder / f"{name}.yaml").write_text(text)
    return str(folder / f"{name}.yaml")


def test_a_recipe_extends_others(tmp_path):
    (tmp_path / "parts").mkdir()
    write(tmp_path / "parts", data="train_data: faces\ncard: {license: mit, description: ours}\nmargin: cosface")
    write(tmp_path, _base=RECIPE + "card: {description: theirs}\naugmentation: [flip]\nextends: parts/data.yaml")
    path = write(
        tmp_path, mine="extends: _base\nmargin_kwargs: {m: 0.1}\nbackbone: {embedding_size: 8}\naugmentation: []"
    )
    model, data, card, args = parse_recipe([path, "--num_train_epochs", "1"])
    assert model.backbone == {
        "model_type": "timm_face",
        "architecture": "resnet10t",
        "embedding_size": 8,
        "image_size": 32,
    }
    assert (model.margin, model.margin_kwargs, args.num_train_epochs) == ("cosface", {"m": 0.1}, 1)
    assert (data.train_data, data.augmentation) == (["faces"], [])
    assert card.card == {"license": "mit", "description": "theirs"}


def test_of_several_recipes_that_one_extends_later_ones_win(tmp_path):
    path = write(tmp_path, a="seed: 1\nscale: 1", b="seed: 2", mine="extends: [a.yaml, b.yaml, demo/orl]\nscale: 3")
    model, data, _, args = parse_recipe([path])
    assert (args.seed, model.scale, data.held_out_identities) == (2, 3, 10)  # the last from the recipe in hf_face


def test_a_copy_of_a_recipe_of_hf_face_finds_what_it_extends(tmp_path):
    copied = write(tmp_path, mine="extends: demo/orl\nmax_steps: 7")
    assert parse_recipe([copied])[3].max_steps == 7


def test_a_recipe_that_extends_a_missing_one_is_named(tmp_path):
    path = write(tmp_path, _base=RECIPE, mine="extends: _bse.yaml")
    expected = f"{path} extends '_bse.yaml', which is neither a file relative to {tmp_path} nor a recipe of hf_face"
    with pytest.raises(FileNotFoundError, match=f"{expected}. Did you mean '_base.yaml'?"):
        parse_recipe([path])


def test_a_recipe_that_extends_itself_is_named(tmp_path):
    path = write(tmp_path, a="extends: b", b="extends: mine", mine="extends: [a]")
    with pytest.raises(ValueError, match=r"mine.yaml extends itself: mine.yaml -> a.yaml -> b.yaml -> mine.yaml"):
        parse_recipe([path])


@pytest.mark.parametrize("bases", ["3", "{a: b}", "[a, 3]"])
def test_what_a_recipe_extends_has_a_name(tmp_path, bases):
    with pytest.raises(ValueError, match=r"mine.yaml: extends must be the name of a recipe or a list of names, found"):
        parse_recipe([write(tmp_path, mine=f"extends: {bases}")])


def test_an_error_names_the_file_that_has_it(tmp_path):
    path = write(tmp_path, _base="lerning_rate: 1", mine=f"extends: _base\n{RECIPE}")
    with pytest.raises(ValueError, match=r"_base.yaml sets 'lerning_rate', which is not a field"):
        parse_recipe([path])


def test_shared_parts_are_no_recipes(tmp_path, monkeypatch):
    for name in ("_parts/data", "a/_base", "a/one", "accelerate/fsdp"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / f"{name}.yaml").touch()
    monkeypatch.setattr("hf_face.training.recipe_files.FOLDER", tmp_path)
    assert recipe_names() == ["a/one"]
