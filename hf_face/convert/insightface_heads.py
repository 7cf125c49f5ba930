"""Conversion between InsightFace's training checkpoints, one file per rank, and one head.

`checkpoint_gpu_{rank}.pt` contains the backbone (`state_dict_backbone`, the same in all files) and the rank's class
centers (`state_dict_softmax_fc`, key `weight`), in the order of ranks.
"""

import re
import zipfile
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor

from ..heads.head_files import read_index, read_weight, shard_name, write_index

_FILE = re.compile(r"checkpoint_gpu_(\d+)\.pt")


def convert_insightface_heads(source: str | Path, folder: str | Path) -> dict[str, Tensor]:
    """Convert the class centers of InsightFace's per-rank files to one head, for [`load_head`] on any number of ranks.

    Args:
        source: folder of `checkpoint_gpu_0.pt`, `checkpoint_gpu_1.pt` ...
        folder: folder to save the head to, created if it does not exist.

    Returns:
        The backbone's weights, with InsightFace's names.

    Raises:
        FileNotFoundError: if a rank's file is missing.
        ValueError: if a file lacks the keys of such a checkpoint.
    """
    paths, folder = _rank_files(Path(source)), Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    ranges: list[tuple[int, int]] = []
    backbone: dict[str, Tensor] = {}
    for rank, path in enumerate(paths):
        checkpoint = torch.load(path, map_location="cpu", weights_only=True, mmap=zipfile.is_zipfile(path))
        try:
            weight, backbone = checkpoint["state_dict_softmax_fc"]["weight"], checkpoint["state_dict_backbone"]
        except KeyError as error:
            raise ValueError(f"{path} has no {error}; found the keys {', '.join(map(str, checkpoint))}") from error
        first_label = ranges[-1][1] if ranges else 0
        ranges.append((first_label, first_label + len(weight)))
        save_file({"weight": weight.contiguous()}, folder / shard_name(rank, len(paths)))
    write_index(folder, ranges, embedding_size=weight.shape[1], sub_centers=1)
    return backbone


def export_insightface_heads(
    folder: str | Path, target: str | Path, backbone: dict[str, Tensor], num_ranks: int = 1
) -> None:
    """Export a head saved by [`save_head`], and a backbone, to InsightFace's files for `num_ranks` ranks.

    Only writes the weights, `state_dict_backbone` and `state_dict_softmax_fc`. InsightFace's `resume` also reads
    `epoch`, `global_step`, `state_optimizer` and `state_lr_scheduler`, which have no counterpart here.

    Args:
        folder: folder of the head.
        target: folder to save `checkpoint_gpu_{rank}.pt` to, created if it does not exist.
        backbone: the backbone's weights, with InsightFace's names.
        num_ranks: number of files; InsightFace reads one per GPU.

    Raises:
        FileNotFoundError: if a file of the head is missing.
        ValueError: if the head has sub-centers, which InsightFace does not support.
    """
    folder, target = Path(folder), Path(target)
    index = read_index(folder)
    if index["sub_centers"] != 1:
        raise ValueError(
            f"{folder} has {index['sub_centers']} sub-centers per identity, but InsightFace's head has one"
        )
    target.mkdir(parents=True, exist_ok=True)
    # Split like InsightFace: the first ranks have one more identity if the split is uneven.
    for rank, rows in enumerate(torch.tensor_split(read_weight(folder), num_ranks)):
        checkpoint = {"state_dict_backbone": backbone, "state_dict_softmax_fc": {"weight": rows.clone()}}
        torch.save(checkpoint, target / f"checkpoint_gpu_{rank}.pt")


def _rank_files(source: Path) -> list[Path]:
    found = {int(match[1]): path for path in source.glob("*.pt") if (match := _FILE.fullmatch(path.name))}
    if not found:
        raise FileNotFoundError(f"{source} contains no checkpoint_gpu_0.pt, checkpoint_gpu_1.pt ...")
    missing = set(range(max(found) + 1)) - set(found)
    if missing:
        names = ", ".join(f"checkpoint_gpu_{rank}.pt" for rank in sorted(missing))
        raise FileNotFoundError(
            f"{source} has checkpoint_gpu_{max(found)}.pt but not {names}; the files of all ranks are required"
        )
    return [found[rank] for rank in sorted(found)]
