"""timm, and timm-face."""

from typing import Any

import timm

from ..models import FaceConfig, FaceImageProcessor, FacePreTrainedModel, TimmFaceConfig
from ..models.configuration_timm_face import TIMM, is_timm_config, translate_timm_config
from ..models.modeling_timm_face import known_architecture
from ..registry import sources
from .checkpoint import Checkpoint, StateDict
from .source import CheckpointSource


@sources.register("timm", citation=TIMM)
class Timm(CheckpointSource):
    """timm models with the embedding as classifier output: a folder as published by timm, or only its state dict."""

    url = "https://github.com/huggingface/pytorch-image-models"
    files = "Hub folders, `.safetensors`, `.bin`"
    license = "differs by model (`license` of its pretrained cfg)"
    told = "`architecture` and `model_args` of a file without `config.json`"
    model_type = "timm_face"
    renames = ((r"^model\.", ""),)
    classifiers = ("head.weight", "head.fc.weight", "classifier.weight")  # of most models; others need `architecture=`

    def holds(self, config: FaceConfig) -> bool:
        return super().holds(config) and config.low_rank_ratio is None

    def recognizes(self, checkpoint: Checkpoint) -> bool:
        tensors = checkpoint.tensors(self.nested_under)
        return is_timm_config(checkpoint.settings) or any(name in tensors for name in self.classifiers)

    def find_prefix(self, tensors: StateDict) -> str | None:
        return self.prefixes[0]

    def convert(self, checkpoint: Checkpoint, **overrides) -> tuple[FacePreTrainedModel, FaceImageProcessor]:
        """See `convert_checkpoint`. A state dict requires `architecture` and `model_args`."""
        pretrained_cfg = checkpoint.settings.get("pretrained_cfg", checkpoint.settings)
        stated = {f"image_{key}": pretrained_cfg[key] for key in ("mean", "std") if key in pretrained_cfg}
        return super().convert(checkpoint, **{**stated, **overrides})

    def config(self, tensors: StateDict, checkpoint: Checkpoint, **overrides) -> TimmFaceConfig:
        if is_timm_config(checkpoint.settings):
            return TimmFaceConfig(**{**translate_timm_config(checkpoint.settings), **overrides})
        if "architecture" not in overrides:
            raise ValueError(
                f"{checkpoint.origin}: cannot infer the timm model from names and shapes. Pass `architecture=`, one of "
                "`timm.list_models()`, and `model_args=` as for `timm.create_model`, for example "
                "architecture='vit_tiny_patch16_224', model_args={'img_size': 112, 'patch_size': 8} or "
                "architecture='convnext_nano', model_args={'patch_size': 2}."
            )
        default = timm.get_pretrained_cfg(known_architecture(overrides["architecture"]))
        classifier = default.classifier if isinstance(default.classifier, str) else default.classifier[0]
        image_size = default.input_size[-1] if default.fixed_input_size else 112
        read = {
            "image_size": (overrides.get("model_args") or {}).get("img_size", image_size),
            "embedding_size": len(tensors.get(f"{classifier}.weight", range(512))),
        }
        return TimmFaceConfig(**{**read, **overrides})

    def check_expressible(self, config: TimmFaceConfig, tensors: StateDict) -> None:
        if config.reduce_first_conv_stride:
            raise ValueError(
                f"{self.name}'s format cannot express reduce_first_conv_stride=True: `timm.create_model` has no such "
                "argument and would build a different network from these tensors. Use target='timm_face'."
            )


@sources.register("timm_face", citation=TIMM)
class TimmFaceCheckpoint(Timm):
    """gau-nernst/timm-face: training checkpoints, with averaged weights (`ema`) if there are any."""

    url = "https://github.com/gau-nernst/timm-face"
    files = "`.pth`"
    license = "not stated; the code has no license"
    told = "`architecture` and `model_args`"
    nested_under = ("ema", "model")
    exported_under = "ema"
    prefixes = ("backbone.",)
    class_centers = {"weight": False}  # noqa: RUF012
    ignored = ("loss.norm_mean", "loss.norm_std")  # AdaFace's running statistics

    def recognizes(self, checkpoint: Checkpoint) -> bool:
        tensors = checkpoint.tensors(self.nested_under)
        is_nested = any(isinstance(checkpoint.content.get(name), dict) for name in self.nested_under)
        return (is_nested or "weight" in tensors) and any(name.startswith(self.prefixes) for name in tensors)

    def check_expressible(self, config: TimmFaceConfig, tensors: StateDict) -> None:
        """timm-face's scripts support every configuration."""

    def export(self, model: FacePreTrainedModel) -> StateDict:
        """Export the backbone and, if the model has them, the class centers that timm-face's loader expects."""
        centers: dict[str, Any] = {"weight": model.class_centers} if hasattr(model, "class_centers") else {}
        return {**super().export(model), **centers}
