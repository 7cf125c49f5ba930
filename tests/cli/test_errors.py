"""What a person mistyped is answered in a line or two, status 2; a bug keeps its traceback."""

import json
import os
import runpy
import subprocess
import sys
from pathlib import Path

import huggingface_hub.constants
import pytest

from hf_face.cli import embed

ROOT = Path(__file__).parents[2]


@pytest.fixture
def error_of(hf_face, monkeypatch, tmp_path):
    """What a command wrote as it failed, in an empty folder."""
    monkeypatch.chdir(tmp_path)

    def run(*arguments) -> str:
        ended = hf_face(*arguments)
        assert ended.status == 2
        assert ended.out == ""
        return ended.err

    return run


EMBED = ("embed", "--images", "photographs", "--output", "embeddings.parquet", "--model")


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["embde"], "hf-face: error: There is no subcommand 'embde'. Did you mean 'embed'?\nhf-face --help"),
        (["xyz"], "hf-face: error: There is no subcommand 'xyz'.\nhf-face --help"),
        (
            ["embed", "--modle", "m"],
            "hf-face embed: error: There is no option --modle. Did you mean '--model'?\nhf-face embed --help",
        ),
        (
            ["embed", "--model", "m"],
            "hf-face embed: error: the following arguments are required: --images, --output\nhf-face embed --help",
        ),
        ([*EMBED, "m", "n"], "hf-face embed: error: Unexpected argument 'n'.\nhf-face embed --help"),
        (
            [*EMBED, "m", "--batch_size", "many"],
            "hf-face embed: error: argument --batch_size/--batch-size: invalid int value: 'many'\nhf-face embed --help",
        ),
        (
            ["convert", "--set", "neck", "a.pt", "b"],
            "hf-face convert: error: argument --set: expected NAME=VALUE, found 'neck'\nhf-face convert --help",
        ),
        (
            ["train", "demo/orl", "--lerning_rate=0.1"],
            "hf-face train: error: There is no option --lerning_rate. Did you mean '--learning_rate'?\n"
            "hf-face train --help",
        ),
        (
            ["train", "demo/orl", "--learning_rate", "fast"],
            "hf-face train: error: argument --learning_rate/--learning-rate: invalid float value: 'fast'\n"
            "hf-face train --help",
        ),
    ],
)
def test_usage(error_of, arguments, expected):
    assert error_of(*arguments) == f"{expected} shows the usage.\n"


def test_settings_that_contradict_each_other(error_of):
    stated = error_of("data", "--source", "orl", "--output_dir", "o", "--to", "recordio", "--push_to_hub", "me/faces")
    assert stated == "hf-face data: error: only Parquet is pushed to the Hub: leave out --to recordio\n"
    stated = error_of("push", "--model", "m", "--repo_id", "me/m", "--results", "results")
    assert stated.startswith("hf-face push: error: --results and --evaluations belong together")
    stated = error_of("push", "--model", "m", "--repo_id", "me/m", "--results", "r", "--evaluations", "lfw")
    assert stated == 'hf-face push: error: --evaluations must be JSON such as {"lfw": "LFW"}, found lfw\n'
    stated = error_of("train", "demo/orl", "--max_steps", 1, "--use_cpu", "true", "--ema_decay", 2)
    assert stated == "hf-face train: error: ema_decay must be between 0 and 1, found 2.0.\n"


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
    stated = error_of("recipes", "xyz")
    assert stated.startswith("hf-face recipes: error: no such file or recipe: xyz; expected one of ")
    assert "demo/orl" in stated and "accelerate" not in stated


def test_a_recipe_with_a_mistyped_field(error_of):
    Path("mine.yaml").write_text("margn: cosface\n")
    assert error_of("train", "mine.yaml") == (
        "hf-face train: error: mine.yaml sets 'margn', which is not a field. Did you mean 'margin'?\n"
    )


def raise_this(error: Exception):
    def main(argv):
        raise error

    return main


def test_long_messages_of_other_packages_are_cut(error_of, monkeypatch):
    monkeypatch.setattr(embed, "main", raise_this(OSError("One.\n\nTwo.\nThree.")))
    monkeypatch.setitem(embed.main.__globals__, "__name__", "transformers.utils.hub")
    assert error_of("embed") == "hf-face embed: error: One.\nTwo.\n"


@pytest.mark.parametrize("bug", [TypeError("a bug"), ValueError("a bug"), RuntimeError("a bug")])
def test_a_bug_keeps_its_traceback(hf_face, monkeypatch, bug):
    monkeypatch.setattr(embed, "main", raise_this(bug))  # raised by this file, which is nobody who reads for people
    with pytest.raises(type(bug), match="a bug"):
        hf_face("embed")


def test_the_traceback_is_there_for_the_asking(hf_face, monkeypatch):
    with pytest.raises(FileNotFoundError, match="no such file or folder: nope"):
        hf_face(*EMBED, "nope", "--traceback")
    monkeypatch.setenv("HF_FACE_TRACEBACK", "1")
    with pytest.raises(FileNotFoundError, match="no such file or folder: nope"):
        hf_face(*EMBED, "nope")


def test_other_ranks_leave_it_to_the_first(error_of, monkeypatch, tmp_path):
    monkeypatch.setenv("RANK", "1")
    monkeypatch.setenv("TORCHELASTIC_ERROR_FILE", str(tmp_path / "error.json"))
    assert error_of(*EMBED, "nope") == ""
    report = json.loads((tmp_path / "error.json").read_text())
    assert report["message"] == "hf-face embed: error: no such file or folder: nope"


def test_two_ranks_say_it_once(tmp_path):
    launch = ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2", "-m", "hf_face.cli"]
    done = subprocess.run(
        [sys.executable, *launch, *EMBED, "nope"],
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
    )
    assert done.returncode != 0
    said = [line for line in done.stderr.splitlines() if line.startswith("hf-face embed: error: no such file")]
    assert len(said) == 1
    assert "exitcode  : 2" in done.stderr
    assert 'File "' not in done.stderr.partition("hf-face embed: error:")[0]


@pytest.mark.parametrize("script", ["embed", "train", "convert_dataset", "push_to_hub", "preview_augmentation"])
def test_scripts_answer_alike(script, monkeypatch, capsys, tmp_path):
    monkeypatch.chdir(tmp_path)
    wrong = {
        "embed": ["--images", "i", "--output", "o", "--model", "nope"],
        "train": ["nope.yaml"],
        "convert_dataset": ["--output_dir", "out", "--source", "nope"],
        "push_to_hub": ["--repo_id", "me/m", "--model", "nope"],
        "preview_augmentation": ["flip", "grid.png", "--source", "/nope"],
    }
    path = ROOT / "scripts" / f"{script}.py"
    monkeypatch.setattr(sys, "argv", [str(path), *wrong[script]])
    with pytest.raises(SystemExit) as end:
        runpy.run_path(str(path), run_name="__main__")
    assert end.value.code == 2
    stated = capsys.readouterr().err
    assert stated.startswith(f"{script}.py: error: ") and "nope" in stated and stated.count("\n") == 1
