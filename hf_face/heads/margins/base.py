"""Base class for margins, and how to write one."""

import math
from collections.abc import Callable
from typing import Literal

import torch
from torch import Tensor, nn

BeyondPi = Literal["clip", "wrap", "fallback"]


class Margin(nn.Module):
    r'''
    A margin maps the cosine between an embedding and its own class center to the margined cosine.

    `forward` computes the margin; the other three methods are hooks that most margins do not override. A margin is
    registered where it is defined, in this folder or in your own module listed under a recipe's `plugins:`. Its options
    are the arguments of `__init__`, with defaults.

    Attributes:
        normalize (`bool`):
            Whether logits are cosines; only [`NoMargin`] can set it to False.
        batch_statistics (`bool`):
            Whether the margin depends on the whole batch; `prepare` and `forward` then receive the samples of all
            ranks.

    Example:
    ```python
    import math

    from hf_face.heads.margins import Margin, angle_of
    from hf_face.registry import margins


    @margins.register("li_arcface", citation="@inproceedings{airface, title = {AirFace}, year = {2019}}")
    class LiArcFaceMargin(Margin):
        """1 - 2 (theta + m) / pi."""

        def __init__(self, m: float = 0.45):
            super().__init__()
            self.m = m

        def forward(self, cosine, norm):
            return 1 - 2 * (angle_of(cosine) + self.m) / math.pi

        def negative_rule(self, target):
            return lambda cosine: 1 - 2 * angle_of(cosine) / math.pi
    ```

    A recipe then sets `margin: li_arcface`, and `margin_kwargs: {m: 0.4}` to change the default.
    '''

    normalize = True
    batch_statistics = False

    def forward(self, cosine: Tensor, norm: Tensor) -> Tensor:
        """
        Compute the margined cosine.

        Args:
            cosine: (B,), the cosine to the sample's class center.
            norm: (B,), the embedding's length before normalization.

        Returns:
            (B,), differentiable with respect to both.
        """
        raise NotImplementedError

    def prepare(self, cosine: Tensor, norm: Tensor, labeled: Tensor) -> None:
        """Update statistics of the whole batch, over all ranks, before `forward`. Inputs (B,) are detached, `labeled`
        is bool."""

    def negative_rule(self, target: Tensor) -> Callable[[Tensor], Tensor] | None:
        """A function of the cosines to other centers (B, K), given the target cosines (B,); None changes nothing."""
        return None

    def regularizer(self, norm: Tensor) -> Tensor | None:
        """A term (B,) to add to each sample's loss, or None."""
        return None


def angle_of(cosine: Tensor, eps: float = 1e-3) -> Tensor:
    """arccos, without gradient within `eps` of -1 and 1 (inclusive), where its derivative is infinite."""
    return torch.acos(torch.where(cosine.abs() < 1 - eps, cosine, cosine.detach().clamp(-1 + eps, 1 - eps)))


def add_angle(cosine: Tensor, m: float | Tensor, beyond_pi: BeyondPi = "clip", eps: float = 1e-3) -> Tensor:
    """cos(theta + m), with `beyond_pi` selecting the values beyond theta + m = pi."""
    angle = angle_of(cosine, eps) + m
    if beyond_pi == "clip":
        return torch.cos(angle.clamp(0, math.pi))
    if beyond_pi == "fallback":
        return torch.where(cosine > math.cos(math.pi - m), torch.cos(angle), cosine - m * math.sin(m))
    return torch.cos(angle)
