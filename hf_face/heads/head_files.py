"""Saves and loads heads, independent of the number of ranks that train them before and after.

Every rank writes the rows of its identities to its own file, and an index lists the files in order:

    head.index.json
    head-00001-of-00002.safetensors     weight, optimizer.momentum_buffer, ... of identities [0, 500)
    head-00002-of-00002.safetensors     ... of identities [500, 1000)

The files are plain safetensors: concatenating the `weight` tensors of the listed files gives the whole `weight`. All
heads saved separately use this format; a head inside a saved training model (`model.safetensors`) can be read too.
"""

import json
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from huggingface_hub import snapshot_download
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor
from transformers.utils import CONFIG_NAME, SAFE_WEIGHTS_INDEX_NAME, SAFE_WEIGHTS_NAME

from ..files import check_weights, file_inside, read_json
from ..user_input import check_exists, check_folder
from .margin_head import MarginHead
from .sharding import shard_range

INDEX_NAME = "head.index.json"
OPTIMIZER_PREFIX = "optimizer."
PREFIX_IN_MODEL = "head."  # prefix of the head's tensors in a training model


def save_head(head: MarginHead, folder: str | Path, optimizer: torch.optim.Optimizer | None = None) -> None:
    """Write a head, and optionally an optimizer's state for its class centers, to a folder.

    A head that is split over ranks must be saved by all of its ranks, any other head by a single process.

    Args:
        head: the head.
        folder: folder to write to, accessible to all ranks; created if necessary.
        optimizer: optimizer from which to save the state (momentum or moments) of the class centers.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    rank, world_size = (0, 1) if head.group is None else (dist.get_rank(head.group), dist.get_world_size(head.group))
    tensors = {"weight": head.weight.detach(), **dict(head.named_buffers())}
    if optimizer is not None:
        state = optimizer.state.get(head.weight, {})
        tensors |= {OPTIMIZER_PREFIX + key: value for key, value in state.items() if isinstance(value, Tensor)}
    if head.last_label > head.first_label:
        save_file({k: v.contiguous().cpu() for k, v in tensors.items()}, folder / shard_name(rank, world_size))
    if head.group is not None:
        dist.barrier(head.group)
    if rank == 0:
        ranges = [shard_range(head.num_identities, r, world_size) for r in range(world_size)]
        write_index(folder, ranges, head.embedding_size, head.sub_centers)
    if head.group is not None:
        dist.barrier(head.group)


def write_head(head: MarginHead, tensors: dict[str, Tensor], folder: Path) -> None:
    """Write a whole head from its `tensors` (`weight` and buffers), for example as gathered by FSDP or DeepSpeed."""
    save_file({name: tensor.contiguous().cpu() for name, tensor in tensors.items()}, folder / shard_name(0, 1))
    write_index(folder, [(0, head.num_identities)], head.embedding_size, head.sub_centers)


def load_head(head: MarginHead, folder: str | Path) -> None:
    """Load a saved head on any number of ranks; each rank reads only the rows of its own identities.

    Args:
        head: the head to load into, already split over ranks if necessary.
        folder: folder with the files of one head, as written by [`save_head`], or with a saved training model.

    Raises:
        FileNotFoundError: if the index, or a file that it lists, does not exist.
        ValueError: if the saved head has different sizes.
    """
    saved = read_head(head, Path(folder))
    with torch.no_grad():
        head.weight.copy_(saved["weight"])
        for name, buffer in head.named_buffers():
            if name in saved:
                buffer.copy_(saved[name])


def load_head_optimizer(head: MarginHead, folder: str | Path, optimizer: torch.optim.Optimizer) -> None:
    """Replace an optimizer's state for the class centers with the one saved by [`save_head`]; see [`load_head`]."""
    saved = read_head_optimizer(head, Path(folder))
    position = next(
        i for i, p in enumerate(p for group in optimizer.param_groups for p in group["params"]) if p is head.weight
    )
    state = optimizer.state_dict()  # load_state_dict moves each kind of state to the right device
    state["state"][position] = saved
    optimizer.load_state_dict(state)


def keep_own_rows(head: MarginHead, optimizer: torch.optim.Optimizer) -> None:
    """Reduce an optimizer's state for all class centers, from training on one rank, to this rank's rows."""
    state = optimizer.state.get(head.weight, {})
    for key, value in state.items():
        if isinstance(value, Tensor) and value.shape == (head.num_identities * head.sub_centers, head.embedding_size):
            state[key] = value[head.own_rows].clone()


def read_head(head: MarginHead, folder: Path) -> dict[str, Tensor]:
    """The weight, of which only a head's own rows, and the buffers of a saved head; see [`load_head`]."""
    return _read(head, folder, optimizer_state=False)


def read_head_optimizer(head: MarginHead, folder: Path) -> dict[str, Tensor]:
    """The optimizer's state of a saved head, for a head's own rows; see [`load_head`]."""
    saved = _read(head, folder, optimizer_state=True)
    return {key.removeprefix(OPTIMIZER_PREFIX): value for key, value in saved.items()}


def read_weight(folder: Path) -> Tensor:
    """All class centers of a saved head."""
    index = read_index(folder)
    return _read_rows(folder, index, ["weight"], 0, index["num_identities"])["weight"]


