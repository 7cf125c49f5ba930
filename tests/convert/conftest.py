"""Reference checkpoints, made from the names and shapes in tests/fixtures/models (fill.py says how)."""

import importlib.util
import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch

sys.path.insert(0, str(Path(__file__).parent))  # for the module parity


@dataclass
class Reference:
    """A checkpoint as its project spells it, and what that project's own code answers for `batch`."""

    state_dict: dict[str, torch.Tensor]
    batch: torch.Tensor
    arrays: dict[str, np.ndarray]


@pytest.fixture(scope="session")
def fill(fixtures: Path):
    """The module that makes a case's weights and images."""
    spec = importlib.util.spec_from_file_location("fill", fixtures / "fill.py")
    sys.modules["fill"] = module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="session")
def load_reference(fixtures: Path, fill):
    def load(name: str) -> Reference:
        case = fill.load_case(fixtures / "models" / f"{name}.npz")
        return Reference(fill.case_state_dict(case), fill.images(2, case["meta"]["input_size"]), case)

    return load
