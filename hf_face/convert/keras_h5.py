"""Reading Keras's HDF5 files: the weights, and the network's description."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

MAGIC = b"\x89HDF\r\n\x1a\n"


def is_hdf5(path: Path) -> bool:
    with path.open("rb") as file:
        return file.read(len(MAGIC)) == MAGIC


def read_keras(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """
    Read the weights by their paths in the file (`conv2d/conv2d/kernel:0`) and `model_config`, empty if it has none.
    Needs the package h5py.

    Raises:
        ImportError: if h5py is not installed.
        ValueError: if the file is damaged.
    """
    try:
        import h5py
    except ImportError as error:
        raise ImportError(f"{path}: Keras files require h5py: pip install 'hf_face[keras]'.") from error
    weights: dict[str, Tensor] = {}

    def collect(name: str, item: Any) -> None:
        if isinstance(item, h5py.Dataset):
            weights[name] = torch.from_numpy(np.asarray(item))

    try:
        with h5py.File(path, "r") as file:
            file.get("model_weights", file).visititems(collect)
            return weights, json.loads(file.attrs.get("model_config", "{}"))
    except (OSError, RuntimeError) as error:
        raise ValueError(f"{path} is not a complete HDF5 file ({error}). Is it a partial download?") from error
