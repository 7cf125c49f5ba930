import pytest
from datasets import Dataset

from hf_face.data import load_orl


@pytest.fixture(scope="session")
def orl() -> Dataset:
    """The ORL faces, 40 people with ten photographs each."""
    return load_orl()
