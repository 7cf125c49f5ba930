"""What one project's checkpoint format is, declared: the base of every source in this folder."""

import re
from collections.abc import Callable
from functools import reduce
from typing import Any, ClassVar

import torch
from torch import Tensor
from transformers.utils import logging

from ..models import FAMILIES, FaceConfig, FaceImageProcessor, FacePreTrainedModel
from ..registry import sources
from .checkpoint import Checkpoint, StateDict

logger = logging.get_logger(__name__)

# (regex on our name, their name or a function of the match), applied in turn.
Renames = tuple[tuple[str, str | Callable[[re.Match], str]], ...]

PREPROCESSING_OPTIONS = ("image_mean", "image_std", "channel_order")
# Fields that change training alone. A batch norm that learns its bias only answers like one that learns both.
TRAINING_FIELDS = {"dropout", "drop_path_rate", "embedding_norm", "initializer_range", "mask_ratio"}


class CheckpointSource:
    '''
    One project's checkpoint format.

    A source is registered where it is defined, in this folder or in a module of your own: it then takes part in
    recognizing checkpoints, and `convert_checkpoint` and `export_checkpoint` know its name. A subclass says how our
    names become the project's. One direction suffices: export follows it and convert looks up each of our names, so
    the round trip is bit-exact. Most sources are a [`LayoutSource`], which states what its checkpoints look like and
    defines nothing. A format that is more than names (adapters, folders, transposed tensors) overrides `convert` and
    `export`.

    Attributes:
        model_type (`str`):
            The family of its models.
        nested_under (`tuple[str, ...]`):
            Where in the file the tensors lie (`{"state_dict": {...}}`); the first name that the file has.
        exported_under (`str`, *optional*):
            Where export puts them.
        prefixes (`tuple[str, ...]`):
            What may precede the backbone's names; export writes the first.
        renames (`tuple`):
            Regular expressions that lead from our names to the project's, applied in turn.
        class_centers (`dict[str, bool]`):
            What class centers are called, and whether they are (embedding_size, identities).
        ignored (`tuple[str, ...]`):
            How the names begin of what else a training file holds.
        preprocessing (`dict`):
            Arguments of the image processor.
        asks (`dict[str, tuple[str, ...]]`):
            Fields of the configuration that only the caller can say, with their choices.

    Example:
    ```python
    from hf_face.convert import LayoutSource
    from hf_face.convert.iresnet_layouts import InsightFaceIResNet
    from hf_face.registry import sources


    @sources.register("our_lab")
    class OurLab(LayoutSource):
        """The `best.pth` of our own trainer: InsightFace's iresnet, fed with BGR."""

        nested_under = ("weights",)
        prefixes = ("encoder.",)
        layouts = (InsightFaceIResNet(),)
        class_centers = {"centers": False}
        preprocessing = {"channel_order": "bgr"}
    ```
    '''

    model_type: ClassVar[str]
    nested_under: ClassVar[tuple[str, ...]] = ("state_dict",)
    exported_under: ClassVar[str | None] = None
    prefixes: ClassVar[tuple[str, ...]] = ("",)
    renames: ClassVar[Renames] = ()
    class_centers: ClassVar[dict[str, bool]] = {}
    ignored: ClassVar[tuple[str, ...]] = ()
    preprocessing: ClassVar[dict[str, Any]] = {}
    asks: ClassVar[dict[str, tuple[str, ...]]] = {}

    @property
    def name(self) -> str:
        """The name that this source is registered under."""
        return sources.entry_of(self).name

    def recognizes(self, checkpoint: Checkpoint) -> bool:
        """Whether names and shapes are this project's. No two sources may say yes to the same checkpoint."""
        return self.find_prefix(checkpoint.tensors(self.nested_under)) is not None

    def lookalikes(self, checkpoint: Checkpoint) -> tuple[str, ...]:
        """Sources with the very same names and shapes that the values of a recognized checkpoint speak for."""
        return ()

    def config(self, tensors: StateDict, checkpoint: Checkpoint, **overrides) -> FaceConfig:
        """The architecture, read off the backbone's names (prefix removed) and shapes; `overrides` win."""
        raise NotImplementedError

    def their_name(self, name: str, config: FaceConfig) -> str:
        """How this project calls the tensor that our model calls `name`, without the prefix."""
        return rename(name, self.renames)

    def holds(self, config: FaceConfig) -> bool:
        """Whether this format has names for a model of this configuration."""
        return config.model_type == self.model_type

    def image_processor(self, config: FaceConfig, **options) -> FaceImageProcessor:
        """The preprocessing that the project's models expect."""
        size = {"height": config.image_size, "width": config.image_size}
        return FaceImageProcessor(**{"size": size, **self.preprocessing, **options})

    def convert(
        self, checkpoint: Checkpoint, keep_class_centers: bool = False, **overrides
    ) -> tuple[FacePreTrainedModel, FaceImageProcessor]:
        """Our model and its image processor; see `convert_checkpoint`."""
        self.ask_for_what_is_missing(overrides, checkpoint.origin)
        options = {key: overrides.pop(key) for key in PREPROCESSING_OPTIONS if key in overrides}
        config, weights, centers = self.read(checkpoint, **overrides)
        model = FAMILIES[type(config)].from_pretrained(
            None, config=config, state_dict=weights, dtype=widest_dtype(weights)
        )
        attach_class_centers(model, centers, keep_class_centers, checkpoint.origin)
        return model.eval(), self.image_processor(config, **options)

    def read(self, checkpoint: Checkpoint, **overrides) -> tuple[FaceConfig, StateDict, Tensor | None]:
        """The architecture, its weights under our names, and class centers if there are any."""
        tensors = checkpoint.tensors(self.nested_under)
        prefix = self.find_prefix(tensors)
        if prefix is None:
            raise ValueError(self.not_ours(checkpoint, tensors))
        backbone = {name.removeprefix(prefix): t for name, t in tensors.items() if name.startswith(prefix)}
        config = self.config(backbone, checkpoint, **overrides)
        expected = skeleton_of(config).state_dict()
        theirs = {ours: prefix + self.their_name(ours, config) for ours in expected}
        others = {name: tensors[name] for name in tensors.keys() - set(theirs.values())}
        centers = self.find_class_centers(checkpoint, others)
        leftover = sorted(n for n in others if n not in self.class_centers and not n.startswith(self.ignored))
        shapes = {theirs[ours]: tensor.shape for ours, tensor in expected.items()}
        check_tensors(tensors, shapes, leftover, checkpoint.origin)

        # Cloned, or training the model would write into the caller's state dict.
        return config, {ours: tensors[name].clone() for ours, name in theirs.items() if name in tensors}, centers

    def export(self, model: FacePreTrainedModel) -> StateDict:
        """The tensors of our model under this project's names: the inverse of `convert`, bit for bit."""
        config = model.config
        if not self.holds(config):
            raise ValueError(f"{self.name}'s format has no names for a {config.model_type} like this: {config}")
        check_unchanged(model.state_dict(), config)
        tensors = {self.their_name(name, config): tensor for name, tensor in model.state_dict().items()}
        self.check_expressible(config, tensors)
        return {self.prefixes[0] + name: tensor for name, tensor in tensors.items()}

    def find_prefix(self, tensors: StateDict) -> str | None:
        """Which of `prefixes` the backbone's names have; None if these are not this project's names."""
        raise NotImplementedError

    def find_class_centers(self, checkpoint: Checkpoint, others: StateDict) -> Tensor | None:
        """Class centers `(identities, embedding_size)` among the tensors outside of the backbone."""
        for name, transposed in self.class_centers.items():
            if name in others:
                return others[name].T if transposed else others[name]
        return None

    def ask_for_what_is_missing(self, overrides: dict[str, Any], origin: str) -> None:
        for option, choices in self.asks.items():
            if overrides.get(option) not in choices:
                said = f"found {option}={overrides[option]!r}" if option in overrides else "it was not given"
                raise ValueError(
                    f"{origin}: names and shapes of a {self.name} checkpoint do not tell its {option}. Say "
                    f"{' or '.join(f'{option}={choice!r}' for choice in choices)}; {said}."
                )

    def not_ours(self, checkpoint: Checkpoint, tensors: StateDict) -> str:
        """The message for a checkpoint without this project's names: what was expected, what was found."""
        raise NotImplementedError

    def check_expressible(self, config: FaceConfig, tensors: StateDict) -> None:
        """Raises `ValueError` unless the project's code would build the same network from the exported tensors."""
        told = {option: getattr(config, option) for option in ("image_size", *self.asks)}
        built = self.config(tensors, Checkpoint(tensors), **told)
        fields = type(config).__annotations__.keys() - TRAINING_FIELDS - {"model_type"}
        differing = [
            f"{field}={getattr(config, field)!r} (it would build {getattr(built, field)!r})"
            for field in sorted(fields)
            if getattr(config, field) != getattr(built, field)
        ]
        if differing:
            raise ValueError(f"{self.name}'s format cannot express {', '.join(differing)}.")


