"""
The command hf-face. Every file of this folder with a function `main` is a subcommand, and its docstring is the help: a
line for the list of subcommands, then what there is to know, then an example.
"""

import ast
import importlib
import sys
from collections.abc import Sequence
from pathlib import Path

from .errors import UsageError, did_you_mean, run_for_people

USAGE = """\
usage: hf-face SUBCOMMAND [--option value ...]

Face recognition, native to Hugging Face.

{subcommands}

`hf-face SUBCOMMAND --help` explains the options and gives an example. Errors are a line or two; with --traceback, or
HF_FACE_TRACEBACK=1, they say where they were raised."""


def main() -> None:
    run_for_people(run_subcommand)


def run_subcommand(argv: Sequence[str]) -> None:
    name, *arguments = argv or ["--help"]
    known = subcommands()
    if name in ("-h", "--help"):
        print(USAGE.format(subcommands="\n".join(f"  {each:<10}{summary}" for each, summary in known.items())))
    elif name in known:
        sys.argv = [f"hf-face {name}", *arguments]  # what usage and errors call the program
        importlib.import_module(f".{name}", __name__).main(arguments)
    else:
        raise UsageError(f"There is no subcommand {name!r}.{did_you_mean(name, known)}")


def subcommands() -> dict[str, str]:
    """Name and first line of every subcommand; read, not imported, so that the list comes at once."""
    found = {}
    for file in sorted(Path(__file__).parent.glob("[!_]*.py")):
        module = ast.parse(file.read_text(encoding="utf-8"))
        if any(isinstance(node, ast.FunctionDef) and node.name == "main" for node in module.body):
            found[file.stem] = ast.get_docstring(module).splitlines()[0]
    return found
