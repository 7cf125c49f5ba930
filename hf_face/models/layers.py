"""Layers and checks shared by several backbone families."""

from itertools import pairwise
from typing import Self

from torch import Tensor, nn
from torch.nn.utils import fuse_conv_bn_eval
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


def check_crop_size(pixel_values: Tensor, image_size: int) -> None:
    """Raise `ValueError` unless the crops `(batch, channels, height, width)` are `image_size` pixels square."""
    height, width = pixel_values.shape[-2:]
    if (height, width) != (image_size, image_size):
        raise ValueError(
            f"This model takes crops of {image_size} x {image_size} pixels, found {height} x {width}. Resize them "
            "with the model's image processor."
        )


__all__ = ["FusableMixin", "check_crop_size"]
