"""Reference checkpoints, made from the names and shapes in tests/fixtures/models (fill.py says how)."""

import importlib.util
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch


@dataclass
class Reference:
    """A checkpoint as its project spells it, and what that project's own code answers for `batch`."""

    state_dict: dict[str, torch.Tensor]
    batch: torch.Tensor
    arrays: dict[str, np.ndarray]


@pytest.fixture(scope="session")
def load_reference(fixtures: Path):
    spec = importlib.util.spec_from_file_location("fill", fixtures / "fill.py")
    fill = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(fill)

    def load(name: str) -> Reference:
        case = fill.load_case(fixtures / "models" / f"{name}.npz")
        batch = fill.images(2, case["meta"]["input_size"])
        return Reference(fill.fill_state_dict(case["keys"], case["shapes"]), batch, case)

    return load
