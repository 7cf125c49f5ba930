"""Other projects' checkpoints, in and out.

A source is a subclass of `CheckpointSource` (source.py) in a file of its own, listed in `SOURCES` below. Most are a
`LayoutSource` (layout.py), which states

- `name`; `nested_under`: where in the file the tensors lie (`{"state_dict": {...}}`), the first one found;
- `prefixes`: what may precede the backbone's names; the first is what export writes;
- `layouts`: how the backbone is spelled, shared between projects. A `Layout` has an `anchor`, a name that it alone has;
  `config`, which reads the architecture off names and shapes; and `renames`, which lead from our names to its own.
  One direction suffices: export follows it and convert looks up each of our names, so the round trip is bit-exact;
- `settings`: what the project's code says and shapes do not (epsilons); `asks`: what only the caller can say;
- `class_centers`: {name: whether it is (embedding_size, identities)}; `ignored`: what else a training file holds;
- `preprocessing` of the image processor.

`recognizes(checkpoint)` is whether some `prefix + anchor` is there; it is stricter where two sources would say yes, and
`lookalikes` warns where names and shapes cannot tell two apart. A format that is more than names (adapters, folders,
transposed tensors) overrides `convert` and `export`.
"""

from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from transformers.utils import logging

from ..models import FaceImageProcessor, FacePreTrainedModel
from .adaface import AdaFace
from .arcface_torch import ArcFaceTorch
from .checkpoint import Checkpoint, StateDict, read_checkpoint
from .cvlface import CVLface
from .face_embeddings import FaceEmbeddings
from .froundation import FRoundation
from .magface import MagFace
from .mobilefacenet import MobileFaceNet
from .revisit_linearize import RevisitLinearize
from .source import CheckpointSource
from .timm import Timm, TimmFaceCheckpoint
from .transface import TransFace

logger = logging.get_logger(__name__)

SOURCES: dict[str, CheckpointSource] = {
    source.name: source
    for source in (
        ArcFaceTorch(),
        TransFace(),
        AdaFace(),
        MagFace(),
        FaceEmbeddings(),
        RevisitLinearize(),
        CVLface(),
        MobileFaceNet(),
        TimmFaceCheckpoint(),
        Timm(),
        FRoundation(),
    )
}


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
            `model.class_centers` `(identities, embedding_size)`. They are not saved with the model.
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
    checkpoint = read_checkpoint(checkpoint)
    chosen = recognize(checkpoint, config_overrides) if source == "auto" else get_source(source)
    return chosen.convert(checkpoint, keep_class_centers=keep_class_centers, **config_overrides)


def export_checkpoint(model: FacePreTrainedModel, target: str, path: str | Path | None = None) -> StateDict:
    """The model's tensors as another project names them; `convert_checkpoint` backwards, bit for bit.

    Args:
        model: a model of this library.
        target: the project whose tools shall read it, one of `SOURCES`.
        path: also write the file: as those tools expect it with `torch.save`, or the tensors alone where the name
            ends in `.safetensors`.

    Raises:
        ValueError: the target's code would build a different network than `model`.
    """
    source = get_source(target)
    tensors = source.export(model)
    if path is not None:
        written = {name: tensor.cpu().contiguous() for name, tensor in tensors.items()}
        if Path(path).suffix == ".safetensors":
            save_file(written, path)
        else:
            torch.save({source.exported_under: written} if source.exported_under else written, path)
    return tensors


def recognize(checkpoint: Checkpoint, config_overrides: dict[str, Any]) -> CheckpointSource:
    """The source whose checkpoint this is, by names and shapes; timm's if nobody else's and `architecture` is said."""
    candidates = [source for source in SOURCES.values() if source.recognizes(checkpoint)]
    if not candidates and "architecture" in config_overrides:
        candidates = [SOURCES["timm"]]
    if len(candidates) != 1:
        names = ", ".join(source.name for source in candidates or SOURCES.values())
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
    if name not in SOURCES:
        raise ValueError(f"No source {name!r}. There are: auto, {', '.join(SOURCES)}.")
    return SOURCES[name]
