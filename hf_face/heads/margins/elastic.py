"""Margins drawn at random for each sample."""

from typing import Literal

import torch
from torch import Tensor

from ...registry import margins
from ..counter_random import counter_normal
from .base import Margin, add_angle

ELASTICFACE = """
@inproceedings{elasticface,
  title = {ElasticFace: Elastic Margin Loss for Deep Face Recognition},
  author = {Boutros, Fadi and Damer, Naser and Kirchbuchner, Florian and Kuijper, Arjan},
  booktitle = {Conference on Computer Vision and Pattern Recognition Workshops},
  year = {2022}
}
"""


class _ElasticMargin(Margin):
    """A margin drawn from N(m, std) for each sample; always m in `eval()`."""

    batch_statistics = True  # a sample's draw depends on its position in the batch
    num_draws: Tensor

    def __init__(self, m: float, std: float, plus: bool, seed: int):
        super().__init__()
        self.m, self.std, self.plus, self.seed = m, std, plus, seed
        self.register_buffer("num_draws", torch.tensor(0))

    def draw_margins(self, cosine: Tensor) -> Tensor:
        """Draw margins (B,) for target cosines (B,); with `plus`, the smaller the cosine the larger the margin.

        They depend only on the seed and the number of previous draws, so all ranks and resumed runs draw the same.
        """
        if not self.training:
            return torch.full_like(cosine, self.m)
        index = torch.arange(len(cosine), device=cosine.device)
        drawn = self.m + self.std * counter_normal(index, self.num_draws, self.seed).to(cosine)
        self.num_draws = self.num_draws + 1  # anew: in a compiled backward pass, the draws may be computed once more
        if not self.plus:
            return drawn
        hardest_first = cosine.detach().argsort()
        return torch.empty_like(drawn).scatter(0, hardest_first, drawn.sort(descending=True).values)


@margins.register("elastic_arcface_plus", citation=ELASTICFACE, plus=True)
@margins.register("elastic_arcface", citation=ELASTICFACE)
class ElasticArcFaceMargin(_ElasticMargin):
    r"""cos(theta + E), with E drawn from N(m, std) for each sample.

    Boutros et al., "ElasticFace: Elastic Margin Loss for Deep Face Recognition", 2022, equation 7.

    Args:
        m: mean margin, in radians.
        std: standard deviation of the margin; defaults to the paper's 0.05, or 0.0175 with `plus`.
        plus: assigns the largest margins to the hardest samples (ElasticFace+). The published code indexes with the
            sorting order instead of the rank, and so assigns them differently.
        beyond_pi, eps: as in [`CombinedMargin`].
        seed: seed for the draws.
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
        return add_angle(cosine, self.draw_margins(cosine), self.beyond_pi, self.eps)


@margins.register("elastic_cosface_plus", citation=ELASTICFACE, plus=True)
@margins.register("elastic_cosface", citation=ELASTICFACE)
class ElasticCosFaceMargin(_ElasticMargin):
    r"""cos(theta) - E, with E drawn from N(m, std) for each sample.

    Boutros et al., "ElasticFace: Elastic Margin Loss for Deep Face Recognition", 2022, equation 8.

    Args:
        m: mean margin.
        std: standard deviation of the margin; defaults to the paper's 0.05, or 0.025 with `plus`.
        plus, seed: as in [`ElasticArcFaceMargin`].
    """

    def __init__(self, m: float = 0.35, std: float | None = None, plus: bool = False, seed: int = 0):
        super().__init__(m, std if std is not None else (0.025 if plus else 0.05), plus, seed)

    def forward(self, cosine: Tensor, norm: Tensor) -> Tensor:
        return cosine - self.draw_margins(cosine)
