"""Fixtures every test file may ask for."""

from pathlib import Path

import pytest

FIXTURES = Path(__file__).parent / "fixtures"


@pytest.fixture(scope="session")
def fixtures() -> Path:
    """The small reference files that travel with the tests."""
    return FIXTURES


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """Real photographs and weights that lie beside a developer's checkout and do not travel with it."""
    folder = Path(__file__).parents[2] / "shared" / "data"
    if not folder.is_dir():
        pytest.skip(f"the photographs and weights in {folder} are not here")
    return folder
