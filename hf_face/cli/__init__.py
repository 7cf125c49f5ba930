"""
The command hf-face. Every file in this folder with a function `main` is a subcommand. Its docstring is the help: a line
for the list of subcommands, a description and an example.
"""

import ast
import importlib
import sys
from collections.abc import Sequence
from pathlib import Path

from ..user_input import did_you_mean
from .errors import UsageError, run_for_people

USAGE = """\
usage: hf-face SUBCOMMAND [--option value ...]

Face recognition, native to Hugging Face.

{subcommands}

Run `hf-face SUBCOMMAND --help` for options and an example. Errors are shown in a line or two; use --traceback or
HF_FACE_TRACEBACK=1 for full tracebacks."""


def main() -> None:
    run_for_people(run_subcommand)


def run_subcommand(argv: Sequence[str]) -> None:
    name, *arguments = argv or ["--help"]
    known = subcommands()
    if name in ("-h", "--help"):
        print(USAGE.format(subcommands="\n".join(f"  {each:<10}{summary}" for each, summary in known.items())))
    elif name in known:
        sys.argv = [f"hf-face {name}", *arguments]  # program name in usage and errors
        importlib.import_module(f".{name}", __name__).main(arguments)
    else:
        raise UsageError(f"There is no subcommand {name!r}.{did_you_mean(name, known)}")


def subcommands() -> dict[str, str]:
    """Names and first lines of all subcommands, parsed without importing them, which would be slow."""
    found = {}
    for file in sorted(Path(__file__).parent.glob("[!_]*.py")):
        module = ast.parse(file.read_text(encoding="utf-8"))
        if any(isinstance(node, ast.FunctionDef) and node.name == "main" for node in module.body):
            found[file.stem] = ast.get_docstring(module).splitlines()[0]
    return found