def _read(head: MarginHead, folder: Path, optimizer_state: bool) -> dict[str, Tensor]:
    """Read the head's own rows and all tensors without rows, of either the optimizer's state or everything else."""
    index = read_index(folder)
    for key in ("num_identities", "embedding_size", "sub_centers"):
        if index[key] != getattr(head, key):
            raise ValueError(
                f"{folder / INDEX_NAME}: expected a head with {key}={getattr(head, key)}, found {key}={index[key]}"
            )
    prefix = index.get("prefix", "")
    with safe_open(folder / index["shards"][0]["file"], "pt") as first:
        names = [name.removeprefix(prefix) for name in first.keys() if name.startswith(prefix)]  # noqa: SIM118
        shapes = {key: first.get_slice(prefix + key).get_shape() for key in names}
        keys = [key for key in shapes if key.startswith(OPTIMIZER_PREFIX) == optimizer_state]
        row_keys = [key for key in keys if shapes[key] == shapes["weight"]]
        tensors = {key: first.get_tensor(prefix + key) for key in keys if key not in row_keys}
    return tensors | _read_rows(folder, index, row_keys, head.first_label, head.last_label)


def _read_rows(folder: Path, index: dict, keys: list[str], first_label: int, last_label: int) -> dict[str, Tensor]:
    """Read the rows of the identities [first_label, last_label) of the tensors `keys`."""
    parts = {key: [torch.empty(0, index["embedding_size"])] for key in keys}
    for shard in index["shards"]:
        start, stop = max(first_label, shard["first_label"]), min(last_label, shard["last_label"])
        if start >= stop:
            continue
        rows = slice(*(index["sub_centers"] * (label - shard["first_label"]) for label in (start, stop)))
        with safe_open(folder / shard["file"], "pt") as file:
            for key in keys:
                parts[key].append(file.get_slice(index.get("prefix", "") + key)[rows])
    return {key: torch.cat(rows) for key, rows in parts.items()}


def shard_name(number: int, count: int) -> str:
    """File name of shard `number` (from 0) of `count`."""
    return f"head-{number + 1:05d}-of-{count:05d}.safetensors"


def write_index(folder: Path, ranges: list[tuple[int, int]], embedding_size: int, sub_centers: int) -> None:
    """Write the index of shard files and their identities [first_label, last_label). Empty ranks have no file."""
    shards = [
        {"file": shard_name(number, len(ranges)), "first_label": first, "last_label": last}
        for number, (first, last) in enumerate(ranges)
        if last > first
    ]
    sizes = {"num_identities": ranges[-1][1], "embedding_size": embedding_size, "sub_centers": sub_centers}
    (folder / INDEX_NAME).write_text(json.dumps({**sizes, "shards": shards}, indent=2) + "\n", encoding="utf-8")


def read_index(folder: Path) -> dict[str, Any]:
    """Read the index of a saved head.

    Raises:
        FileNotFoundError: if the index, or a file that it lists, does not exist.
        ValueError: if it is no index, or lists a file outside the folder or an incomplete one.
    """
    path = folder / INDEX_NAME
    if not path.is_file():
        return _index_of_training_model(folder)
    index = read_json(path)
    if missing := {"num_identities", "embedding_size", "sub_centers", "shards"} - index.keys():
        raise ValueError(f"{path} is not the index of a head: it lacks {', '.join(sorted(missing))}.")
    for shard in index["shards"]:
        if not file_inside(folder, shard["file"]).is_file():
            raise FileNotFoundError(f"{path} lists {shard['file']}, which does not exist; all files are required")
        check_weights(folder / shard["file"])
    return index


def find_head(name_or_path: str | Path) -> Path:
    """The folder of a saved head, downloaded if `name_or_path` is a Hub repository."""
    check_exists(name_or_path)
    if Path(name_or_path).exists():
        check_folder(name_or_path)
        return Path(name_or_path)
    return Path(snapshot_download(str(name_or_path), allow_patterns=[INDEX_NAME, "head-*.safetensors"]))


def _index_of_training_model(folder: Path) -> dict[str, Any]:
    """An index that lists the weights of a training model as the only shard of its head."""
    listing, file = folder / SAFE_WEIGHTS_INDEX_NAME, SAFE_WEIGHTS_NAME
    key = f"{PREFIX_IN_MODEL}weight"
    if listing.is_file():
        file = read_json(listing)["weight_map"].get(key, file)
    missing = f"{folder} contains no head: expected {INDEX_NAME}, as written by save_head, or a training model"
    if not file_inside(folder, file).is_file():
        raise FileNotFoundError(missing)
    check_weights(folder / file)
    with safe_open(folder / file, "pt") as weights:
        if key not in weights.keys():  # noqa: SIM118
            raise FileNotFoundError(missing)
        rows, embedding_size = weights.get_slice(key).get_shape()
    config = read_json(folder / CONFIG_NAME)
    sub_centers = config.get("sub_centers", 1)
    num_identities = rows // sub_centers
    return {
        "num_identities": num_identities,
        "embedding_size": embedding_size,
        "sub_centers": sub_centers,
        "prefix": PREFIX_IN_MODEL,
        "shards": [{"file": file, "first_label": 0, "last_label": num_identities}],
    }
