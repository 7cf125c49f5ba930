"""UniTSFace: one threshold for the similarities of all pairs, a loss without a softmax."""

import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ...heads.margin_softmax import unit_and_norm
from ...models import FaceEmbeddingOutput
from ...registry import methods
from .base import TrainingMethod
from .identity_memory import IdentityMemory

UNITSFACE = """
@inproceedings{unitsface,
  title = {UniTSFace: Unified Threshold Integrated Sample-to-Sample Loss for Face Recognition},
  author = {Li, Qiufu and Jia, Xi and Zhou, Jiancan and Shen, Linlin and Duan, Jinming},
  booktitle = {Advances in Neural Information Processing Systems},
  year = {2023}
}
"""


@methods.register("unitsface", citation=UNITSFACE)
class UniTSFace(TrainingMethod):
    r"""
    One threshold that separates the similarities of the same and of different people, without a softmax.

    With cos_j the cosine between an embedding and the last one of identity j before this batch, y its own identity, and
    b a learned threshold, the loss is the mean over the batch of

        softplus(b - s (cos_y - m)) + sum_{j != y} softplus(s cos_j - b),

    as in the published code of Li et al., NeurIPS 2023, plus `margin_weight` times the loss of the margin head. Terms
    of identities without an earlier image are left out.

    Holds a matrix of the batch by the identities, and an embedding of each identity on every rank.

    Inputs: `pixel_values` (B, 3, H, W) and `labels` (B,). Logs the `threshold` of the cosine, b / s.

    Args:
        m: margin.
        scale: scale s of the cosines.
        margin_weight: weight of the margin head's loss; 0 to leave the head out, as for the paper's USS alone.

    Example:
    ```python
    >>> trainer = FaceTrainer(model, args, train_dataset=people, method=UniTSFace(margin_weight=0.0))
    ```
    """

    memory: IdentityMemory
    bias: nn.Parameter

    def __init__(self, m: float = 0.1, scale: float = 64.0, margin_weight: float = 1.0):
        super().__init__()
        if scale <= 0:
            raise ValueError(f"unitsface: scale must be positive, found {scale}.")
        if margin_weight < 0:
            raise ValueError(f"unitsface: margin_weight must be at least 0, found {margin_weight}.")
        self.m, self.scale, self.margin_weight = m, scale, margin_weight
        self.uses_head = margin_weight > 0

    def setup(self, trainer: Any) -> None:
        self.memory = IdentityMemory.of_model(trainer.model, "method.memory")
        # b, by a name that weight decay leaves out; as the published code starts that of its sample-to-class loss
        self.bias = nn.Parameter(torch.tensor([math.log(10 * trainer.model.config.num_identities)]))

    def losses(self, model: nn.Module, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        labels = batch["labels"]
        output = model(
            pixel_values=batch["pixel_values"],
            labels=labels if self.uses_head else None,
            further=lambda embedding: self.compare(embedding, labels),
        )
        self.memory.update(labels, output.pooler_output)
        self.observe(threshold=output.further["threshold"])
        losses = {"unified_threshold": output.further["loss"]}
        if self.uses_head:
            losses["margin_softmax"] = self.margin_weight * output.loss
        return losses

    def compare(self, embedding: FaceEmbeddingOutput, labels: Tensor) -> dict[str, Tensor]:
        """The loss between embeddings and the memory, and the threshold of the cosine."""
        with torch.autocast(labels.device.type, enabled=False):
            memory = unit_and_norm(self.memory.vectors)[0]
            cosine = embedding.pooler_output.to(memory.dtype) @ memory.T  # (B, C)
            own = F.one_hot(labels.clamp(min=0), len(memory)).bool()
            logits = self.scale * torch.where(own, cosine - self.m, cosine) - self.bias
            terms = F.softplus(torch.where(own, -logits, logits))
            labeled = labels >= 0
            terms = torch.where(labeled[:, None] & self.memory.known, terms, 0)
            return {"loss": terms.sum() / labeled.sum().clamp(min=1), "threshold": self.bias.detach()[0] / self.scale}


__all__ = ["UniTSFace"]
