"""CVLface's differentiable face aligner."""

import math
from typing import Any

from ..models import FaceAlignerConfig, FaceImageProcessor
from ..models.configuration_face_aligner import KPRPE
from ..registry import sources
from .checkpoint import Checkpoint, StateDict
from .layout import count_units, shape_of
from .source import CheckpointSource

CONTEXT = {"near": "conv3X3", "shared": "conv5X5_1", "middle": "conv5X5_2", "far1": "conv7X7_2", "far2": "conv7x7_3"}
HEADS = {"classify": "ClassHead", "locate_box": "BboxHead", "locate_landmarks": "LandmarkHead"}


@sources.register("cvlface_aligner", citation=KPRPE)
class CVLfaceAligner(CheckpointSource):
    """mk-minchul/CVLface: the differentiable face aligner (`dfa_mobilenet`), which finds and aligns a face."""

    url = "https://github.com/mk-minchul/CVLface"
    files = "`model.pt`"
    license = "not stated; the code is MIT"
    model_type = "face_aligner"
    prefixes = ("net.", "model.net.")
    anchor = "LandmarkHead.0.conv1x1.weight"
    renames = (
        (r"^body\.stem\.", "body.stages.0.-1."),
        (r"^body\.stages\.0\.(-?\d+)", lambda match: f"body.stage1.{int(match[1]) + 1}"),
        (r"^body\.stages\.(\d)", lambda match: f"body.stage{int(match[1]) + 1}"),
        (r"pointwise\.convolution", "3"),
        (r"pointwise\.norm", "4"),
        (r"(depthwise\.)?convolution", "0"),
        (r"(depthwise\.|(?<=[\d\w]\.))norm(?=\.)", "1"),
        (r"^pyramid\.lateral\.(\d)", lambda match: f"fpn.output{int(match[1]) + 1}"),
        (r"^pyramid\.merge\.(\d)", lambda match: f"fpn.merge{int(match[1]) + 1}"),
        (r"^context\.(\d)\.(\w+)", lambda match: f"ssh{int(match[1]) + 1}.{CONTEXT[match[2]]}"),
        (r"^(classify|locate_\w+)\.(\d)", lambda match: f"{HEADS[match[1]]}.{match[2]}.conv1x1"),
        (r"^mixer", "aggregator"),
    )

    def find_prefix(self, tensors: StateDict) -> str | None:
        return next((prefix for prefix in self.prefixes if prefix + self.anchor in tensors), None)

    def config(self, tensors: StateDict, checkpoint: Checkpoint, **overrides: Any) -> FaceAlignerConfig:
        _, num_anchors = shape_of(tensors, "aggregator.0.mlp_tokens.fc1.weight", 2, checkpoint.origin)
        read = {
            "stem_size": shape_of(tensors, "body.stage1.0.0.weight", 4, checkpoint.origin)[0],
            "feature_size": shape_of(tensors, "fpn.output1.0.weight", 4, checkpoint.origin)[0],
            "mixer_depth": count_units(tensors, r"aggregator\.(\d+)\.") - 1,
            # Two anchors in each cell of feature maps with strides 8, 16 and 32.
            "image_size": 8 * math.isqrt(num_anchors * 16 // (2 * 21)),
        }
        return FaceAlignerConfig(**{**read, **overrides})

    def their_name(self, name: str, config: FaceAlignerConfig) -> str:
        if name.startswith("weight."):
            return f"aggregator.{config.mixer_depth}.{name.removeprefix('weight.')}"
        return super().their_name(name, config)

    def image_processor(self, config: FaceAlignerConfig, **options: Any) -> FaceImageProcessor:
        return FaceImageProcessor(**{**config.preprocessing, **options})

    def not_ours(self, checkpoint: Checkpoint, tensors: StateDict) -> str:
        return (
            f"{checkpoint.origin}: not a checkpoint of {self.name}: expected {self.prefixes[0]}{self.anchor}, found "
            f"{', '.join(sorted(tensors or checkpoint.content)[:5])}, ..."
        )
