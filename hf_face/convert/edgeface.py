"""EdgeFace."""

import re

from ..models import TimmFaceConfig
from ..registry import sources
from .checkpoint import Checkpoint, StateDict
from .layout import shape_of
from .source import CheckpointSource

EDGEFACE = """
@article{edgeface,
  title = {EdgeFace: Efficient Face Recognition Model for Edge Devices},
  author = {George, Anjith and Ecabert, Christophe and Otroshi Shahreza, Hatef and Kotwal, Ketan and Marcel, Sebastien},
  journal = {IEEE Transactions on Biometrics, Behavior, and Identity Science},
  year = {2024}
}
"""

ARCHITECTURES = {24: "edgenext_xx_small", 32: "edgenext_x_small", 48: "edgenext_small", 80: "edgenext_base"}


@sources.register("edgeface", citation=EDGEFACE)
class EdgeFace(CheckpointSource):
    """otroshi/edgeface: timm's EdgeNeXt with the embedding as classifier output, mostly with low-rank linear layers."""

    url = "https://github.com/otroshi/edgeface"
    files = "`.pt`, Hub folders"
    license = "CC BY-NC-SA 4.0 (model cards on the Hub); the repository is BSD-3-Clause"
    model_type = "timm_face"
    prefixes = ("model.",)
    renames = ((r"^model\.", ""),)

    def find_prefix(self, tensors: StateDict) -> str | None:
        attention = any(name.startswith("model.stages.") and name.endswith(".xca.temperature") for name in tensors)
        return self.prefixes[0] if attention and "model.stem.0.weight" in tensors else None

    def config(self, tensors: StateDict, checkpoint: Checkpoint, **overrides) -> TimmFaceConfig:
        width, num_channels, _, _ = shape_of(tensors, "stem.0.weight", 4, checkpoint.origin)
        if width not in ARCHITECTURES:
            raise ValueError(
                f"{checkpoint.origin}: no EdgeNeXt of timm has a stem of {width} channels. Pass `architecture=`."
            )
        last = "head.fc.linear2.weight" if "head.fc.linear2.weight" in tensors else "head.fc.weight"
        read = {
            "architecture": ARCHITECTURES[width],
            "num_channels": num_channels,
            "embedding_size": shape_of(tensors, last, 2, checkpoint.origin)[0],
            "low_rank_ratio": low_rank_ratio(tensors),
        }
        return TimmFaceConfig(**{**read, **overrides})

    def not_ours(self, checkpoint: Checkpoint, tensors: StateDict) -> str:
        return (
            f"{checkpoint.origin}: not a checkpoint of {self.name}: expected model.stem.0.weight and names with "
            f".xca.temperature, found {', '.join(sorted(tensors or checkpoint.content)[:5])}, ..."
        )


def low_rank_ratio(tensors: StateDict) -> float | None:
    """The ratio with the fewest decimals that gives the ranks of all low-rank layers; None if there are none."""
    lowest, below = 0.0, 1.0
    for name in tensors:
        if match := re.match(r"(.*)\.linear1\.weight", name):
            rank, inputs = tensors[name].shape
            side = min(inputs, len(tensors[f"{match[1]}.linear2.weight"]))
            if rank > 2:  # the smallest rank, whatever the ratio
                lowest, below = max(lowest, rank / side), min(below, (rank + 1) / side)
    decimals = (round(lowest + 0.5 * 10**-places, places) for places in range(1, 9))
    return next((ratio for ratio in decimals if lowest <= ratio < below), lowest) if lowest else None
