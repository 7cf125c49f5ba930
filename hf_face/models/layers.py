"""Layers and checks shared by several backbone families."""

from collections.abc import Iterator
from contextlib import contextmanager
from itertools import pairwise
from typing import Any, Self

import torch
from timm.layers import use_fused_attn
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.utils import fuse_conv_bn_eval
from torch.utils.module_tracker import ModuleTracker
from transformers import PreTrainedModel


class FusableMixin(PreTrainedModel):
    """
    Lets batch norms be folded into the layers before them. For models built from `nn.Sequential` modules, with the
    field `fused` in their configuration.

    A batch norm that follows a convolution or a linear layer is, in inference, a factor and a shift of that layer's
    outputs. With `config.fused`, that layer has a bias and is not followed by a batch norm: faster, and how exporters
    to ONNX write networks. Such a model is saved and loaded like any other. It can also be trained, but without batch
    norm after its layers, which calls for a small learning rate.

    Batch norms *before* a zero-padded convolution stay as they are, because their shift does not apply to the padding.
    """

    def post_init(self):
        if self.config.fused:
            for sequence, _, layer, norm_name, _ in self.foldable_norms():
                if layer.bias is None:
                    layer.bias = nn.Parameter(layer.weight.new_zeros(len(layer.weight)))
                setattr(sequence, norm_name, nn.Identity())
        super().post_init()

    def fuse(self) -> Self:
        """
        Fold the batch norms in place, and set `config.fused`. Outputs stay the same up to rounding.

        Raises:
            ValueError: if the model is in training mode.
        """
        if self.training:
            raise ValueError("fuse() folds the statistics that batch norms have in inference: call model.eval() first.")
        for sequence, name, layer, norm_name, norm in list(self.foldable_norms()):
            # Written for convolutions, but equally correct for linear layers: both put output channels first.
            setattr(sequence, name, fuse_conv_bn_eval(layer, norm))
            setattr(sequence, norm_name, nn.Identity())
        self.config.fused = True
        return self

    def foldable_norms(self) -> Iterator[tuple[nn.Sequential, str, Any, str, Any]]:
        """Each layer that a batch norm follows, with the names of both in their sequence."""
        for sequence in [module for module in self.modules() if isinstance(module, nn.Sequential)]:
            for (name, layer), (norm_name, norm) in pairwise(list(sequence.named_children())):
                if isinstance(layer, nn.Conv2d | nn.Linear) and isinstance(norm, nn.BatchNorm1d | nn.BatchNorm2d):
                    yield sequence, name, layer, norm_name, norm


class TimmAttentionMixin(PreTrainedModel):
    """
    Adds attention maps to a model whose attention layers are timm's. They do not return a map, but apply dropout to it,
    where it can be recorded if they are not fused.
    """

    def attention_layers(self) -> list[Any]:
        return [module for module in self.modules() if isinstance(getattr(module, "attn_drop", None), nn.Module)]

    def follow_attn_implementation(self) -> None:
        """Make timm's layers use the fused attention unless the configuration says `"eager"`."""
        fused = bool(use_fused_attn()) and self.config._attn_implementation != "eager"
        for layer in self.attention_layers():
            if hasattr(layer, "fused_attn"):
                layer.fused_attn = fused

    def set_attn_implementation(self, *args, **kwargs):
        super().set_attn_implementation(*args, **kwargs)
        self.follow_attn_implementation()

    @contextmanager
    def recorded_attentions(self) -> Iterator[list[Tensor]]:
        """Record the attention maps `(batch, heads, tokens, tokens)` of the layers that run in this context."""
        recorded: list[Tensor] = []
        hooks = [
            layer.attn_drop.register_forward_hook(lambda module, inputs, output: recorded.append(output))
            for layer in self.attention_layers()
        ]
        try:
            with eager_attention(self):
                yield recorded
        finally:
            for hook in hooks:
                hook.remove()


@contextmanager
def eager_attention(model: PreTrainedModel) -> Iterator[None]:
    """Use the one implementation of attention that computes its map, whichever the model otherwise uses."""
    implementation = model.config._attn_implementation
    if implementation == "eager":
        yield
        return
    model.set_attn_implementation("eager")
    try:
        yield
    finally:
        model.set_attn_implementation(implementation)


def refuse_attentions(model: PreTrainedModel, output_attentions: bool | None) -> None:
    """Raise `ValueError` if attention maps are requested of a model without attention."""
    if model.config.output_attentions if output_attentions is None else output_attentions:
        raise ValueError(f"output_attentions: {type(model).__name__} is convolutional and has no attention maps.")


def refuse_unknown(model: PreTrainedModel, arguments: dict[str, Any]) -> None:
    """Raise `TypeError` for arguments that `forward` does not have. PEFT passes those of language models, as None."""
    if unknown := [name for name, value in arguments.items() if value is not None]:
        raise TypeError(f"{type(model).__name__}.forward() got an unexpected keyword argument {', '.join(unknown)}")


def count_batches_once(model: nn.Module) -> None:
    """
    Keep gradient checkpointing from counting batches twice in the running statistics of a model's batch norms: layers
    that are recomputed in the backward pass leave them as they are.
    """
    for module in model.modules():
        if isinstance(module, _BatchNorm) and hold_statistics not in module._forward_pre_hooks.values():
            module.register_forward_pre_hook(hold_statistics)
            module.register_forward_hook(release_statistics, always_call=True)  # recomputation stops by an exception


def hold_statistics(norm: Any, inputs: tuple) -> None:
    recomputed = not torch.compiler.is_compiling() and ModuleTracker().is_bw  # compiled graphs count once
    if recomputed and norm.track_running_stats:
        norm._held = norm.momentum, norm.num_batches_tracked
        norm.momentum, norm.num_batches_tracked = 0.0, norm.num_batches_tracked.clone()


def release_statistics(norm: Any, inputs: tuple, output: Tensor | None) -> None:
    if held := norm.__dict__.pop("_held", None):
        norm.momentum, norm.num_batches_tracked = held


def check_crop_size(pixel_values: Tensor, image_size: int) -> None:
    """Raise `ValueError` unless the crops `(batch, channels, height, width)` are `image_size` pixels square."""
    height, width = pixel_values.shape[-2:]
    if (height, width) != (image_size, image_size):
        raise ValueError(
            f"This model takes crops of {image_size} x {image_size} pixels, found {height} x {width}. Resize them "
            "with the model's image processor."
        )


__all__ = ["FusableMixin", "TimmAttentionMixin", "check_crop_size"]
