"""Margins on the angle or the cosine that are the same for every sample."""

import math

import torch
from torch import Tensor

from ...registry import margins
from .base import BeyondPi, Margin, add_angle, angle_of

NORMFACE = """
@inproceedings{normface,
  title = {NormFace: L2 Hypersphere Embedding for Face Verification},
  author = {Wang, Feng and Xiang, Xiang and Cheng, Jian and Yuille, Alan Loddon},
  booktitle = {ACM International Conference on Multimedia},
  year = {2017}
}
"""

SPHEREFACE = """
@inproceedings{sphereface,
  title = {SphereFace: Deep Hypersphere Embedding for Face Recognition},
  author = {Liu, Weiyang and Wen, Yandong and Yu, Zhiding and Li, Ming and Raj, Bhiksha and Song, Le},
  booktitle = {Conference on Computer Vision and Pattern Recognition},
  year = {2017}
}
"""

COSFACE = """
@inproceedings{cosface,
  title = {CosFace: Large Margin Cosine Loss for Deep Face Recognition},
  author = {Wang, Hao and Wang, Yitong and Zhou, Zheng and Ji, Xing and Gong, Dihong and Zhou, Jingchao and Li, Zhifeng
            and Liu, Wei},
  booktitle = {Conference on Computer Vision and Pattern Recognition},
  year = {2018}
}
"""

ARCFACE = """
@inproceedings{arcface,
  title = {ArcFace: Additive Angular Margin Loss for Deep Face Recognition},
  author = {Deng, Jiankang and Guo, Jia and Xue, Niannan and Zafeiriou, Stefanos},
  booktitle = {Conference on Computer Vision and Pattern Recognition},
  year = {2019}
}
"""


@margins.register("normface", citation=NORMFACE)
@margins.register("linear", normalize=False)
class NoMargin(Margin):
    r"""cos(theta), without margin; or W e without normalization.

    Args:
        normalize: True for NormFace (Wang et al., "NormFace: L2 Hypersphere Embedding for Face Verification", 2017);
            False for a plain linear classifier with logits s W e, which should use `scale=1.0`.
    """

    def __init__(self, normalize: bool = True):
        super().__init__()
        self.normalize = normalize

    def forward(self, cosine: Tensor, norm: Tensor) -> Tensor:
        return cosine


@margins.register("combined", citation=ARCFACE)
class CombinedMargin(Margin):
    r"""cos(m1 theta + m2) - m3.

    Deng et al., "ArcFace: Additive Angular Margin Loss for Deep Face Recognition", 2019, equation 4.

    Args:
        m1: factor multiplying the angle (SphereFace).
        m2: angle to add, in radians (ArcFace).
        m3: value to subtract from the cosine (CosFace).
        beyond_pi: if m1 theta + m2 exceeds pi, "clip" clamps it to pi (no gradient), "wrap" lets the cosine rise again.
            Defaults to "clip", or to "wrap" if `straight_through` is set.
        straight_through: passes the gradient of the plain cosine through the margin, as InsightFace does (its arccos
            and cos run without gradient; no clip).
        eps: target cosines within `eps` of -1 and 1 are clamped and get no gradient. timm-face uses 1e-3, others 1e-4
            or 1e-6. Has no effect with `straight_through`.

    Raises:
        ValueError: if `straight_through` comes with a `beyond_pi` other than "wrap".
    """

    def __init__(
        self,
        m1: float = 1.0,
        m2: float = 0.3,
        m3: float = 0.2,
        beyond_pi: BeyondPi | None = None,
        straight_through: bool = False,
        eps: float = 1e-3,
    ):
        super().__init__()
        beyond_pi = beyond_pi or ("wrap" if straight_through else "clip")
        if straight_through and beyond_pi != "wrap":
            raise ValueError(
                f"straight_through is InsightFace's margin, which has no beyond_pi={beyond_pi!r}. Remove one of them"
            )
        self.m1, self.m2, self.m3 = m1, m2, m3
        self.beyond_pi, self.straight_through, self.eps = beyond_pi, straight_through, eps

    def forward(self, cosine: Tensor, norm: Tensor) -> Tensor:
        if self.straight_through:
            margined = torch.cos(self.m1 * angle_of(cosine.detach(), 0.0) + self.m2) - self.m3
            return margined + (cosine - cosine.detach())
        angle = self.m1 * angle_of(cosine, self.eps) + self.m2
        if self.beyond_pi == "clip":
            angle = angle.clamp(0, math.pi)
        return torch.cos(angle) - self.m3

    def extra_repr(self) -> str:
        return f"m1={self.m1}, m2={self.m2}, m3={self.m3}"


