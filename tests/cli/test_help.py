"""The list of subcommands, and the help of each."""

import dataclasses
import re
import runpy
import subprocess
import sys
from pathlib import Path

import pytest

from hf_face.cli import subcommands
from hf_face.cli.parser import CommandParser
from hf_face.cli.train import GROUPS
from hf_face.hub import Evaluation, FaceModelCardData, TrainingData
from hf_face.training import FaceTrainingArguments
from hf_face.training.refused import SETTINGS

ROOT = Path(__file__).parents[2]

CODE = """
import sys
from hf_face.cli import main
sys.argv = ["hf-face", "--help"]
main()
print({"torch", "transformers", "datasets", "huggingface_hub"} & set(sys.modules))
"""


def test_the_list_comes_at_once():
    done = subprocess.run([sys.executable, "-c", CODE], capture_output=True, text=True, check=True)
    assert done.stdout.endswith("\nset()\n")
    for name in ("convert", "data", "embed", "evaluate", "gallery", "group", "push", "recipes", "train"):
        (line,) = [line for line in done.stdout.splitlines() if line.startswith(f"  {name} ")]
        assert len(line) > 40


def test_without_a_subcommand_there_is_the_list(hf_face):
    assert hf_face().out == hf_face("--help").out == hf_face("-h").out


@pytest.mark.parametrize("name", subcommands())
def test_every_option_is_explained_and_an_example_ends_the_help(name, hf_face, monkeypatch):
    parsers = []
    print_help = CommandParser.print_help
    monkeypatch.setattr(CommandParser, "print_help", lambda self, *_: (parsers.append(self), print_help(self)))
    ended = hf_face(name, "--help")
    assert ended.status == 0 and ended.out.startswith(f"usage: hf-face {name} ")
    assert [action.dest for action in parsers[0]._actions if not action.help] == []
    _, example = ended.out.split("\nExample:\n")
    assert all(line.startswith(("    ", "\n")) for line in example.splitlines())
    assert f"    hf-face {name}" in example


def test_the_fields_of_the_card_are_explained(hf_face):
    text = hf_face("push", "--help").out
    for data in (FaceModelCardData, TrainingData, Evaluation):
        for field in dataclasses.fields(data):
            assert re.search(rf"^    (\w+, )*{field.name}\b.*:", text, re.MULTILINE), field.name


def test_the_help_of_training_starts_with_what_most_runs_set(hf_face, monkeypatch):
    monkeypatch.setenv("COLUMNS", "120")
    text = hf_face("train", "--help").out
    first = text.partition("\nwhat most runs set:\n")[2].partition("\ndata:\n")[0]
    for name in ("train_data", "backbone", "margin", "output_dir", "learning_rate", "num_train_epochs"):
        assert f"\n  --{name}" in f"\n{first}"
    assert re.search(r"--resume_from_checkpoint \S+\s+auto to resume from the newest complete checkpoint", first)
    assert len(text.splitlines()) < 400
    assert "--label_smoothing_factor" not in text  # as it is refused
    helps = {each.name: each.metadata.get("help", "") for each in dataclasses.fields(FaceTrainingArguments)}
    former = {name for name, help_ in helps.items() if help_.startswith("Deprecated")}
    assert [name for name in former if f"--{name} " in text] == []
    grouped = {name for names in GROUPS.values() for name in names.split()}
    assert [name for name in grouped - former - {"activation_checkpointing"} if f"\n  --{name}" not in text] == []
    fields = helps.keys() - set(SETTINGS) - former
    assert [name for name in fields if f"\n  --{name}" not in text] == []


@pytest.mark.parametrize("script", sorted((ROOT / "scripts").glob("*.py")), ids=lambda script: script.stem)
def test_every_script_has_a_help_with_an_example(script, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", [str(script), "--help"])
    with pytest.raises(SystemExit) as end:
        runpy.run_path(str(script), run_name="__main__")
    text = capsys.readouterr().out
    assert end.value.code == 0 and text.startswith("usage: ")
    assert f"python scripts/{script.name}" in text or "\n    hf-face " in text


def test_a_switch_says_what_it_does_and_has_no_default(hf_face):
    text = " ".join(hf_face("embed", "--help").out.split())
    assert "--no_flip The same as --flip false. --bf16 [BF16]" in text
    assert "--json Print the answer as JSON. --trust" in " ".join(hf_face("verify", "--help").out.split())


def test_options_may_be_spelled_with_dashes(hf_face, photographs, tmp_path):
    ended = hf_face("data", "--source", photographs, "--output-dir", tmp_path / "out", "--images-per-shard", 4)
    assert ended.status == 0
    assert len(list(tmp_path.glob("out/data/*.parquet"))) == 2
    parser = CommandParser((), "Example:")
    parser.add_argument("--image_size", type=int)
    assert [parser.parse_args([name, "3"]).image_size for name in ("--image_size", "--image-size")] == [3, 3]
