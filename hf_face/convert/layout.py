"""How a project spells a backbone: names and shapes that several sources share."""

import re
from itertools import chain
from typing import ClassVar

from ..models import FaceConfig
from .checkpoint import Checkpoint, StateDict
from .source import CheckpointSource, Renames, rename


class Layout:
    """
    One spelling of one model family.

    Attributes:
        anchor (`str`):
            A name that only this layout has.
        renames (`tuple`):
            Regular expressions that lead from our names to its own, applied in turn.
    """

    anchor: ClassVar[str]
    renames: ClassVar[Renames] = ()

    def config(self, tensors: StateDict, origin: str, **settings) -> FaceConfig:
        """The architecture as names and shapes tell it; `settings` win."""
        raise NotImplementedError

    def holds(self, config: FaceConfig) -> bool:
        """Whether a model of this configuration can be spelled this way."""
        raise NotImplementedError

    def their_name(self, name: str, config: FaceConfig) -> str:
        return rename(name, self.renames)


class LayoutSource(CheckpointSource):
    """
    A project whose checkpoints are in one of some layouts; see [`CheckpointSource`].

    Attributes:
        layouts (`tuple[Layout, ...]`):
            How it may spell the backbone. A checkpoint with one of `prefixes` before the anchor of one of these is
            recognized; `recognizes` is stricter where two sources would say yes.
        settings (`dict`):
            Fields of the configuration that the project's code says and shapes do not (epsilons).
    """

    layouts: ClassVar[tuple[Layout, ...]]
    settings: ClassVar[dict] = {}

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
    """How many different numbers `pattern` finds at the beginning of the names."""
    return len({match[1] for match in (re.match(pattern, name) for name in tensors) if match})


def shape_of(tensors: StateDict, name: str, dimensions: int, origin: str) -> tuple[int, ...]:
    """Shape of a tensor that the architecture is read off, which must have this many `dimensions`."""
    if name not in tensors:
        raise ValueError(f"{origin}: the architecture is read off {name}, which is missing.")
    shape = tuple(tensors[name].shape)
    if len(shape) != dimensions:
        raise ValueError(
            f"{origin}: the architecture is read off {name}; expected {dimensions} dimensions, found shape {shape}."
        )
    return shape
