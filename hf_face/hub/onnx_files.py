"""ONNX files in a model's folder, which are published beside its weights."""

import hashlib
from pathlib import Path

import torch
from torch import Tensor
from transformers import PreTrainedModel

from ..files import file_inside

ONNX_FOLDER = "onnx"  # where transformers.js looks
WEIGHTS_KEY = "hf_face.weights"  # of the file's metadata


def weights_digest(backbone: PreTrainedModel) -> str:
    """The SHA-256 of a backbone's weights, which the files exported from it record."""
    digest = hashlib.sha256()
    for name, weight in sorted(backbone.state_dict().items()):
        if weight.is_floating_point():
            digest.update(f"{name} {weight.dtype} {tuple(weight.shape)}".encode())
            digest.update(_bytes_of(weight))
    return digest.hexdigest()


def _bytes_of(weight: Tensor) -> bytes:
    return weight.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes()


def copy_onnx_files(source: Path, folder: Path, backbone: PreTrainedModel) -> None:
    """
    Copy the ONNX files of a model's folder, if it has any.

    Raises:
        ImportError: if there are any, but onnx is not installed.
        ValueError: if one was exported from other weights, or is a link to a file elsewhere.
    """
    files = [file_inside(source, f"{ONNX_FOLDER}/{file.name}") for file in sorted(source.glob(f"{ONNX_FOLDER}/*.onnx"))]
    expected = weights_digest(backbone) if files else None
    for file in files:
        if _recorded_digest(file) != expected:
            raise ValueError(
                f"{file} was not exported from these weights. Export it again with `hf-face export`, or delete it."
            )
        target = folder / ONNX_FOLDER / file.name
        target.parent.mkdir(exist_ok=True)
        if file.resolve() != target.resolve():
            target.write_bytes(file.read_bytes())


def _recorded_digest(file: Path) -> str | None:
    try:
        import onnx
        from google.protobuf.message import DecodeError
    except ImportError as error:
        raise ImportError(f'{file}: publishing ONNX files requires onnx: pip install "hf_face[onnx]"') from error
    try:
        properties = onnx.load(file, load_external_data=False).metadata_props
    except DecodeError as error:
        raise ValueError(f"{file} is not a complete ONNX file ({error}). Export it again, or delete it.") from error
    return {entry.key: entry.value for entry in properties}.get(WEIGHTS_KEY)
