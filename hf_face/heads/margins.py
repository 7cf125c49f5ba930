"""Margins: what is done to the cosine between an embedding and its own class center.

Every margin is a module from the target cosine (B,) and the embedding's norm (B,) to the margined cosine (B,). The
table of differences between the published implementations is in docs/margins.md.
"""

import functools
import math
from collections.abc import Callable
from typing import Literal

import torch
from torch import Tensor, nn

from .counter_random import counter_normal

BeyondPi = Literal["clip", "wrap", "fallback"]


def _angle(cosine: Tensor, eps: float) -> Tensor:
    """arccos, without gradient within `eps` of -1 and 1 (of them, for eps=0), where its derivative is infinite."""
    return torch.acos(torch.where(cosine.abs() < 1 - eps, cosine, cosine.detach().clamp(-1 + eps, 1 - eps)))


def _add_angle(cosine: Tensor, m: float | Tensor, beyond_pi: BeyondPi = "clip", eps: float = 1e-3) -> Tensor:
    """cos(theta + m), and beyond theta + m = pi what `beyond_pi` says."""
    angle = _angle(cosine, eps) + m
    if beyond_pi == "clip":
        return torch.cos(angle.clamp(0, math.pi))
    if beyond_pi == "fallback":
        return torch.where(cosine > math.cos(math.pi - m), torch.cos(angle), cosine - m * math.sin(m))
    return torch.cos(angle)


class Margin(nn.Module):
    """What margins have in common: each may do one or more of four things, and most do only the first.

    Attributes:
        normalize: whether logits are cosines; only [`NoMargin`] can say no.
        batch_statistics: whether margins depend on the whole batch: `prepare` and `forward` then see that of all ranks.
    """

    normalize = True
    batch_statistics = False

    def forward(self, cosine: Tensor, norm: Tensor) -> Tensor:
        """The margined cosine (B,) for target cosines (B,) and norms (B,) of the embeddings."""
        raise NotImplementedError

    def prepare(self, cosine: Tensor, norm: Tensor, labeled: Tensor) -> None:
        """Takes statistics of the whole batch, over all ranks, before `forward`. Detached; `labeled` (B,) is bool."""

    def negative_rule(self, target: Tensor) -> Callable[[Tensor], Tensor] | None:
        """What becomes of the cosines to other centers (B, K), given the target cosines (B,); None: they stay."""
        return None

    def regularizer(self, norm: Tensor) -> Tensor | None:
        """A term of the loss for every sample (B,), or None."""
        return None


class NoMargin(Margin):
    r"""Softmax without margin: logits s cos(theta).

    Args:
        normalize: True for NormFace (Wang et al., "NormFace: L2 Hypersphere Embedding for Face Verification", 2017);
            False for a plain linear classifier, whose logits are s W e. Give that one `scale=1.0`.
    """

    def __init__(self, normalize: bool = True):
        super().__init__()
        self.normalize = normalize

    def forward(self, cosine: Tensor, norm: Tensor) -> Tensor:
        return cosine


