"""Conversion of other projects' checkpoints, in both directions. See [`CheckpointSource`] for how to write a source."""

from pathlib import Path
from typing import Any, cast

import torch
from safetensors.torch import save_file
from torch import Tensor
from transformers import AutoModel
from transformers.utils import CONFIG_NAME, logging

from ..heads.head_files import shard_name, write_index
from ..models import FaceImageProcessor, FacePreTrainedModel
from ..registry import sources
from ..writing import whole_file, whole_model
from .checkpoint import Checkpoint, StateDict, read_checkpoint
from .froundation import without_adapter
from .source import CheckpointSource

logger = logging.get_logger(__name__)


def convert_checkpoint(
    checkpoint: str | Path | dict[str, Any],
    source: str = "auto",
    keep_class_centers: bool = False,
    **config_overrides,
) -> tuple[FacePreTrainedModel, FaceImageProcessor]:
    """Convert another project's checkpoint to a model of this library, in eval mode, and its image processor.

    Args:
        checkpoint: a file (`torch.save`, safetensors, ONNX, Keras's `.h5`), a folder with weights and config.json, or
            a state dict.
        source: the project it comes from, one of `SOURCES`, or `"auto"` to recognize it by names and shapes.
        keep_class_centers: whether to keep the class centers of a training checkpoint as `model.class_centers`
            `(identities, embedding_size)`. `save_pretrained` does not save them, but [`convert_to_folder`] does.
        **config_overrides: fields of the config that override the values inferred from shapes or cannot be inferred
            (`neck="gwp"`); `channel_order`, `image_mean`, `image_std` of the image processor; `dtype` of the model,
            which defaults to the checkpoint's, or the smallest that represents all tensors exactly if it is mixed; and
            options of the source, such as `unfuse=True` for ONNX files.

    Returns:
        The model and its image processor.

    Raises:
        FileNotFoundError: if the file does not exist.
        ImportError: if onnx or h5py is required to read the file, but not installed.
        ValueError: if reading the file would run code, its project is unknown, a required option is missing, its
            tensors do not match (missing, leftover and misshaped ones are listed), or are not finite.

    Example:
    ```python
    >>> from hf_face import convert_checkpoint

    >>> model, image_processor = convert_checkpoint("backbone.pth", source="arcface_torch")  # doctest: +SKIP
    >>> model.save_pretrained("my-model"), image_processor.save_pretrained("my-model")  # doctest: +SKIP
    ```
    """
    named = None if source == "auto" else get_source(source)  # fails for misspelled names before reading the file
    checkpoint = read_checkpoint(checkpoint)
    chosen = named or recognize(checkpoint, config_overrides)
    return chosen.convert(checkpoint, keep_class_centers=keep_class_centers, **config_overrides)


def convert_to_folder(
    checkpoint: str | Path | dict[str, Any],
    folder: str | Path,
    source: str = "auto",
    keep_class_centers: bool = False,
    **config_overrides,
) -> tuple[FacePreTrainedModel, FaceImageProcessor]:
    """Convert a checkpoint to a folder for `AutoModel.from_pretrained` and `pipeline`; see [`convert_checkpoint`].

    With `keep_class_centers`, the class centers are saved as a head in the same folder, for [`hf_face.heads.load_head`]
    and a recipe's `head_from:`. InsightFace's `checkpoint_gpu_0.pt` has the centers of only one rank:
    [`convert_insightface_heads`] merges all ranks.

    Args:
        folder: Folder to write to. It has the whole model or no `config.json`, even if the process is killed.
        checkpoint, source, keep_class_centers, config_overrides: As for [`convert_checkpoint`], as are the errors.

    Returns:
        The model and its image processor.
    """
    model, image_processor = convert_checkpoint(checkpoint, source, keep_class_centers, **config_overrides)
    with whole_model(folder) as unfinished:
        model.save_pretrained(unfinished)
        if getattr(model, "peft_config", None):  # only the adapter was saved
            without_adapter(model).save_pretrained(unfinished)
        image_processor.save_pretrained(unfinished)
        if keep_class_centers:
            save_class_centers(cast(Tensor, model.class_centers), unfinished)
    return model, image_processor


def save_class_centers(centers: Tensor, folder: Path) -> None:
    """Save class centers (identities, embedding_size) in the format of [`hf_face.heads.save_head`] on one process."""
    save_file({"weight": centers.contiguous()}, folder / shard_name(0, 1))
    write_index(folder, [(0, len(centers))], embedding_size=centers.shape[1], sub_centers=1)


def export_checkpoint(
    model: FacePreTrainedModel | str | Path, target: str, path: str | Path | None = None
) -> StateDict:
    """Convert a model to another project's state dict, the bit-exact inverse of `convert_checkpoint`.

    Args:
        model: a model of this library, or its folder.
        target: the project to convert to, one of `SOURCES`.
        path: file to save to, with `torch.save` in the project's format, or only the tensors if the name ends in
            `.safetensors`.

    Returns:
        The tensors, with the project's names.

    Raises:
        FileNotFoundError: if the folder does not exist or contains no model.
        ValueError: if the project is unknown, or the target's code would build a different network than `model`.
    """
    source = get_source(target)
    tensors = source.export(load_folder(model) if isinstance(model, str | Path) else model)
    if path is not None:
        written = {name: tensor.cpu().contiguous() for name, tensor in tensors.items()}
        with whole_file(path) as unfinished:
            if Path(path).suffix == ".safetensors":
                save_file(written, unfinished)
            else:
                torch.save({source.exported_under: written} if source.exported_under else written, unfinished)
    return tensors


def load_folder(folder: str | Path) -> FacePreTrainedModel:
    if not Path(folder).exists():
        raise FileNotFoundError(f"{folder}: no such file or folder.")
    if not (Path(folder) / CONFIG_NAME).is_file():
        raise FileNotFoundError(f"{folder} is not a model folder: it has no {CONFIG_NAME}.")
    return AutoModel.from_pretrained(folder)


def recognize(checkpoint: Checkpoint, config_overrides: dict[str, Any]) -> CheckpointSource:
    """Find the source of a checkpoint by names and shapes; timm if no other matches and `architecture` is given."""
    candidates = [source for source in map(get_source, sources) if source.recognizes(checkpoint)]
    if not candidates and "architecture" in config_overrides:
        candidates = [get_source("timm")]
    if len(candidates) != 1:
        names = ", ".join([source.name for source in candidates] or sources)
        what = "matches several projects" if candidates else "does not match any known project"
        raise ValueError(f"{checkpoint.origin} {what}. Pass one as `source=`: {names}.")
    chosen = candidates[0]
    logger.info(f"{checkpoint.origin}: recognized as {chosen.name}.")
    if others := chosen.lookalikes(checkpoint):
        logger.warning(
            f"{checkpoint.origin} is converted as {chosen.name} because of its names, but {' and '.join(others)} have "
            "the same names, and its values look like theirs. If it is from one of these, pass `source=`: epsilon and "
            "preprocessing differ."
        )
    return chosen


def get_source(name: str) -> CheckpointSource:
    return sources.build(name)
