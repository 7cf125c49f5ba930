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
    """Adds the method `fuse` to a model built from `nn.Sequential` modules."""

    is_fused = False

    def fuse(self) -> Self:
        """
        Fold every batch norm that follows a convolution or a linear layer into that layer, in place. Outputs stay the
        same up to rounding. For inference only: a folded model can neither be trained nor saved.

        Batch norms *before* a zero-padded convolution cannot be folded, because their shift does not apply to the
        padding.
        """
        if self.training:
            raise ValueError("fuse() is for inference: call model.eval() first.")
        for sequence in [module for module in self.modules() if isinstance(module, nn.Sequential)]:
            for (name, layer), (norm_name, norm) in pairwise(list(sequence.named_children())):
                if isinstance(layer, nn.Conv2d | nn.Linear) and isinstance(norm, nn.BatchNorm1d | nn.BatchNorm2d):
                    # Written for convolutions, but equally correct for linear layers: both put output channels first.
                    setattr(sequence, name, fuse_conv_bn_eval(layer, norm))  # type: ignore[type-var]
                    setattr(sequence, norm_name, nn.Identity())
        self.is_fused = True
        return self

    def train(self, mode: bool = True) -> Self:
        if mode and self.is_fused:
            raise ValueError("This model's batch norms are folded for inference only. Train it before `fuse()`.")
        return super().train(mode)

    def save_pretrained(self, *args, **kwargs):
        if self.is_fused:
            raise ValueError(
                "This model's batch norms are folded, so its weights could not be reloaded. Save before `fuse()`."
            )
        return super().save_pretrained(*args, **kwargs)


class TimmAttentionMixin(PreTrainedModel):
    """
    Adds attention maps to a model whose attention layers are timm's. They do not return a map, but apply dropout to it,
    where it can be recorded, unless the fused implementation is in use.
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
        check_attentions_are_visible(self)
        recorded: list[Tensor] = []
        hooks = [
            layer.attn_drop.register_forward_hook(lambda module, inputs, output: recorded.append(output))
            for layer in self.attention_layers()
        ]
        try:
            yield recorded
        finally:
            for hook in hooks:
                hook.remove()


def check_attentions_are_visible(model: PreTrainedModel) -> None:
    """Raise `ValueError` unless the model's attention implementation computes attention maps."""
    if model.config._attn_implementation not in ("eager", None):
        raise ValueError(
            f"output_attentions requires attention maps, which {model.config._attn_implementation!r} attention does "
            "not compute. Load the model with attn_implementation='eager', or call set_attn_implementation('eager')."
        )


def refuse_attentions(model: PreTrainedModel, output_attentions: bool | None) -> None:
    """Raise `ValueError` if attention maps are requested of a model without attention."""
    if model.config.output_attentions if output_attentions is None else output_attentions:
        raise ValueError(f"output_attentions: {type(model).__name__} is convolutional and has no attention maps.")


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