class CombinedMargin(Margin):
    r"""cos(m1 theta + m2) - m3 (Deng et al., "ArcFace: Additive Angular Margin Loss", 2019, equation 4).

    Args:
        m1: factor on the angle (SphereFace).
        m2: addition to the angle, in radians (ArcFace).
        m3: subtraction from the cosine (CosFace).
        beyond_pi: where m1 theta + m2 exceeds pi, "clip" holds it there (no gradient), "wrap" lets the cosine rise
            again. Defaults to "clip", or to "wrap" when `straight_through` is set.
        straight_through: gives the margined value the gradient of the plain cosine, as InsightFace does (its arccos
            and cos run without gradient; no clip).
        eps: target cosines within `eps` of -1 and 1 are held there and get no gradient. 1e-3 is timm-face's choice,
            1e-4 and 1e-6 are found too. Of no effect with `straight_through`.
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
            raise ValueError(f"straight_through is InsightFace's margin, which does not {beyond_pi} at pi; drop one")
        self.m1, self.m2, self.m3 = m1, m2, m3
        self.beyond_pi, self.straight_through, self.eps = beyond_pi, straight_through, eps

    def forward(self, cosine: Tensor, norm: Tensor) -> Tensor:
        if self.straight_through:
            margined = torch.cos(self.m1 * _angle(cosine.detach(), 0.0) + self.m2) - self.m3
            return margined + (cosine - cosine.detach())
        angle = self.m1 * _angle(cosine, self.eps) + self.m2
        if self.beyond_pi == "clip":
            angle = angle.clamp(0, math.pi)
        return torch.cos(angle) - self.m3

    def extra_repr(self) -> str:
        return f"m1={self.m1}, m2={self.m2}, m3={self.m3}"


class ArcFaceMargin(CombinedMargin):
    r"""cos(theta + m) (Deng et al., "ArcFace: Additive Angular Margin Loss", 2019, equation 3).

    Args:
        m: the angular margin, in radians.
        beyond_pi: as in [`CombinedMargin`], and "fallback": cos(theta) - m sin(m), the original implementation.
        easy_margin: the margin acts only where cos(theta) > 0.
        straight_through, eps: as in [`CombinedMargin`].
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
            raise ValueError("straight_through is InsightFace's margin, which has no easy_margin; drop one")
        self.easy_margin = easy_margin

    def forward(self, cosine: Tensor, norm: Tensor) -> Tensor:
        if self.beyond_pi == "fallback":
            margined = _add_angle(cosine, self.m2, "fallback", self.eps)
        else:
            margined = super().forward(cosine, norm)
        return torch.where(cosine > 0, margined, cosine) if self.easy_margin else margined


class SphereFaceMargin(Margin):
    r"""cos(m theta) (Liu et al., "SphereFace: Deep Hypersphere Embedding for Face Recognition", 2017, equation 6).

    Args:
        m: the factor on the angle.
        monotone: the paper's psi(theta) = (-1)^k cos(m theta) - 2k with k = floor(m theta / pi), which falls all the
            way to theta = pi. The plain cos(m theta), which rises again beyond pi / m, is what the circulating
            implementations compute and the default; to train from scratch, set `monotone=True`.
        eps: as in [`CombinedMargin`].
    """

    def __init__(self, m: float = 4.0, monotone: bool = False, eps: float = 1e-3):
        super().__init__()
        self.m, self.monotone, self.eps = m, monotone, eps

    def forward(self, cosine: Tensor, norm: Tensor) -> Tensor:
        angle = self.m * _angle(cosine, self.eps)
        if not self.monotone:
            return torch.cos(angle)
        k = torch.floor(angle.detach() / math.pi)
        return (1 - 2 * (k % 2)) * torch.cos(angle) - 2 * k


class CosFaceMargin(Margin):
    r"""cos(theta) - m (Wang et al., "CosFace: Large Margin Cosine Loss for Deep Face Recognition", 2018, equation 4).

    Args:
        m: the margin. The paper trains with 0.35, InsightFace's recipes with 0.4.
    """

    def __init__(self, m: float = 0.35):
        super().__init__()
        self.m = m

    def forward(self, cosine: Tensor, norm: Tensor) -> Tensor:
        return cosine - self.m


