"""timm's models: Hub folders and state dicts of timm itself, and gau-nernst/timm-face's training checkpoints."""

import timm

from ..models import FaceImageProcessor, FacePreTrainedModel, TimmFaceConfig
from ..models.configuration_timm_face import translate_timm_config
from ..models.modeling_timm_face import known_architecture
from .checkpoint import Checkpoint, StateDict
from .source import CheckpointSource


class Timm(CheckpointSource):
    """A timm model whose classifier gives the embedding: a folder as timm publishes it, or its state dict alone."""

    name = "timm"
    model_type = "timm_face"
    renames = ((r"^model\.", ""),)
    classifiers = ("head.weight", "head.fc.weight", "classifier.weight")

    def recognises(self, checkpoint: Checkpoint) -> bool:
        tensors = checkpoint.tensors(self.nested_under)
        return "pretrained_cfg" in checkpoint.settings or any(name in tensors for name in self.classifiers)

    def find_prefix(self, tensors: StateDict) -> str | None:
        return self.prefixes[0]

    def convert(self, checkpoint: Checkpoint, **overrides) -> tuple[FacePreTrainedModel, FaceImageProcessor]:
        """See `convert_checkpoint`. A state dict alone needs `architecture` and `model_args`."""
        pretrained_cfg = checkpoint.settings.get("pretrained_cfg", {})
        stated = {f"image_{key}": pretrained_cfg[key] for key in ("mean", "std") if key in pretrained_cfg}
        return super().convert(checkpoint, **{**stated, **overrides})

    def config(self, tensors: StateDict, checkpoint: Checkpoint, **overrides) -> TimmFaceConfig:
        if "pretrained_cfg" in checkpoint.settings:
            return TimmFaceConfig(**{**translate_timm_config(checkpoint.settings), **overrides})
        if "architecture" not in overrides:
            raise ValueError(
                f"{checkpoint.origin}: names and shapes do not tell which model of timm this is. Say `architecture=`, "
                "one of `timm.list_models()`, and the `model_args=` that `timm.create_model` got, for example "
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

    def export(self, model: FacePreTrainedModel) -> StateDict:
        """The state dict of `timm.create_model(architecture, num_classes=embedding_size, **model_args)`."""
        if model.config.model_type != self.model_type:
            raise ValueError(f"{self.name} holds {self.model_type} models, not {model.config.model_type}.")
        return {self.prefixes[0] + self.their_name(name, model.config): t for name, t in model.state_dict().items()}


class TimmFaceCheckpoint(Timm):
    """A training checkpoint of timm-face: the averaged weights (`ema`) that it evaluates, else the trained ones."""

    name = "timm_face"
    nested_under = ("ema", "model")
    exported_under = "ema"
    prefixes = ("backbone.",)
    class_centers = {"weight": False}  # noqa: RUF012
    ignored = ("loss.norm_mean", "loss.norm_std")  # AdaFace's running statistics

    def recognises(self, checkpoint: Checkpoint) -> bool:
        tensors = checkpoint.tensors(self.nested_under)
        return "weight" in tensors and any(name.startswith("backbone.") for name in tensors)
