"""Margins that depend on the embedding's norm, a measure of image quality."""

from typing import Literal

import torch
from torch import Tensor

from ...registry import margins
from .base import Margin, add_angle

ADAFACE = """
@inproceedings{adaface,
  title = {AdaFace: Quality Adaptive Margin for Face Recognition},
  author = {Kim, Minchul and Jain, Anil K. and Liu, Xiaoming},
  booktitle = {Conference on Computer Vision and Pattern Recognition},
  year = {2022}
}
"""

MAGFACE = """
@inproceedings{magface,
  title = {MagFace: A Universal Representation for Face Recognition and Quality Assessment},
  author = {Meng, Qiang and Zhao, Shichao and Huang, Zhida and Zhou, Feng},
  booktitle = {Conference on Computer Vision and Pattern Recognition},
  year = {2021}
}
"""


@margins.register("adaface", citation=ADAFACE)
class AdaFaceMargin(Margin):
    r"""cos(theta - m q) - m (1 + q), where q is the image quality estimated from the norm.

    q = clip((norm - mean) / std * h, -1, 1), with running mean and std of the norms (Kim et al., "AdaFace: Quality
    Adaptive Margin for Face Recognition", 2022, equations 13 to 16). Norms carry no gradient here.

    Args:
        m: the margin.
        h: the concentration of q.
        t_alpha: weight of the batch in the running statistics; 1.0 uses only the batch.
        eps: as in [`CombinedMargin`].
    """

    batch_statistics = True
    norm_mean: Tensor
    norm_std: Tensor

    def __init__(self, m: float = 0.4, h: float = 0.333, t_alpha: float = 0.01, eps: float = 1e-3):
        super().__init__()
        self.m, self.h, self.t_alpha, self.eps = m, h, t_alpha, eps
        self.register_buffer("norm_mean", torch.tensor(20.0))
        self.register_buffer("norm_std", torch.tensor(100.0))

    def prepare(self, cosine: Tensor, norm: Tensor, labeled: Tensor) -> None:
        norm, count = norm.clamp(1e-3, 100), labeled.sum()
        mean = (norm * labeled).sum() / count.clamp(min=1)
        variance = ((norm - mean).square() * labeled).sum() / (count - 1).clamp(min=1)
        # The std requires two images and the mean one; otherwise the running values stay unchanged.
        self.norm_mean.lerp_(torch.where(count > 0, mean.to(self.norm_mean), self.norm_mean), self.t_alpha)
        self.norm_std.lerp_(torch.where(count > 1, variance.sqrt().to(self.norm_std), self.norm_std), self.t_alpha)

    def forward(self, cosine: Tensor, norm: Tensor) -> Tensor:
        norm = norm.detach().clamp(1e-3, 100)
        quality = ((norm - self.norm_mean) / (self.norm_std + 1e-3) * self.h).clamp(-1, 1)
        return add_angle(cosine, -self.m * quality, "clip", self.eps) - self.m * (1 + quality)


@margins.register("magface", citation=MAGFACE)
class MagFaceMargin(Margin):
    r"""cos(theta + m(a)), where the margin m grows with the norm a, and a regularizer that makes norms grow.

    m(a) = l_m + (u_m - l_m) (a - l_a) / (u_a - l_a) and g(a) = a / u_a^2 + 1 / a for a clamped to [l_a, u_a]; the loss
    is the softmax's plus lambda_g times the mean of g (Meng et al., "MagFace: A Universal Representation for Face
    Recognition and Quality Assessment", 2021, equations 4, 6 and 7). Adding lambda_g g to every logit instead, as one
    public implementation does, changes neither the loss nor its gradients: the softmax cancels it.

    Args:
        l_a, u_a: bounds of the norm.
        l_m, u_m: margins at those bounds, in radians.
        lambda_g: weight of the regularizer.
        beyond_pi, eps: as in [`CombinedMargin`].
    """

    def __init__(
        self,
        l_a: float = 10.0,
        u_a: float = 110.0,
        l_m: float = 0.45,
        u_m: float = 0.8,
        lambda_g: float = 35.0,
        beyond_pi: Literal["clip", "wrap"] = "clip",
        eps: float = 1e-3,
    ):
        super().__init__()
        self.l_a, self.u_a, self.l_m, self.u_m, self.lambda_g = l_a, u_a, l_m, u_m, lambda_g
        self.beyond_pi, self.eps = beyond_pi, eps

    def margin_of_norm(self, norm: Tensor) -> Tensor:
        """m(a), in radians."""
        slope = (self.u_m - self.l_m) / (self.u_a - self.l_a)
        return self.l_m + slope * (norm.clamp(self.l_a, self.u_a) - self.l_a)

    def forward(self, cosine: Tensor, norm: Tensor) -> Tensor:
        return add_angle(cosine, self.margin_of_norm(norm), self.beyond_pi, self.eps)

    def regularizer(self, norm: Tensor) -> Tensor:
        norm = norm.clamp(self.l_a, self.u_a)
        return self.lambda_g * (norm / self.u_a**2 + 1 / norm)
