"""Layouts of backbones: names and shapes that several sources share."""

import re
from itertools import chain
from typing import ClassVar

from ..models import FaceConfig
from .checkpoint import Checkpoint, StateDict
from .source import CheckpointSource, Renames, rename


class Layout:
    """
    The names of one model family in other projects' checkpoints.

    Attributes:
        model_type (`str`):
            The family of its models.
        anchor (`str`):
            A name that only this layout has.
        renames (`tuple`):
            Regular expressions that turn our names into those of the layout, applied in order.
    """

    model_type: ClassVar[str]
    anchor: ClassVar[str]
    renames: ClassVar[Renames] = ()

    def config(self, tensors: StateDict, origin: str, **settings) -> FaceConfig:
        """Infer the architecture from names and shapes; `settings` take precedence."""
        raise NotImplementedError

    def holds(self, config: FaceConfig) -> bool:
        """Whether this layout can represent a model with this configuration."""
        raise NotImplementedError

    def their_name(self, name: str, config: FaceConfig) -> str:
        return rename(name, self.renames)


class LayoutSource(CheckpointSource):
    """
    A project with checkpoints in one of several layouts; see [`CheckpointSource`].

    Attributes:
        layouts (`tuple[Layout, ...]`):
            Layouts of the backbone. A checkpoint with one of `prefixes` before the anchor of a layout is recognized;
            override `recognizes` to be stricter if several sources would match.
        settings (`dict`):
            Fields of the configuration that are set in the project's code and cannot be inferred (epsilons).
    """

    layouts: ClassVar[tuple[Layout, ...]]
    settings: ClassVar[dict] = {}

    @property
    def families(self) -> tuple[str, ...]:
        return tuple(dict.fromkeys(layout.model_type for layout in self.layouts))

    def find_prefix(self, tensors: StateDict) -> str | None:
        spelled = ((prefix, layout) for prefix in self.prefixes for layout in self.layouts)
        return next((prefix for prefix, layout in spelled if prefix + layout.anchor in tensors), None)

    def config(self, tensors: StateDict, checkpoint: Checkpoint, **overrides) -> FaceConfig:
        layout = next(layout for layout in self.layouts if layout.anchor in tensors)
        return layout.config(tensors, checkpoint.origin, **{**self.settings, **overrides})

    def holds(self, config: FaceConfig) -> bool:
        return any(layout.holds(config) for layout in self.layouts)

    def their_name(self, name: str, config: FaceConfig) -> str:
        return next(layout for layout in self.layouts if layout.holds(config)).their_name(name, config)

    def not_ours(self, checkpoint: Checkpoint, tensors: StateDict) -> str:
        anchors = chain.from_iterable((prefix + layout.anchor for layout in self.layouts) for prefix in self.prefixes)
        found = ", ".join(sorted(tensors or checkpoint.content)[:5])
        return (
            f"{checkpoint.origin}: not a checkpoint of {self.name}: expected {' or '.join(anchors)}, found {found}, ..."
        )


def count_units(tensors: StateDict, pattern: str) -> int:
    """Count the distinct numbers that `pattern` matches at the start of names."""
    return len({match[1] for match in (re.match(pattern, name) for name in tensors) if match})


def shape_of(tensors: StateDict, name: str, dimensions: int, origin: str) -> tuple[int, ...]:
    """Shape of a tensor that determines the architecture and must have this number of `dimensions`."""
    if name not in tensors:
        raise ValueError(f"{origin}: the architecture is read from {name}, which is missing.")
    shape = tuple(tensors[name].shape)
    if len(shape) != dimensions:
        raise ValueError(
            f"{origin}: the architecture is read from {name}; expected {dimensions} dimensions, found shape {shape}."
        )
    return shape
