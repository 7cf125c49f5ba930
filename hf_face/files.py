"""Reading files that may be damaged, or that somebody else has written."""

import json
import zipfile
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from transformers.utils import CONFIG_NAME, IMAGE_PROCESSOR_NAME

LFS_POINTER = b"version https://git-lfs.github.com/spec/"
ZIP = b"PK"  # what `torch.save` writes


def file_inside(folder: str | Path, name: str) -> Path:
    """
    The path of a file that a file of `folder` names, such as an index its shards.

    Raises:
        ValueError: if it lies outside the folder, also by a link. Only the Hub's cache links to files elsewhere: to the
            `blobs` of the same repository.
    """
    path, root = Path(folder, name), Path(folder).resolve()
    blobs = [parent.parents[1] / "blobs" for parent in (root, *root.parents) if parent.parent.name == "snapshots"]
    if not any(path.resolve().is_relative_to(place.resolve()) for place in (root, *blobs)):
        raise ValueError(f"{folder} refers to a file outside it, {name}. Copy it into the folder if you trust it.")
    return path


def read_json(path: Path) -> dict[str, Any]:
    """
    Read a JSON file with named values.

    Raises:
        ValueError: if the file has other contents.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:  # not JSON, not text, or too deep
        raise ValueError(f"{path} is not a complete JSON file: {error}") from error
    if not isinstance(content, dict):
        raise ValueError(f"{path}: expected named values, found {type(content).__name__}.")
    return content


def check_weights(path: Path) -> None:
    """
    Check that a file of tensors, written by safetensors or `torch.save`, is all there, without reading the tensors.

    Raises:
        ValueError: if the file is empty, ends early, is a Git LFS pointer, or unpacks to more than its size.
    """
    kind = "safetensors" if path.suffix == ".safetensors" else "torch"
    with path.open("rb") as file:
        start = file.read(len(LFS_POINTER))
    if start == LFS_POINTER:
        raise ValueError(
            f"{path} is not a complete {kind} file, but a Git LFS pointer to it: run `git lfs pull` in its repository, "
            "or download the file itself."
        )
    try:
        if kind == "safetensors":
            with safe_open(path, "pt"):
                return None
        if start.startswith(ZIP) and zipfile.is_zipfile(path):
            return _check_not_compressed(path)
        if start and not start.startswith(ZIP):
            return None
        reason: object = f"it ends after {path.stat().st_size:,} bytes"
    except SafetensorError as error:
        reason = error
    raise ValueError(
        f"{path} is not a complete {kind} file ({reason}). Is it a partial download or a Git LFS pointer? Download it "
        "again."
    )


def check_own_files(folder: Path) -> None:
    """
    Raises:
        ValueError: if a model folder refers to files elsewhere, which loading would read, or its settings are broken.
    """
    for link in filter(Path.is_symlink, folder.iterdir()):
        if not link.is_dir():  # a run's folder may link to checkpoints elsewhere, which are not read
            file_inside(folder, link.name)
    for index in folder.glob("*.safetensors.index.json"):
        for name in set(read_json(index)["weight_map"].values()):
            file_inside(folder, name)
    for settings in (CONFIG_NAME, IMAGE_PROCESSOR_NAME):
        if (folder / settings).is_file():
            read_json(folder / settings)


def _check_not_compressed(path: Path) -> None:
    """`torch.save` compresses nothing, but `torch.load` unpacks what is: a small file could fill the memory."""
    with zipfile.ZipFile(path) as archive:
        size = sum(entry.file_size for entry in archive.infolist())
    if size > path.stat().st_size:
        raise ValueError(
            f"{path} unpacks to {size:,} bytes, more than its size, which files of `torch.save` never do. Unpack it "
            "and save it again if you trust its author."
        )
