"""Base class for checkpoint formats of other projects."""

import re
from collections.abc import Callable, Collection
from functools import reduce
from typing import Any, ClassVar

import torch
from torch import Tensor
from transformers import MODEL_MAPPING, PreTrainedConfig
from transformers.utils import logging

from ..models import FaceConfig, FaceImageProcessor, FacePreTrainedModel
from ..registry import sources
from .checkpoint import Checkpoint, StateDict

logger = logging.get_logger(__name__)

# (regex on our name, their name or a function of the match), applied in order.
Renames = tuple[tuple[str, str | Callable[[re.Match], str]], ...]

PREPROCESSING_OPTIONS = ("image_mean", "image_std", "channel_order")
# Fields that only affect training. A batch norm that only trains its bias has the same outputs as one that trains both.
TRAINING_FIELDS = {"dropout", "drop_path_rate", "embedding_norm", "initializer_range", "mask_ratio"}


class CheckpointSource:
    '''
    The checkpoint format of one project.

    A source is registered where it is defined, in this folder or in your own module. It is then used to recognize
    checkpoints, and available by name in `convert_checkpoint` and `export_checkpoint`. A subclass defines how our names
    map to the project's. One direction is enough: export applies it and convert looks up each of our names, so the
    round trip is bit-exact. Most sources are a [`LayoutSource`], which only sets attributes. Formats that differ in
    more than names (adapters, folders, transposed tensors) override `convert` and `export`.

    Attributes:
        model_type (`str`):
            The family of its models.
        nested_under (`tuple[str, ...]`):
            Keys of the tensors in the file (`{"state_dict": {...}}`); the first existing one is used.
        exported_under (`str`, *optional*):
            Key of the tensors in exported files.
        prefixes (`tuple[str, ...]`):
            Possible prefixes of the backbone's names; export uses the first.
        renames (`tuple`):
            Regular expressions that turn our names into the project's, applied in order.
        class_centers (`dict[str, bool]`):
            Names of class centers, and whether they are transposed, (embedding_size, identities).
        ignored (`tuple[str, ...]`):
            Prefixes of other names in training files.
        preprocessing (`dict`):
            Arguments of the image processor.
        asks (`dict[str, tuple[str, ...]]`):
            Fields of the configuration that the caller must set, with their choices.
        url, files, license, told (`str`):
            For the table in the documentation: the project's page, what its files are called, the license of the
            published weights and where it is stated, and what the caller must say (besides `asks`).

    Example:
    ```python
    from hf_face.convert import LayoutSource
    from hf_face.convert.iresnet_layouts import InsightFaceIResNet
    from hf_face.registry import sources


    @sources.register("our_lab")
    class OurLab(LayoutSource):
        """The `best.pth` of our trainer: InsightFace's iresnet with BGR input."""

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
    url: ClassVar[str] = ""
    files: ClassVar[str] = ""
    license: ClassVar[str] = ""
    told: ClassVar[str] = ""

    @property
    def name(self) -> str:
        """The registered name of this source."""
        return sources.entry_of(self).name

    @property
    def families(self) -> tuple[str, ...]:
        """The families of its models."""
        return (self.model_type,)

    def recognizes(self, checkpoint: Checkpoint) -> bool:
        """Whether names and shapes are this project's. Only one source may recognize a checkpoint."""
        return self.find_prefix(checkpoint.tensors(self.nested_under)) is not None

    def lookalikes(self, checkpoint: Checkpoint) -> tuple[str, ...]:
        """Sources with the same names and shapes that the values of a recognized checkpoint suggest."""
        return ()

    def config(self, tensors: StateDict, checkpoint: Checkpoint, **overrides) -> FaceConfig:
        """Infer the architecture from the backbone's names (without prefix) and shapes; `overrides` take precedence."""
        raise NotImplementedError

    def their_name(self, name: str, config: Any) -> str:
        """The project's name, without prefix, of the tensor that our model calls `name`."""
        return rename(name, self.renames)

    def holds(self, config: FaceConfig) -> bool:
        """Whether this format can represent a model with this configuration."""
        return config.model_type == self.model_type

    def image_processor(self, config: FaceConfig, **options) -> FaceImageProcessor:
        """Build the image processor that the project's models expect."""
        size = {"height": config.image_size, "width": config.image_size}
        return FaceImageProcessor(**{"size": size, **self.preprocessing, **options})

    def convert(
        self,
        checkpoint: Checkpoint,
        keep_class_centers: bool = False,
        dtype: torch.dtype | str | None = None,
        **overrides,
    ) -> tuple[FacePreTrainedModel, FaceImageProcessor]:
        """Our model and its image processor; see `convert_checkpoint`."""
        self.ask_for_what_is_missing(overrides, checkpoint.origin)
        options = {key: overrides.pop(key) for key in PREPROCESSING_OPTIONS if key in overrides}
        config, weights, centers = self.read(checkpoint, **overrides)
        check_finite(weights, checkpoint.origin)
        model, loaded = model_class_of(config).from_pretrained(
            None, config=config, state_dict=weights, dtype=dtype or widest_dtype(weights), output_loading_info=True
        )
        # However the source read them, since transformers would only log a warning.
        refuse_misfits(checkpoint.origin, loaded["missing_keys"], loaded["unexpected_keys"])
        attach_class_centers(model, centers, keep_class_centers, checkpoint.origin)
        return model.eval(), self.image_processor(config, **options)

    def read(self, checkpoint: Checkpoint, **overrides) -> tuple[FaceConfig, StateDict, Tensor | None]:
        """Read the architecture, the weights with our names, and class centers if there are any."""
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
        leftover = [n for n in others if n not in self.class_centers and not n.startswith(self.ignored)]
        shapes = {theirs[ours]: tensor.shape for ours, tensor in expected.items()}
        check_tensors(tensors, shapes, leftover, checkpoint.origin)

        # Cloned, so that training the model does not modify the caller's state dict.
        return config, {ours: tensors[name].clone() for ours, name in theirs.items() if name in tensors}, centers

    def export(self, model: FacePreTrainedModel) -> StateDict:
        """The tensors of our model with this project's names, the bit-exact inverse of `convert`."""
        config = model.config
        if not self.holds(config):
            raise ValueError(f"{self.name}'s format has no names for this {config.model_type} model: {config}")
        check_unchanged(model.state_dict(), config)
        tensors = {self.their_name(name, config): tensor for name, tensor in model.state_dict().items()}
        self.check_expressible(config, tensors)
        return {self.prefixes[0] + name: tensor for name, tensor in tensors.items()}

    def find_prefix(self, tensors: StateDict) -> str | None:
        """The one of `prefixes` that the backbone's names have; None if they are not this project's names."""
        raise NotImplementedError

    def find_class_centers(self, checkpoint: Checkpoint, others: StateDict) -> Tensor | None:
        """Find class centers `(identities, embedding_size)` among the tensors outside the backbone."""
        for name, transposed in self.class_centers.items():
            if name in others:
                return others[name].T if transposed else others[name]
        return None

    def ask_for_what_is_missing(self, overrides: dict[str, Any], origin: str) -> None:
        for option, choices in self.asks.items():
            if overrides.get(option) not in choices:
                said = f"found {option}={overrides[option]!r}" if option in overrides else "it was not given"
                raise ValueError(
                    f"{origin}: cannot infer the {option} of a {self.name} checkpoint. Pass "
                    f"{' or '.join(f'{option}={choice!r}' for choice in choices)}; {said}."
                )

    def not_ours(self, checkpoint: Checkpoint, tensors: StateDict) -> str:
        """The error message for a checkpoint without this project's names."""
        raise NotImplementedError

    def check_expressible(self, config: FaceConfig, tensors: StateDict) -> None:
        """Raise `ValueError` unless the project's code would build the same network from the exported tensors."""
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


def model_class_of(config: PreTrainedConfig) -> Any:
    """The class of our models with this configuration, backbones and others."""
    return MODEL_MAPPING[type(config)]


def skeleton_of(config: FaceConfig) -> FacePreTrainedModel:
    """Build the model of this configuration without allocating its tensors."""
    with torch.device("meta"):
        return model_class_of(config)(config)


def widest_dtype(tensors: StateDict) -> torch.dtype:
    """The smallest dtype that represents all floating-point tensors exactly."""
    return reduce(torch.promote_types, {t.dtype for t in tensors.values() if t.is_floating_point()})


def check_unchanged(tensors: StateDict, config: FaceConfig) -> None:
    """Raise `ValueError` if an adapter changed the model so that it does not match its configuration."""
    if differing := tensors.keys() ^ skeleton_of(config).state_dict().keys():
        raise ValueError(
            f"The model no longer matches its configuration: {len(differing)} tensors were added or removed, such as "
            f"{', '.join(sorted(differing)[:3])}. Merge its adapters first (`merge_and_unload`)."
        )


def check_tensors(found: StateDict, shapes: dict[str, torch.Size], leftover: Collection[str], origin: str) -> None:
    """Raise `ValueError` listing missing, leftover and misshaped tensors by their names in the checkpoint."""
    misshaped = [
        f"{name} {tuple(found[name].shape)} instead of {tuple(shape)}"
        for name, shape in shapes.items()
        if name in found and found[name].shape != shape
    ]
    refuse_misfits(origin, shapes.keys() - found.keys(), leftover, misshaped)


def refuse_misfits(
    origin: str, missing: Collection[str], leftover: Collection[str], misshaped: Collection[str] = ()
) -> None:
    """Raise `ValueError` unless these are empty.

    Batch counters (`num_batches_tracked`) may be missing, as in files written before torch 0.4.1.
    """
    missing = [name for name in missing if not name.endswith("num_batches_tracked")]
    problems = {"missing": missing, "leftover": leftover, "misshaped": misshaped}
    if listed := "; ".join(f"{kind}: {', '.join(sorted(names))}" for kind, names in problems.items() if names):
        raise ValueError(f"{origin} does not fit the architecture read from it. {listed}.")


def check_finite(tensors: StateDict, origin: str) -> None:
    """Raise `ValueError` naming the tensors that have NaN or infinite values."""
    if broken := [name for name, tensor in tensors.items() if not tensor.isfinite().all()]:
        raise ValueError(
            f"{origin} is damaged, or its training diverged: {', '.join(broken[:3])} "
            f"{'and others have' if len(broken) > 3 else 'has' if len(broken) == 1 else 'have'} NaN or infinite values."
        )


def attach_class_centers(model: FacePreTrainedModel, centers: Tensor | None, keep: bool, origin: str) -> None:
    if keep and centers is None:
        raise ValueError(f"{origin} contains no class centers to keep.")
    if keep and centers.shape[1] != model.config.embedding_size:
        raise ValueError(
            f"{origin}: its class centers {tuple(centers.shape)} are not those of an embedding of size "
            f"{model.config.embedding_size}. Convert it without keep_class_centers."
        )
    if keep:
        model.class_centers = centers.contiguous()
    elif centers is not None:
        logger.warning(
            f"{origin} also contains class centers of {len(centers)} identities, which are discarded. Pass "
            "`keep_class_centers=True` to keep them as `model.class_centers`."
        )
