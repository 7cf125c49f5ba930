"""Other projects' checkpoints, in and out. [`CheckpointSource`] says how to write a source."""

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
    """Another project's checkpoint as a model of this library, in eval mode, and its image processor.

    Args:
        checkpoint: a file (`torch.save` or safetensors), a folder with weights and config.json, or a state dict.
        source: the project it comes from, one of `SOURCES`, or `"auto"` to recognize it by its names and shapes.
        keep_class_centers: keep the class centers of a training checkpoint, where it has them, as
            `model.class_centers` `(identities, embedding_size)`. `save_pretrained` leaves them out,
            [`convert_to_folder`] does not.
        **config_overrides: fields of the family's config that win over what the shapes say, what the shapes cannot say
            (`neck="gwp"`), and `channel_order`, `image_mean`, `image_std` of the image processor.

    The model has the precision of the checkpoint; where tensors differ in theirs, the one that holds all exactly.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: the file would run code when read; it is of an unknown project; an option must be said; or its
            tensors do not fit (missing, leftover and misshaped ones are listed).

    Example:
    ```python
    >>> from hf_face import convert_checkpoint

    >>> model, image_processor = convert_checkpoint("backbone.pth", source="arcface_torch")  # doctest: +SKIP
    >>> model.save_pretrained("my-model"), image_processor.save_pretrained("my-model")  # doctest: +SKIP
    ```
    """
    named = None if source == "auto" else get_source(source)  # a misspelled name shows before the file is read
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
    """[`convert_checkpoint`], with its arguments, into a folder that `AutoModel.from_pretrained` and `pipeline` load.

    Class centers that are kept become a head beside the model, which [`hf_face.heads.load_head`] and a recipe's
    `head_from:` read. InsightFace's `checkpoint_gpu_0.pt` holds those of one rank alone:
    [`convert_insightface_heads`] puts the ranks together.
    """
    folder = Path(folder)
    model, image_processor = convert_checkpoint(checkpoint, source, keep_class_centers, **config_overrides)
    model.save_pretrained(folder)
    if getattr(model, "peft_config", None):  # of an adapted model that was the adapter alone
        without_adapter(model).save_pretrained(folder)
    image_processor.save_pretrained(folder)
    if keep_class_centers:
        save_class_centers(cast(Tensor, model.class_centers), folder)
    return model, image_processor


def save_class_centers(centers: Tensor, folder: Path) -> None:
    """Writes class centers (identities, embedding_size) as [`hf_face.heads.save_head`] writes those of one process."""
    save_file({"weight": centers.contiguous()}, folder / shard_name(0, 1))
    write_index(folder, [(0, len(centers))], embedding_size=centers.shape[1], sub_centers=1)


def export_checkpoint(
    model: FacePreTrainedModel | str | Path, target: str, path: str | Path | None = None
) -> StateDict:
    """The model's tensors as another project names them; `convert_checkpoint` backwards, bit for bit.

    Args:
        model: a model of this library, or the folder of one.
        target: the project whose tools shall read it, one of `SOURCES`.
        path: also write the file: as those tools expect it with `torch.save`, or the tensors alone where the name
            ends in `.safetensors`.

    Raises:
        FileNotFoundError: there is no such folder, or no model in it.
        ValueError: the target's code would build a different network than `model`.
    """
    source = get_source(target)
    tensors = source.export(load_folder(model) if isinstance(model, str | Path) else model)
    if path is not None:
        written = {name: tensor.cpu().contiguous() for name, tensor in tensors.items()}
        if Path(path).suffix == ".safetensors":
            save_file(written, path)
        else:
            torch.save({source.exported_under: written} if source.exported_under else written, path)
    return tensors


def load_folder(folder: str | Path) -> FacePreTrainedModel:
    if not Path(folder).exists():
        raise FileNotFoundError(f"{folder}: no such file or folder.")
    if not (Path(folder) / CONFIG_NAME).is_file():
        raise FileNotFoundError(f"{folder} is no model folder: it has no {CONFIG_NAME}.")
    return AutoModel.from_pretrained(folder)


def recognize(checkpoint: Checkpoint, config_overrides: dict[str, Any]) -> CheckpointSource:
    """The source whose checkpoint this is, by names and shapes; timm's if nobody else's and `architecture` is said."""
    candidates = [source for source in map(get_source, sources) if source.recognizes(checkpoint)]
    if not candidates and "architecture" in config_overrides:
        candidates = [get_source("timm")]
    if len(candidates) != 1:
        names = ", ".join([source.name for source in candidates] or sources)
        what = "could be of several projects" if candidates else "is of no project known here"
        raise ValueError(f"{checkpoint.origin} {what}. Say which with `source=`: {names}.")
    chosen = candidates[0]
    logger.info(f"{checkpoint.origin}: recognized as {chosen.name}.")
    if others := chosen.lookalikes(checkpoint):
        logger.warning(
            f"{checkpoint.origin} is taken to be {chosen.name}'s by its names, which are those of "
            f"{' and '.join(others)} too, and its values look like theirs. If it is, say so with `source=`: epsilon "
            "and preprocessing differ."
        )
    return chosen


def get_source(name: str) -> CheckpointSource:
    return sources.build(name)