@margins.register("arcface", citation=ARCFACE)
class ArcFaceMargin(CombinedMargin):
    r"""cos(theta + m).

    Deng et al., "ArcFace: Additive Angular Margin Loss for Deep Face Recognition", 2019, equation 3.

    Args:
        m: the angular margin, in radians.
        beyond_pi: as in [`CombinedMargin`], or "fallback": cos(theta) - m sin(m), as in the original implementation.
        easy_margin: applies the margin only if cos(theta) > 0.
        straight_through, eps: as in [`CombinedMargin`].

    Raises:
        ValueError: if `straight_through` comes with `easy_margin`, or a `beyond_pi` other than "wrap".
    """

    def __init__(
        self,
        m: float = 0.5,
        beyond_pi: BeyondPi | None = None,
        easy_margin: bool = False,
        straight_through: bool = False,
        eps: float = 1e-3,
    ):
        super().__init__(1.0, m, 0.0, beyond_pi, straight_through, eps)
        if easy_margin and straight_through:
            raise ValueError("straight_through is InsightFace's margin, which has no easy_margin. Remove one of them")
        self.easy_margin = easy_margin

    def forward(self, cosine: Tensor, norm: Tensor) -> Tensor:
        if self.beyond_pi == "fallback":
            margined = add_angle(cosine, self.m2, "fallback", self.eps)
        else:
            margined = super().forward(cosine, norm)
        return torch.where(cosine > 0, margined, cosine) if self.easy_margin else margined


@margins.register("sphereface", citation=SPHEREFACE)
class SphereFaceMargin(Margin):
    r"""cos(m theta), or the paper's psi(theta) with `monotone`.

    Liu et al., "SphereFace: Deep Hypersphere Embedding for Face Recognition", 2017, equation 6.

    Args:
        m: the factor on the angle.
        monotone: whether to use the paper's psi(theta) = (-1)^k cos(m theta) - 2k with k = floor(m theta / pi), which
            decreases up to theta = pi. The default, as in public implementations, is the plain cos(m theta), which
            rises again beyond pi / m; to train from scratch, set `monotone=True`.
        eps: as in [`CombinedMargin`].
    """

    def __init__(self, m: float = 4.0, monotone: bool = False, eps: float = 1e-3):
        super().__init__()
        self.m, self.monotone, self.eps = m, monotone, eps

    def forward(self, cosine: Tensor, norm: Tensor) -> Tensor:
        angle = self.m * angle_of(cosine, self.eps)
        if not self.monotone:
            return torch.cos(angle)
        k = torch.floor(angle.detach() / math.pi)
        return (1 - 2 * (k % 2)) * torch.cos(angle) - 2 * k


@margins.register("cosface", citation=COSFACE)
class CosFaceMargin(Margin):
    r"""cos(theta) - m.

    Wang et al., "CosFace: Large Margin Cosine Loss for Deep Face Recognition", 2018, equation 4.

    Args:
        m: the margin. The paper uses 0.35, InsightFace's recipes 0.4.
    """

    def __init__(self, m: float = 0.35):
        super().__init__()
        self.m = m

    def forward(self, cosine: Tensor, norm: Tensor) -> Tensor:
        return cosine - self.m
