"""Checkpoints on the Hub, without pickles: tensors in safetensors, and everything else in JSON beside them."""

import json
import pickle
import shutil
from collections import OrderedDict
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor
from transformers.trainer_pt_utils import safe_globals

from ..writing import scratch_folder
from .checkpoint_files import finish_checkpoint

PUBLIC = (".safetensors", ".json")
PICKLES = (".pt", ".pth")  # states of optimizer, scheduler, gradient scaler and random numbers
PACKED = "*.pt*.safetensors"


def publish_checkpoint(checkpoint: Path, folder: Path) -> None:
    """
    Copy a checkpoint to `folder`, with its training state in safetensors, to be resumed from where it is downloaded.
    The pickled training arguments, which belong to this machine, are left out.

    Raises:
        ValueError: if the training state has something other than tensors and plain values.
    """
    folder.mkdir()
    for path in sorted(checkpoint.iterdir()):
        if path.suffix in PUBLIC:
            shutil.copyfile(path, folder / path.name)
        elif path.suffix in PICKLES:
            tensors: dict[str, Tensor] = {}
            try:
                with safe_globals():
                    structure = _pack(torch.load(path, map_location="cpu", weights_only=True), tensors)
            except (pickle.UnpicklingError, TypeError) as error:
                raise ValueError(f"{path} cannot be published without a pickle: {error}") from error
            save_file(tensors, folder / f"{path.name}.safetensors", {"structure": json.dumps(structure)})
    finish_checkpoint(folder)


@contextmanager
def as_saved(checkpoint: Path) -> Iterator[Path]:
    """A checkpoint with the files that `Trainer` saved: a copy of one from the Hub, or any other itself."""
    if not any(checkpoint.glob(PACKED)):
        yield checkpoint
        return
    with scratch_folder() as folder:
        copy = Path(shutil.copytree(checkpoint, folder, dirs_exist_ok=True))
        for path in copy.glob(PACKED):
            with safe_open(path, "pt") as packed:
                torch.save(_unpack(json.loads(packed.metadata()["structure"]), packed), path.with_suffix(""))
            path.unlink()
        yield copy


def _pack(value: Any, tensors: dict[str, Tensor]) -> Any:
    """The structure of a value in JSON, with its tensors moved to `tensors`."""
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if isinstance(value, Tensor | np.ndarray):
        name = str(len(tensors))
        tensors[name] = torch.as_tensor(value).contiguous().clone()  # tensors in one file must not share memory
        return {"tensor" if isinstance(value, Tensor) else "array": name}
    if type(value) in (dict, OrderedDict):
        return {"dict": [[_pack(key, tensors), _pack(item, tensors)] for key, item in value.items()]}
    if type(value) in (list, tuple):
        return {type(value).__name__: [_pack(item, tensors) for item in value]}
    raise TypeError(f"expected tensors and plain values, found {type(value).__name__}")


def _unpack(structure: Any, packed: Any) -> Any:
    if not isinstance(structure, dict):
        return structure
    ((kind, content),) = structure.items()
    if kind in ("tensor", "array"):
        tensor = packed.get_tensor(content)
        return tensor if kind == "tensor" else tensor.numpy()
    if kind == "dict":
        return {_unpack(key, packed): _unpack(value, packed) for key, value in content}
    return {"list": list, "tuple": tuple}[kind](_unpack(item, packed) for item in content)
