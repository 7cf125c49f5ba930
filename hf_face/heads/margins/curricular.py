"""Margins that also weight negatives by difficulty."""

from collections.abc import Callable

import torch
from torch import Tensor

from ...registry import margins
from .angular import ArcFaceMargin
from .base import BeyondPi, add_angle

CURRICULARFACE = """
@inproceedings{curricularface,
  title = {CurricularFace: Adaptive Curriculum Learning Loss for Deep Face Recognition},
  author = {Huang, Yuge and Wang, Yuhan and Tai, Ying and Liu, Xiaoming and Shen, Pengcheng and Li, Shaoxin
            and Li, Jilin and Huang, Feiyue},
  booktitle = {Conference on Computer Vision and Pattern Recognition},
  year = {2020}
}
"""


@margins.register("curricularface", citation=CURRICULARFACE)
class CurricularFaceMargin(ArcFaceMargin):
    r"""ArcFace with hard negatives that gain weight during training.

    A negative with cos(theta_j) > cos(theta_y + m) becomes cos(theta_j) (t + cos(theta_j)), with t the running mean
    of the target cosines (Huang et al., "CurricularFace: Adaptive Curriculum Learning Loss for Deep Face Recognition",
    2020, equations 6 to 8).

    Args:
        m, beyond_pi, eps: as in [`ArcFaceMargin`]; the default is the original fallback, as in the published code.
        momentum: weight of the previous t in its update by a batch.
    """

    batch_statistics = True
    t: Tensor

    def __init__(self, m: float = 0.5, momentum: float = 0.99, beyond_pi: BeyondPi = "fallback", eps: float = 1e-3):
        super().__init__(m, beyond_pi, eps=eps)
        self.momentum = momentum
        self.register_buffer("t", torch.tensor(0.0))

    def prepare(self, cosine: Tensor, norm: Tensor, labeled: Tensor) -> None:
        mean = (cosine * labeled).sum() / labeled.sum().clamp(min=1)
        self.t.lerp_(torch.where(labeled.any(), mean.to(self.t), self.t), 1 - self.momentum)

    def negative_rule(self, target: Tensor) -> Callable[[Tensor], Tensor]:
        threshold = add_angle(target, self.m2, "wrap", eps=0.0)[:, None]
        t = self.t.clone()  # the rule runs again in the backward pass, when t may have changed
        return lambda cosine: torch.where(cosine > threshold, cosine * (t + cosine), cosine)