def rename(name: str, renames: Renames) -> str:
    for pattern, replacement in renames:
        name = re.sub(pattern, replacement, name)
    return name


def skeleton_of(config: FaceConfig) -> FacePreTrainedModel:
    """The model of this configuration without memory for its tensors."""
    with torch.device("meta"):
        return FAMILIES[type(config)](config)


def widest_dtype(tensors: StateDict) -> torch.dtype:
    """The precision that holds all of the tensors exactly, since a model has one: theirs, where they agree."""
    return reduce(torch.promote_types, {t.dtype for t in tensors.values() if t.is_floating_point()})


def check_unchanged(tensors: StateDict, config: FaceConfig) -> None:
    """Raises `ValueError` where an adapter or `fuse()` made of the model what its configuration does not say."""
    if differing := tensors.keys() ^ skeleton_of(config).state_dict().keys():
        raise ValueError(
            f"The model is no longer what its configuration says: {len(differing)} tensors were added or taken away, "
            f"as {', '.join(sorted(differing)[:3])}. Merge its adapters (`merge_and_unload`) or take it as it was "
            "before `fuse()`."
        )


def check_tensors(found: StateDict, shapes: dict[str, torch.Size], leftover: list[str], origin: str) -> None:
    """Raises `ValueError` listing missing, leftover and misshaped entries, in the checkpoint's own spelling.

    Counters of batches (`num_batches_tracked`) may be missing: files written before torch 0.4.1 have none.
    """
    missing = [n for n in shapes if n not in found and not n.endswith("num_batches_tracked")]
    misshaped = [
        f"{name} {tuple(found[name].shape)} instead of {tuple(shape)}"
        for name, shape in shapes.items()
        if name in found and found[name].shape != shape
    ]
    problems = {"missing": missing, "leftover": leftover, "misshaped": misshaped}
    if any(problems.values()):
        listed = "; ".join(f"{kind}: {', '.join(names)}" for kind, names in problems.items() if names)
        raise ValueError(f"{origin} does not fit the architecture read off it. {listed}.")


def attach_class_centers(model: FacePreTrainedModel, centers: Tensor | None, keep: bool, origin: str) -> None:
    if keep and centers is None:
        raise ValueError(f"{origin} holds no class centers to keep.")
    if keep:
        model.class_centers = centers.contiguous()
    elif centers is not None:
        logger.warning(
            f"{origin} also holds the class centers of {len(centers)} identities, which a backbone does not need. "
            "`keep_class_centers=True` keeps them as `model.class_centers`."
        )
