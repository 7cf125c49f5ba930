"""Models, data, recipes and folders that are missing, broken or not to be written to: commands name them."""

import shutil
from pathlib import Path

import huggingface_hub.constants
import pytest

from hf_face.data import VerificationPairs, load_identities, load_verification_pairs
from hf_face.embedding import EmbeddingCache
from hf_face.evaluation import VerificationEvaluator
from hf_face.heads.head_files import find_head
from hf_face.models.loading import load_image_processor

EMBED = ("embed", "--images", "photographs", "--output", "embeddings.parquet", "--model")


@pytest.mark.parametrize("name", ["nope", "/nowhere/model", "outputs/run/model"])
def test_a_model_that_is_not_there(error_of, name):
    evaluate = ("evaluate", "--protocol", "lfw.bin", "--model", name)
    for command in ((*EMBED, name), evaluate, ("push", "--repo_id", "me/m", "--model", name)):
        assert error_of(*command) == f"hf-face {command[0]}: error: no such file or folder: {name}\n"


def test_a_name_that_the_hub_does_not_have_either(error_of, hub):
    assert error_of(*EMBED, "outputs/demo") == (
        "hf-face embed: error: no such file or folder: outputs/demo\n"
        "There is no such model on the Hub either; a private one requires `hf auth login`.\n"
    )
    assert error_of("data", "--output_dir", "out", "--source", "data/faces") == (
        "hf-face data: error: no such file or folder: data/faces\n"
        "There is no such dataset on the Hub either; a private one requires `hf auth login`.\n"
    )


def test_a_name_when_the_hub_cannot_be_asked(error_of, monkeypatch):
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    assert error_of(*EMBED, "outputs/demo") == (
        "hf-face embed: error: no such file or folder: outputs/demo\n"
        "The Hub could not be reached to look for such a model.\n"
    )


@pytest.mark.parametrize("name", ["model.pt", "backbone.pth", "w600k_r50.onnx", "weights.safetensors"])
def test_a_file_where_a_model_folder_is_wanted(error_of, name):
    Path(name).touch()
    assert error_of(*EMBED, name) == (
        f"hf-face embed: error: {name} is a file, but a model is a folder: "
        f"convert it with `hf-face convert {name} my-model`.\n"
    )


def test_a_file_of_a_model_folder(error_of, model_folder):
    assert error_of(*EMBED, model_folder / "model.safetensors") == (
        f"hf-face embed: error: {model_folder}/model.safetensors is a file, but a model is a folder: "
        f"pass {model_folder}.\n"
    )


def test_a_folder_that_is_not_a_models(error_of, tmp_path):
    (tmp_path / "run").mkdir()
    for command in (EMBED, ("push", "--repo_id", "me/m", "--model")):
        stated = error_of(*command, "run")
        assert stated == f"hf-face {command[0]}: error: run has no config.json: it is not a model folder.\n"


CONFIGS = {
    "{": " is not a complete JSON file: Expecting",
    "": " is not a complete JSON file",
    "[1]": ": expected named values, found list.",
}


@pytest.mark.parametrize("file", ["config.json", "preprocessor_config.json"])
@pytest.mark.parametrize("content", CONFIGS)
def test_a_broken_configuration_is_named(error_of, model_folder, tmp_path, file, content):
    shutil.copytree(model_folder, "broken")
    Path("broken", file).write_text(content)
    evaluate = ("evaluate", "--protocol", "lfw.bin", "--model", "broken")
    for command in ((*EMBED, "broken"), evaluate, ("push", "--repo_id", "me/m", "--model", "broken")):
        assert error_of(*command).startswith(f"hf-face {command[0]}: error: broken/{file}{CONFIGS[content]}")
    with pytest.raises(ValueError, match=f"broken/{file}"):
        load_image_processor("broken")


