"""Face models with a timm model as backbone."""

import difflib
import inspect
import sys
from collections import OrderedDict
from typing import Any

import timm
import torch
from timm.models import build_model_with_cfg, model_entrypoint
from torch import Tensor, nn
from transformers.conversion_mapping import register_checkpoint_conversion_mapping
from transformers.utils import can_return_tuple

from .configuration_timm_face import TimmFaceConfig
from .layers import TimmAttentionMixin, refuse_unknown
from .modeling_face import FaceEmbeddingOutput, FacePreTrainedModel, FormerName, face_embedding_output

BATCH_NORM_ARGUMENTS = {"bn_eps", "bn_momentum"}  # mobile networks take them for the class of their norms


class TimmFacePreTrainedModel(FacePreTrainedModel):
    """Handles the initialization and loading of face models of timm."""

    config_class = TimmFaceConfig
    config: TimmFaceConfig
    base_model_prefix = "model"  # so that folders of timm, whose names have no prefix, load
    supports_gradient_checkpointing = True
    _supports_sdpa = True  # timm calls F.scaled_dot_product_attention itself

    @torch.no_grad()
    def _init_weights(self, module):
        super()._init_weights(module)
        if hasattr(module, "init_non_persistent_buffers"):
            module.init_non_persistent_buffers()


class TimmFaceModel(TimmAttentionMixin, TimmFacePreTrainedModel):
    """A timm model that uses its classifier to compute the face embedding."""

    gradient_checkpointing = False  # whether timm's is on, for transformers to know

    def __init__(self, config: TimmFaceConfig):
        super().__init__(config)
        self.model = _create_timm_model(config)
        if config.reduce_first_conv_stride:
            _halve_first_conv_stride(self.model, config.architecture)
        if config.low_rank_ratio is not None:
            _lower_ranks(self.model, config.low_rank_ratio)
        if not any(parameter.is_meta for parameter in self.model.parameters()):
            # timm has already applied the architecture's own initialization; transformers must not overwrite it.
            for module in self.model.modules():
                module._is_hf_initialized = True
        self.follow_attn_implementation()
        self._no_split_modules = _block_classes(self.model)
        self.post_init()

    def _set_gradient_checkpointing(self, enable: bool = True, *args, **kwargs):
        try:
            self.model.set_grad_checkpointing(enable)
        except (AssertionError, AttributeError) as error:  # as timm's models refuse it, or lack the method
            raise ValueError(f"timm's {self.config.architecture} has no gradient checkpointing.") from error
        super()._set_gradient_checkpointing(enable, *args, **kwargs)

    @can_return_tuple
    def forward(
        self,
        pixel_values: Tensor,
        output_hidden_states: bool | None = None,
        output_attentions: bool | None = None,
        **kwargs,
    ) -> FaceEmbeddingOutput | tuple[Tensor, ...]:
        r"""
        Args:
            pixel_values (`torch.Tensor` of shape `(batch, num_channels, image_size, image_size)`):
                Normalized crops from `FaceImageProcessor`.
            output_hidden_states (`bool`, *optional*):
                Whether to also return the output of each block (timm's `forward_intermediates`).
            output_attentions (`bool`, *optional*):
                Whether to also return the attention maps as timm computes them, with eager attention for this call.

        Raises:
            ValueError: if the architecture does not return what is asked for, or crops are integers.
        """
        refuse_unknown(self, kwargs)
        if output_hidden_states is None:
            output_hidden_states = self.config.output_hidden_states
        if output_attentions is None:
            output_attentions = self.config.output_attentions
        pixel_values = self.prepare_pixels(pixel_values)
        if not output_attentions:
            return self._embed(pixel_values, output_hidden_states)
        with self.recorded_attentions() as attentions:
            output = self._embed(pixel_values, output_hidden_states)
        if not attentions:
            raise ValueError(f"output_attentions: timm's {self.config.architecture} has no attention maps to record.")
        output["attentions"] = tuple(attentions)
        return output

    def _embed(self, pixel_values: Tensor, output_hidden_states: bool) -> FaceEmbeddingOutput:
        hidden_states = None
        if output_hidden_states:
            if not hasattr(self.model, "forward_intermediates"):
                raise ValueError(f"output_hidden_states: timm's {self.config.architecture} does not return any.")
            features, hidden_states = self.model.forward_intermediates(pixel_values)
            hidden_states = tuple(hidden_states)
        else:
            features = self.model.forward_features(pixel_values)
        return face_embedding_output(self.model.forward_head(features), features, hidden_states)


def _block_classes(model: nn.Module) -> set[str]:
    """The classes of a model's blocks, which device maps keep whole and FSDP gathers one at a time."""
    blocks = [block for module in model.modules() for block in getattr(module, "blocks", ())]
    return {type(block).__name__ for block in blocks if not isinstance(block, nn.Sequential)}


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


class LowRankLinear(nn.Sequential):
    """A linear layer whose weight is the product of two matrices."""

    def __init__(self, layer: nn.Linear, ratio: float):
        rank = max(2, int(min(layer.in_features, layer.out_features) * ratio))
        super().__init__(
            OrderedDict(
                linear1=nn.Linear(layer.in_features, rank, bias=False),
                linear2=nn.Linear(rank, layer.out_features, bias=layer.bias is not None),
            )
        )


def _lower_ranks(model: nn.Module, ratio: float) -> None:
    for parent in list(model.modules()):
        for name, layer in list(parent.named_children()):
            if isinstance(layer, nn.Linear) and "head" not in name:
                setattr(parent, name, LowRankLinear(layer, ratio))


register_checkpoint_conversion_mapping(
    TimmFaceConfig.model_type, [FormerName(r"^backbone\.model\.", "model.")], overwrite=True
)  # of training checkpoints

__all__ = ["TimmFaceModel", "TimmFacePreTrainedModel"]
