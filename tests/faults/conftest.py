"""Reference runs that were not disturbed, and the table of what became of the others."""

from pathlib import Path

import pytest
from killing import SEED, live_to_the_end
from tally import TALLIES, table
from victims import train


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    """`undisturbed(work)` is the folder and the life of work that nobody disturbs, done once."""
    done = {}

    def run(work):
        if work not in done:
            folder: Path = tmp_path_factory.mktemp("undisturbed")
            done[work] = folder, live_to_the_end(work, folder)
        return done[work]

    return run


@pytest.fixture(scope="module")
def trained(undisturbed) -> Path:
    """The output folder of a training that was not disturbed, with its model."""
    return undisturbed(train)[0] / "run"


def pytest_terminal_summary(terminalreporter):
    if TALLIES:
        terminalreporter.section(f"faults, FAULT_SEED={SEED}")
        terminalreporter.write_line(table())
