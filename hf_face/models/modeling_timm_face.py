"""Face models with a timm model as backbone."""

import difflib
import inspect
import sys
from typing import Any

import timm
import torch
from timm.models import build_model_with_cfg, model_entrypoint
from torch import Tensor
from transformers.utils import can_return_tuple

from .configuration_timm_face import TimmFaceConfig
from .modeling_face import FaceEmbeddingOutput, FacePreTrainedModel, face_embedding_output

BATCH_NORM_ARGUMENTS = {"bn_eps", "bn_momentum"}  # mobile networks take them for the class of their norms


class TimmFacePreTrainedModel(FacePreTrainedModel):
    config_class = TimmFaceConfig
    config: TimmFaceConfig
    supports_gradient_checkpointing = True
    _supports_sdpa = True  # timm calls F.scaled_dot_product_attention itself

    def _set_gradient_checkpointing(self, enable: bool = True, *args, **kwargs):
        self.model.set_grad_checkpointing(enable)

    @torch.no_grad()
    def _init_weights(self, module):
        super()._init_weights(module)
        if hasattr(module, "init_non_persistent_buffers"):
            module.init_non_persistent_buffers()


class TimmFaceModel(TimmFacePreTrainedModel):
    """A timm model that uses its classifier to compute the face embedding."""

    def __init__(self, config: TimmFaceConfig):
        super().__init__(config)
        self.model = _create_timm_model(config)
        if config.reduce_first_conv_stride:
            _halve_first_conv_stride(self.model, config.architecture)
        if not any(parameter.is_meta for parameter in self.model.parameters()):
            # timm has already applied the architecture's own initialization; transformers must not overwrite it.
            for module in self.model.modules():
                module._is_hf_initialized = True
        self.post_init()

    @can_return_tuple
    def forward(
        self, pixel_values: Tensor, output_hidden_states: bool | None = None, **kwargs
    ) -> FaceEmbeddingOutput | tuple[Tensor, ...]:
        r"""
        Args:
            pixel_values (`torch.Tensor` of shape `(batch, num_channels, image_size, image_size)`):
                Normalized crops from `FaceImageProcessor`.
            output_hidden_states (`bool`, *optional*):
                Whether to also return the output of each block (timm's `forward_intermediates`).
        """
        if output_hidden_states is None:
            output_hidden_states = self.config.output_hidden_states
        hidden_states = None
        if output_hidden_states:
            features, hidden_states = self.model.forward_intermediates(pixel_values)
            hidden_states = tuple(hidden_states)
        else:
            features = self.model.forward_features(pixel_values)
        return face_embedding_output(self.model.forward_head(features), features, hidden_states)


def known_architecture(architecture: str) -> str:
    """Return the name without its pretraining tag. Raises `ValueError` if timm has no such architecture."""
    # A Hub prefix such as "hf-hub:org/name" would make timm download; only timm's own architectures are allowed.
    name = architecture.split(".")[0]
    if not timm.is_model(name):
        near = difflib.get_close_matches(name, timm.list_models(), n=3)
        hint = f" Did you mean {' or '.join(near)}?" if near else ""
        raise ValueError(f"timm {timm.__version__} has no model {architecture!r}.{hint}")
    return name


def architecture_arguments(name: str) -> set[str]:
    """
    What `model_args` may hold: the arguments of the classes in the architecture's own module. Those of timm's factory
    are not among them: they would open files (`checkpoint_path`), download (`pretrained`), or make another kind of
    model (`features_only`), and a configuration may come from a stranger.
    """
    module = sys.modules[model_entrypoint(name).__module__]
    classes = [each for each in vars(module).values() if isinstance(each, type) and each.__module__.startswith("timm.")]
    own = {argument for each in classes for argument in inspect.signature(each).parameters}
    factory = {
        argument
        for each in (timm.create_model, build_model_with_cfg)
        for argument in inspect.signature(each).parameters
    }
    return (own | BATCH_NORM_ARGUMENTS) - factory


def _create_timm_model(config: TimmFaceConfig) -> torch.nn.Module:
    name = known_architecture(config.architecture)
    model_args = config.model_args or {}
    if refused := sorted(model_args.keys() - architecture_arguments(name)):
        raise ValueError(f"timm's {name} does not accept model_args {', '.join(refused)}.")
    try:
        return timm.create_model(
            name, pretrained=False, num_classes=config.embedding_size, in_chans=config.num_channels, **model_args
        )
    except TypeError as error:
        raise ValueError(f"timm's {name} does not accept model_args={model_args}: {error}") from error


def _halve_first_conv_stride(model: Any, architecture: str) -> None:
    name = model.pretrained_cfg.get("first_conv")
    conv = model.get_submodule(name) if isinstance(name, str) else None
    stride = getattr(conv, "stride", None)
    if stride is None or any(side % 2 for side in stride):
        raise ValueError(
            f"reduce_first_conv_stride requires a first convolution with an even stride; {architecture} has "
            f"{name or 'no convolution that timm names'}{f' with stride {stride}' if stride else ''}."
        )
    conv.stride = tuple(side // 2 for side in stride)


__all__ = ["TimmFaceModel", "TimmFacePreTrainedModel"]