def test_a_mistyped_path_is_not_looked_for_on_the_hub(error_of, model_folder, hub):
    """A path is one whose folder is here, or that no repository can be called."""
    Path("data/faces").mkdir(parents=True)
    missing = "error: no such file or folder: data/facez. Did you mean 'data/faces'?\n"
    evaluate = ("evaluate", "--protocol", "all_pairs", "--model", model_folder)
    for command in (
        ("data", "--output_dir", "out", "--source", "data/facez"),
        (*EMBED, "data/facez"),
        ("push", "--repo_id", "me/m", "--model", "data/facez"),
        ("evaluate", "--protocol", "lfw.bin", "--model", "data/facez"),
        (*evaluate, "--data", "data/facez"),
        (*evaluate, "--data", "orl", "--probes", "data/facez"),
        ("evaluate", "--model", model_folder, "--protocol", "data/facez"),
        ("evaluate", "--model", model_folder, "--protocol", "{identification: {data: data/facez}}"),
        ("evaluate", "--model", model_folder, "--protocol", "{rfw: {data: data/faces, images: data/facez}}"),
    ):
        assert error_of(*command) == f"hf-face {command[0]}: {missing}"
    for name in ("./data/facez", "a/b/c", "~/faces", "faces/lfw.bin"):
        stated = error_of("data", "--output_dir", "out", "--source", name)
        assert stated.startswith(f"hf-face data: error: no such file or folder: {name}")
    train = ("train", "demo/orl", "--max_steps", 1, "--use_cpu", "true", "--output_dir", "out")
    assert error_of(*train, "--train_data", "data/facez").endswith(f"hf-face train: {missing}")
    for load in (load_identities, VerificationPairs.from_parquet, load_verification_pairs, find_head):
        with pytest.raises(FileNotFoundError, match="no such file or folder: data/facez"):
            load("data/facez")
    assert hub.store.requests == []


OUTPUTS = {
    ("embed", "--output"): ["photographs", "photographs/out", "file/embeddings.parquet", "embeddings.csv", "file/out"],
    ("evaluate", "--output_dir"): ["file", "file/results"],
    ("data", "--output_dir"): ["file", "file/faces"],
    ("push", "--repo_id"): ["a name", "a/b/c"],
    ("convert",): ["file", "file/model"],
    ("convert", "--export", "arcface_torch"): ["photographs", "file/model.pt"],
}


@pytest.mark.parametrize("command", OUTPUTS, ids=lambda command: command[0])
def test_outputs_that_cannot_be_written_are_found_before_the_work(error_of, model_folder, photographs, command):
    Path("file").touch()
    others = {
        "embed": ["--model", model_folder, "--images", photographs],
        "evaluate": ["--model", model_folder, "--protocol", "{verification: {data: photographs}}"],
        "data": ["--source", photographs],
        "push": ["--model", model_folder],
        "convert": [],
    }
    for output in OUTPUTS[command]:
        model = [model_folder] if command[0] == "convert" else []
        stated = error_of(command[0], *others[command[0]], *command[1:], *model, output)
        assert stated.startswith(f"hf-face {command[0]}: error: ") and output in stated and stated.count("\n") == 1


def test_a_metric_s_cache_and_figures_go_to_folders(model_folder, model, image_processor, orl_pairs, tmp_path):
    file = tmp_path / "file"
    file.touch()
    with pytest.raises(ValueError, match="file is a file, not a folder"):
        EmbeddingCache(file / "cache")
    with pytest.raises(ValueError, match="file is a file, not a folder"):
        VerificationEvaluator(orl_pairs)(model, image_processor, output_dir=file)
    assert model.num_calls == 0


def test_data_that_is_not_there(error_of, model_folder):
    no_such = "error: no such file or folder: nope\n"
    assert error_of("data", "--output_dir", "out", "--source", "nope") == f"hf-face data: {no_such}"
    evaluate = ("evaluate", "--model", model_folder, "--protocol", "all_pairs", "--data", "nope")
    assert error_of(*evaluate) == f"hf-face evaluate: {no_such}"
    train = ("train", "demo/orl", "--max_steps", 1, "--use_cpu", "true", "--output_dir", "out", "--train_data", "nope")
    assert error_of(*train).endswith(f"hf-face train: {no_such}")
    card = ("push", "--model", model_folder, "--repo_id", "me/m", "--card", "nope")
    assert error_of(*card) == f"hf-face push: {no_such}"


def test_recipes_that_are_not_there(error_of):
    assert error_of("train", "demo/orll") == (
        "hf-face train: error: no such file or recipe: demo/orll; did you mean demo/orl?\n"
    )
    assert error_of("train", "recipes/demo/orl.yaml") == (
        "hf-face train: error: no such file or recipe: recipes/demo/orl.yaml; did you mean demo/orl?\n"
    )
    assert error_of("recipes", "xyz") == (
        "hf-face recipes: error: no such file or recipe: xyz; `hf-face recipes` lists those of hf_face; or name a YAML "
        "file.\n"
    )
