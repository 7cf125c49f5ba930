"""The list of subcommands, and the help of each."""

import subprocess
import sys

import pytest

from hf_face.cli import subcommands
from hf_face.cli.parser import CommandParser

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
    for name in ("convert", "data", "embed", "evaluate", "push", "recipes", "train"):
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


def test_options_may_be_spelled_with_dashes(hf_face, photographs, tmp_path):
    ended = hf_face("data", "--source", photographs, "--output-dir", tmp_path / "out", "--images-per-shard", 4)
    assert ended.status == 0
    assert len(list(tmp_path.glob("out/data/*.parquet"))) == 2
