"""The default method: the margin softmax."""

from torch import Tensor, nn

from ...registry import methods
from .base import TrainingMethod


@methods.register("margin_softmax")
class MarginSoftmax(TrainingMethod):
    r"""
    The margin softmax of the model's head, for any margin.

    With theta_j the angle between an embedding and the class center of identity j, and y its own identity, the loss is
    the mean over the batch of

        -log( exp(s margin(cos theta_y)) / (exp(s margin(cos theta_y)) + sum_{j != y} exp(s cos theta_j)) ),

    plus the margin's regularizer if it has one (MagFace). Margin, scale s and what else the head computes (sub-centers,
    Partial FC) are set in [`FaceRecognitionConfig`] and [`FaceTrainingArguments`]; the margin's paper is cited by the
    model card.

    Inputs: `pixel_values` (B, 3, H, W) and `labels` (B,). Logs the mean norm of the embeddings, `embedding_norm`, and
    the mean cosine with the own class center, `target_cosine`.

    Example:
    ```python
    >>> trainer = FaceTrainer(model, args, train_dataset=people)  # the default
    >>> trainer = FaceTrainer(model, args, train_dataset=people, method=MarginSoftmax())
    ```
    """

    def losses(self, model: nn.Module, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        output = model(pixel_values=batch["pixel_values"], labels=batch["labels"])
        self.observe(embedding_norm=output.norm.mean(), target_cosine=output.target_cosine.mean())
        return {"margin_softmax": output.loss}


__all__ = ["MarginSoftmax"]
