"""The default method: the margin softmax."""

from torch import Tensor, nn

from ...registry import methods
from .base import TrainingMethod


@methods.register("margin_softmax")
class MarginSoftmax(TrainingMethod):
    """
    The loss of the model's margin head, with any margin.

    Also logs the mean norm of the embeddings and their mean cosine to the target class center.
    """

    def losses(self, model: nn.Module, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        output = model(pixel_values=batch["pixel_values"], labels=batch["labels"])
        self.observe(embedding_norm=output.norm.mean(), target_cosine=output.target_cosine.mean())
        return {"margin_softmax": output.loss}


__all__ = ["MarginSoftmax"]
