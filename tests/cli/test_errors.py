"""What a person mistyped is answered in a line or two, status 2; a bug keeps its traceback."""

import json
import os
import runpy
import subprocess
import sys
from pathlib import Path
from unittest.mock import Mock

import pytest

from hf_face.cli import embed, errors

ROOT = Path(__file__).parents[2]


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