class AdaFaceMargin(Margin):
    r"""cos(theta - m q) - m (1 + q), with q the quality of the image as its norm tells it.

    q = clip((norm - mean) / std * h, -1, 1), with running mean and std of the norms (Kim et al., "AdaFace: Quality
    Adaptive Margin for Face Recognition", 2022, equations 13 to 16). Norms carry no gradient here.

    Args:
        m: the margin.
        h: the concentration of q.
        t_alpha: weight of the batch in the running statistics; 1.0 uses those of the batch alone.
        eps: as in [`CombinedMargin`].
    """

    batch_statistics = True

    def __init__(self, m: float = 0.4, h: float = 0.333, t_alpha: float = 0.01, eps: float = 1e-3):
        super().__init__()
        self.m, self.h, self.t_alpha, self.eps = m, h, t_alpha, eps
        self.register_buffer("norm_mean", torch.tensor(20.0))
        self.register_buffer("norm_std", torch.tensor(100.0))

    def prepare(self, cosine: Tensor, norm: Tensor, labeled: Tensor) -> None:
        norm, count = norm.clamp(1e-3, 100), labeled.sum()
        mean = (norm * labeled).sum() / count.clamp(min=1)
        variance = ((norm - mean).square() * labeled).sum() / (count - 1).clamp(min=1)
        # One image has no spread, and none has no mean: the running values then stay as they are.
        self.norm_mean.lerp_(torch.where(count > 0, mean.to(self.norm_mean), self.norm_mean), self.t_alpha)
        self.norm_std.lerp_(torch.where(count > 1, variance.sqrt().to(self.norm_std), self.norm_std), self.t_alpha)

    def forward(self, cosine: Tensor, norm: Tensor) -> Tensor:
        norm = norm.detach().clamp(1e-3, 100)
        quality = ((norm - self.norm_mean) / (self.norm_std + 1e-3) * self.h).clamp(-1, 1)
        return _add_angle(cosine, -self.m * quality, "clip", self.eps) - self.m * (1 + quality)


