"""What several families of convolutional and transformer backbones share."""

from itertools import pairwise
from typing import Self

from torch import Tensor, nn
from torch.nn.utils import fuse_conv_bn_eval


class FusableMixin:
    """Gives a model built of `nn.Sequential`s the method `fuse`."""

    is_fused = False

    def fuse(self) -> Self:
        """
        Folds every batch norm that follows a convolution or a linear layer into that layer, in place; the answers stay
        the same up to rounding. For inference only: a folded model can neither be trained nor saved.

        Batch norms *before* a zero-padded convolution stay: what they add does not reach the padding.
        """
        if self.training:
            raise ValueError("fuse() is for inference: call model.eval() first.")
        for sequence in [module for module in self.modules() if isinstance(module, nn.Sequential)]:
            for (name, layer), (norm_name, norm) in pairwise(list(sequence.named_children())):
                follows = isinstance(layer, nn.Conv2d | nn.Linear) and isinstance(norm, nn.BatchNorm1d | nn.BatchNorm2d)
                if follows:
                    # Made for convolutions, and as right for a linear layer: both keep output channels first.
                    setattr(sequence, name, fuse_conv_bn_eval(layer, norm))
                    setattr(sequence, norm_name, nn.Identity())
        self.is_fused = True
        return self

    def train(self, mode: bool = True) -> Self:
        if mode and self.is_fused:
            raise ValueError("The batch norms of this model are folded, for inference only. Train it before `fuse()`.")
        return super().train(mode)

    def save_pretrained(self, *args, **kwargs):
        if self.is_fused:
            raise ValueError(
                "The batch norms of this model are folded; they would not load again. Save before `fuse()`."
            )
        return super().save_pretrained(*args, **kwargs)


def check_crop_size(pixel_values: Tensor, image_size: int) -> None:
    """Raises `ValueError` unless the crops `(batch, channels, height, width)` are squares of this side."""
    height, width = pixel_values.shape[-2:]
    if (height, width) != (image_size, image_size):
        raise ValueError(
            f"This model takes crops of {image_size} x {image_size} pixels, found {height} x {width}. Its image "
            "processor resizes to that."
        )


__all__ = ["FusableMixin", "check_crop_size"]
