"""Reading other projects' files: only tensors, never code."""

import pickle
import struct
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
import yaml
from safetensors.torch import load_file
from torch import Tensor

from ..files import ZIP, check_weights, read_json
from .keras_h5 import is_hdf5, read_keras
from .onnx_graph import Graph, read_onnx

StateDict = dict[str, Tensor]

WEIGHT_FILES = ("model.safetensors", "pytorch_model.bin", "model.pt")
WEIGHT_SUFFIXES = {".bin", ".ckpt", ".h5", ".onnx", ".pt", ".pth", ".safetensors"}
CUT_SHORT = (EOFError, IndexError, struct.error)  # of torch's unpickler
WRAPPERS = ("module.", "_orig_mod.")  # DistributedDataParallel, torch.compile


@dataclass
class Checkpoint:
    """The contents of a file or state dict.

    Attributes:
        content: names to tensors, or to nested mappings of tensors, as in the file.
        settings: the folder's `config.json` or `model.yaml`; empty for a single file.
        origin: its name in error messages.
        graph: the network of an ONNX file, which has no names to go by.
    """

    content: dict[str, Any]
    settings: dict[str, Any] = field(default_factory=dict)
    origin: str = "the state dict"
    graph: Graph | None = None

    def tensors(self, nested_under: tuple[str, ...] = ()) -> StateDict:
        """The tensors under the first existing name of `nested_under`, or else at the top level.

        Prefixes of wrappers (`WRAPPERS`) are removed, in any order and number.
        """
        found = next((self.content[name] for name in nested_under if isinstance(self.content.get(name), dict)), None)
        tensors = {k: v for k, v in (found or self.content).items() if isinstance(v, Tensor)}
        return _unwrap(tensors)


def read_checkpoint(checkpoint: str | Path | dict[str, Any] | Checkpoint) -> Checkpoint:
    """Read a file (`.safetensors`, `torch.save`, `.onnx`, Keras's `.h5`) or a folder with one, or wrap a state dict.

    Raises:
        FileNotFoundError: if the path does not exist, or the folder has no weights.
        ValueError: if the file is incomplete, reading it would run code, or its contents are something else.
    """
    if isinstance(checkpoint, Checkpoint):
        return checkpoint
    if isinstance(checkpoint, dict):
        return Checkpoint(checkpoint)
    path = Path(checkpoint)
    if not path.exists():
        raise FileNotFoundError(f"{path}: no such file or folder.")
    file, settings = (_weight_file(path), _read_settings(path)) if path.is_dir() else (path, {})
    if file.suffix == ".onnx":
        return Checkpoint({}, origin=str(path), graph=read_onnx(file))
    if is_hdf5(file):
        return Checkpoint(*read_keras(file), origin=str(path))
    return Checkpoint(_read_file(file), settings, str(path))


def _unwrap(tensors: StateDict) -> StateDict:
    for wrapper in WRAPPERS:
        if tensors and all(name.startswith(wrapper) for name in tensors):
            return _unwrap({name.removeprefix(wrapper): tensor for name, tensor in tensors.items()})
    return tensors


def _weight_file(folder: Path) -> Path:
    for name in WEIGHT_FILES:
        if (folder / name).is_file():
            return folder / name
    others = sorted(path for path in folder.iterdir() if path.suffix in WEIGHT_SUFFIXES)
    if len(others) != 1:
        raise FileNotFoundError(
            f"{folder}: expected one of {', '.join(WEIGHT_FILES)} or a single file of weights, found "
            f"{', '.join(path.name for path in others) or 'none'}. Pass the file itself."
        )
    return others[0]


def _read_settings(folder: Path) -> dict[str, Any]:
    config, cvlface = folder / "config.json", folder / "model.yaml"
    if config.is_file():
        return read_json(config)
    return yaml.safe_load(cvlface.read_text(encoding="utf-8")) if cvlface.is_file() else {}


def _read_file(path: Path) -> dict[str, Any]:
    check_weights(path)
    if path.suffix == ".safetensors":
        return load_file(path)
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except (pickle.UnpicklingError, RuntimeError, *CUT_SHORT) as error:
        raise ValueError(f"{path}{_why_unreadable(path, error)}") from error
    if not isinstance(content, dict):
        raise ValueError(f"{path}: expected a mapping of names to tensors, found {type(content).__name__}.")
    return content


def _why_unreadable(path: Path, error: Exception) -> str:
    with path.open("rb") as file:
        start = file.read(16)
    if not start.startswith((ZIP, pickle.PROTO)):
        return f" was not written by `torch.save`: it starts with {start!r}."
    if not start.startswith(ZIP) and not isinstance(error, pickle.UnpicklingError):  # torch's format before 1.6
        return " is not a complete torch file. Is it a partial download? Download it again."
    reason = str(error.__context__ or error).split("\n")[0]  # torch wraps the reason in general advice
    return (
        ": refused, because reading it would run code, or because it was not written by `torch.save`. If you trust its "
        "author, load it in an isolated environment with the author's packages, save only the tensors "
        "(`safetensors.torch.save_file(state_dict, 'model.safetensors')`), and convert that file. Torch's error: "
        f"{reason}"
    )