class MagFaceMargin(Margin):
    r"""cos(theta + m(a)), where the margin m grows with the norm a, and a regularizer that makes norms grow.

    m(a) = l_m + (u_m - l_m) (a - l_a) / (u_a - l_a) and g(a) = a / u_a^2 + 1 / a for a held in [l_a, u_a]; the loss
    is the softmax's plus lambda_g times the mean of g (Meng et al., "MagFace: A Universal Representation for Face
    Recognition and Quality Assessment", 2021, equations 4, 6 and 7). Adding lambda_g g to every logit instead, as one
    circulating implementation does, changes neither the loss nor a gradient: the softmax cancels it.

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
        return _add_angle(cosine, self.margin_of_norm(norm), self.beyond_pi, self.eps)

    def regularizer(self, norm: Tensor) -> Tensor:
        norm = norm.clamp(self.l_a, self.u_a)
        return self.lambda_g * (norm / self.u_a**2 + 1 / norm)


class _ElasticMargin(Margin):
    """A margin drawn anew for every sample from N(m, std), and m itself in `eval()`."""

    batch_statistics = True  # a sample's draw goes by its place in the batch

    def __init__(self, m: float, std: float, plus: bool, seed: int):
        super().__init__()
        self.m, self.std, self.plus, self.seed = m, std, plus, seed
        self.register_buffer("num_draws", torch.tensor(0))

    def draw_margins(self, cosine: Tensor) -> Tensor:
        """Margins (B,) for target cosines (B,); with `plus`, the smaller the cosine the larger the margin.

        They depend on the seed and the number of draws before: all ranks draw the same, and so does a resumed run.
        """
        if not self.training:
            return torch.full_like(cosine, self.m)
        index = torch.arange(len(cosine), device=cosine.device)
        margins = self.m + self.std * counter_normal(index, self.num_draws, self.seed).to(cosine)
        self.num_draws += 1
        if not self.plus:
            return margins
        hardest_first = cosine.detach().argsort()
        return torch.empty_like(margins).scatter(0, hardest_first, margins.sort(descending=True).values)


class ElasticArcFaceMargin(_ElasticMargin):
    r"""cos(theta + E), E drawn from N(m, std) for every sample.

    Boutros et al., "ElasticFace: Elastic Margin Loss for Deep Face Recognition", 2022, equation 7.

    Args:
        m: mean margin, in radians.
        std: its standard deviation; the paper's 0.05, or 0.0175 with `plus`, by default.
        plus: gives the largest margins to the hardest samples (ElasticFace+). The published code indexes with the
            sorting order where its rank is meant, and so hands them out otherwise.
        beyond_pi, eps: as in [`CombinedMargin`].
        seed: of the draws.
    """

    def __init__(
        self,
        m: float = 0.5,
        std: float | None = None,
        plus: bool = False,
        beyond_pi: Literal["clip", "wrap"] = "clip",
        eps: float = 1e-3,
        seed: int = 0,
    ):
        super().__init__(m, std if std is not None else (0.0175 if plus else 0.05), plus, seed)
        self.beyond_pi, self.eps = beyond_pi, eps

    def forward(self, cosine: Tensor, norm: Tensor) -> Tensor:
        return _add_angle(cosine, self.draw_margins(cosine), self.beyond_pi, self.eps)


class ElasticCosFaceMargin(_ElasticMargin):
    r"""cos(theta) - E, E drawn from N(m, std) for every sample.

    Boutros et al., "ElasticFace: Elastic Margin Loss for Deep Face Recognition", 2022, equation 8.

    Args:
        m: mean margin.
        std: its standard deviation; the paper's 0.05, or 0.025 with `plus`, by default.
        plus, seed: as in [`ElasticArcFaceMargin`].
    """

    def __init__(self, m: float = 0.35, std: float | None = None, plus: bool = False, seed: int = 0):
        super().__init__(m, std if std is not None else (0.025 if plus else 0.05), plus, seed)

    def forward(self, cosine: Tensor, norm: Tensor) -> Tensor:
        return cosine - self.draw_margins(cosine)


class CurricularFaceMargin(ArcFaceMargin):
    r"""ArcFace whose hard negatives weigh more as training goes on.

    A negative with cos(theta_j) > cos(theta_y + m) becomes cos(theta_j) (t + cos(theta_j)), with t the running mean
    of the target cosines (Huang et al., "CurricularFace: Adaptive Curriculum Learning Loss for Deep Face Recognition",
    2020, equations 6 to 8).

    Args:
        m, beyond_pi, eps: as in [`ArcFaceMargin`]; the published code has the original fallback, and so has this.
        momentum: weight of the old t when a batch comes in.
    """

    batch_statistics = True

    def __init__(self, m: float = 0.5, momentum: float = 0.99, beyond_pi: BeyondPi = "fallback", eps: float = 1e-3):
        super().__init__(m, beyond_pi, eps=eps)
        self.momentum = momentum
        self.register_buffer("t", torch.tensor(0.0))

    def prepare(self, cosine: Tensor, norm: Tensor, labeled: Tensor) -> None:
        mean = (cosine * labeled).sum() / labeled.sum().clamp(min=1)
        self.t.lerp_(torch.where(labeled.any(), mean.to(self.t), self.t), 1 - self.momentum)

    def negative_rule(self, target: Tensor) -> Callable[[Tensor], Tensor]:
        threshold = _add_angle(target, self.m2, "wrap", eps=0.0)[:, None]
        t = self.t.clone()  # the rule runs again in the backward pass, when t may have moved on
        return lambda cosine: torch.where(cosine > threshold, cosine * (t + cosine), cosine)


MARGINS: dict[str, Callable[..., Margin]] = {
    "linear": functools.partial(NoMargin, normalize=False),
    "normface": NoMargin,
    "sphereface": SphereFaceMargin,
    "cosface": CosFaceMargin,
    "arcface": ArcFaceMargin,
    "combined": CombinedMargin,
    "adaface": AdaFaceMargin,
    "magface": MagFaceMargin,
    "elastic_arcface": ElasticArcFaceMargin,
    "elastic_arcface_plus": functools.partial(ElasticArcFaceMargin, plus=True),
    "elastic_cosface": ElasticCosFaceMargin,
    "elastic_cosface_plus": functools.partial(ElasticCosFaceMargin, plus=True),
    "curricularface": CurricularFaceMargin,
}


def build_margin(name: str, **kwargs) -> Margin:
    """The margin of a short name, as recipes write it: `build_margin("arcface", m=0.4)`.

    Raises:
        ValueError: for a name that is not in `MARGINS`, or an argument that the margin does not have.
    """
    if name not in MARGINS:
        raise ValueError(f"margin {name!r} is not known; choose one of {', '.join(MARGINS)}")
    try:
        return MARGINS[name](**kwargs)
    except TypeError as error:
        raise ValueError(f"margin {name!r}: {error}") from error
