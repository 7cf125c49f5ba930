"""What a person mistyped is answered in a line or two, status 2; a bug keeps its traceback."""

import json
import os
import runpy
import shutil
import subprocess
import sys
from pathlib import Path
from unittest.mock import Mock

import huggingface_hub.constants
import pytest

from hf_face.cli import embed, errors
from hf_face.data import VerificationPairs, load_identities, load_verification_pairs
from hf_face.embedding import EmbeddingCache
from hf_face.evaluation import VerificationEvaluator
from hf_face.heads.head_files import find_head
from hf_face.models.loading import load_image_processor

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


@pytest.mark.parametrize(
    ("command", "option", "value", "least"),
    [
        ("data", "images_per_shard", 0, 1),
        ("data", "images_per_shard", -5, 1),
        ("data", "num_threads", 0, 1),
        ("embed", "batch_size", 0, 1),
        ("embed", "num_workers", -1, 0),
        ("evaluate", "batch_size", 0, 1),
        ("evaluate", "num_workers", -1, 0),
    ],
)
def test_counts_that_are_too_small(error_of, model_folder, photographs, command, option, value, least):
    others = {
        "data": ["--source", photographs, "--output_dir", "out"],
        "embed": [*EMBED[1:], model_folder],
        "evaluate": ["--model", model_folder, "--protocol", "all_pairs", "--data", "orl"],
    }
    stated = error_of(command, *others[command], f"--{option}", value)
    assert stated == f"hf-face {command}: error: {option} must be at least {least}, found {value}\n"
    assert not Path("out").exists()


@pytest.mark.usefixtures("no_waiting_for_workers")
@pytest.mark.parametrize("workers", [0, 1])
def test_a_broken_image_is_named_by_its_file(error_of, model_folder, photographs, workers):
    (photographs / "person_1" / "notes.jpg").write_text("no image")
    stated = error_of(*EMBED, model_folder, "--num_workers", workers)
    last = stated.splitlines()[-1]
    assert last.startswith(f"hf-face embed: error: image {EMBED[2]}/person_1/notes.jpg (row 4): cannot decode image")
    assert "Traceback" not in stated


def test_a_worker_that_was_killed_is_no_bug(error_of, model_folder, photographs, monkeypatch):
    """As torch words it, of processes that the system has ended."""
    killed = RuntimeError("DataLoader worker (pid 4711) is killed by signal: Killed. It is possible that")
    monkeypatch.setattr(embed, "main", Mock(side_effect=killed))
    stated = error_of(*EMBED, model_folder)
    assert "DataLoader worker (pid 4711) is killed by signal: Killed" in stated and "fewer data workers" in stated


def test_yaml_that_cannot_be_read_is_placed(error_of, model_folder):
    stated = error_of("evaluate", "--model", model_folder, "--protocol", "{folder: {data")
    assert stated == (
        "hf-face evaluate: error: <unicode string>, line 1, column 15: expected ',' or '}', but got '<stream end>'\n"
    )


def test_evaluations_of_results(error_of, model_folder):
    push = ("push", "--model", model_folder, "--repo_id", "me/m", "--results", "results", "--evaluations")
    for wrong in ("lfw", "{lfw", "{lfw: LFW}", '["lfw"]', '{"lfw": 1}'):
        expected = f'hf-face push: error: --evaluations must be JSON such as {{"lfw": "LFW"}}, found {wrong}\n'
        assert error_of(*push, wrong) == expected
    card = ("--card", "card.yaml")
    Path("card.yaml").write_text("license: mit\n")
    assert error_of(*push, '{"lfw": "LFW"}', *card) == "hf-face push: error: no such file or folder: results\n"
    Path("results").mkdir()
    Path("results", "metrics.json").write_text("{")
    assert "results/metrics.json is not a complete JSON file" in error_of(*push, '{"lfw": "LFW"}', *card)
    Path("results", "metrics.json").write_text('{"metrics": {"cfp_fp_accuracy": 0.9}}')
    stated = error_of(*push, '{"cfp_pf": "CFP-FP"}', *card)
    assert stated == "hf-face push: error: results has no evaluation 'cfp_pf'. Did you mean 'cfp_fp'?\n"


@pytest.mark.parametrize(
    ("card", "expected"),
    [
        ("- 1", "card.yaml: expected the fields of FaceModelCardData, found list."),
        ("license: [", "card.yaml is not a complete JSON or YAML file: while parsing"),
        ("training_data: [{name: x}]", "card.yaml, training_data: missing a required argument: 'license'; the fields"),
        (
            "evaluations: [{nam: x}]",
            "card.yaml, evaluations: missing a required argument: 'name'; the fields are name,",
        ),
    ],
)
def test_a_card_that_cannot_be_read(error_of, model_folder, card, expected):
    Path("card.yaml").write_text(card)
    stated = error_of("push", "--model", model_folder, "--repo_id", "me/m", "--card", "card.yaml")
    assert stated.startswith(f"hf-face push: error: {expected}")


def test_publishing_data_asks_for_a_login_before_converting(error_of, photographs, hub, monkeypatch):
    monkeypatch.setenv("HF_TOKEN", "hf_nobody")
    convert = ("data", "--source", photographs, "--output_dir", "out", "--license", "mit", "--push_to_hub", "me/faces")
    assert error_of(*convert).startswith("hf-face data: error: ")
    assert not Path("out").exists()


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
    waited = []
    monkeypatch.setattr(errors.time, "sleep", waited.append)
    assert error_of(*EMBED, "nope") == ""
    assert waited == [errors.HEAD_START]  # which leaves the first the time to say it
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
