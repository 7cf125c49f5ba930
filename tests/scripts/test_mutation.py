"""What `make mutation` does besides running tests; mutmut and libcst are installed for it only."""

import json
import os
import runpy
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
MUTATION = ROOT / "tests" / "mutation"

SOURCE = """
from typing import TYPE_CHECKING

if TYPE_CHECKING and not None:
    pass

LIMIT: int | None = 3


@decorator(1)
def first(values: list[int | None], start=0):
    def inner(value):
        return value + 1

    return [inner(value) for value, _ in zip(values[1:], values, strict=True) if value is not None]


class Counter:
    def count(self):
        while True:
            break
"""


def test_equivalent_mutants_stand_in_the_code_with_a_reason():
    for path, before, after, reason in runpy.run_path(str(MUTATION / "equivalent.py"))["EQUIVALENT"]:
        lines = [line.strip() for line in (ROOT / path).read_text(encoding="utf-8").splitlines()]
        assert before in lines, f"{path} has changed: {before}"
        assert before != after and reason


@pytest.fixture(scope="module")
def mutants(tmp_path_factory) -> list[dict]:
    """All mutants of a small file, drawn in a process of its own: the module is imported beside others of its name."""
    pytest.importorskip("mutmut", reason="comes with `make mutation`")
    folder = tmp_path_factory.mktemp("mutants")
    (folder / "small.py").write_text(SOURCE)
    draw = "import json, mutants; print(json.dumps([vars(m) for m in mutants.draw_mutants(['small.py'], 100, seed=0)]))"
    environment = os.environ | {"PYTHONPATH": str(MUTATION)}
    run = subprocess.run([sys.executable, "-c", draw], cwd=folder, env=environment, check=True, capture_output=True)
    return json.loads(run.stdout)


def test_each_mutant_has_one_mistake_and_knows_its_function(mutants):
    assert {(mutant["function"], mutant["after"]) for mutant in mutants} == {
        (None, "LIMIT: int | None = 4"),
        (None, "def first(values: list[int | None], start=1):"),
        ("first.inner", "return value - 1"),
        ("first.inner", "return value + 2"),
        ("first", "return [inner(value) for value, _ in zip(values[2:], values, strict=True) if value is not None]"),
        ("first", "return [inner(value) for value, _ in zip(values[1:], values, strict=True) if value is None]"),
        ("Counter.count", "while False:"),
        ("Counter.count", "return"),
    }
    for mutant in mutants:
        changed = [
            pair for pair in zip(SOURCE.splitlines(), mutant["source"].splitlines(), strict=True) if len(set(pair)) > 1
        ]
        assert [(before.strip(), after.strip()) for before, after in changed] == [(mutant["before"], mutant["after"])]
        assert SOURCE.splitlines()[mutant["line"] - 1].strip() == mutant["before"]
