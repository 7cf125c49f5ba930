"""The seam between a training method and the trainer."""

from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

if TYPE_CHECKING:
    from ..trainer import FaceTrainer


class TrainingMethod(nn.Module):
    """
    What a training step minimizes: one function from a batch to named losses.

    The trainer adds the losses up and logs each of them. A subclass writes [`~TrainingMethod.losses`], has a name in
    the registry, and is chosen by `method:` in a recipe or `FaceTrainer(..., method=...)`. Modules and parameters that
    it registers, such as a projection, are trained and checkpointed with the model and left out of what is published.

    Attributes:
        uses_head (`bool`): Whether the margin head is trained. Otherwise it is frozen.

    Example:
    ```python
    >>> from hf_face.registry import methods
    >>> from hf_face.training.methods import TrainingMethod

    >>> @methods.register("short_embeddings")
    ... class ShortEmbeddings(TrainingMethod):
    ...     '''The margin softmax, and a penalty on the length of the embeddings.
    ...
    ...     Args:
    ...         weight: factor on the penalty.
    ...     '''
    ...
    ...     def __init__(self, weight: float = 0.01):
    ...         super().__init__()
    ...         self.weight = weight
    ...
    ...     def losses(self, model, batch):
    ...         output = model(pixel_values=batch["pixel_values"], labels=batch["labels"])
    ...         return {"margin_softmax": output.loss, "length": self.weight * output.norm.mean()}
    ```
    """

    uses_head = True

    def __init__(self):
        super().__init__()
        self._observed: dict[str, Tensor] = {}

    def setup(self, trainer: "FaceTrainer") -> None:
        """
        Called once, when the trainer is made: the place to look at the model, load a teacher, or refuse.

        Raises:
            ValueError: if this method cannot train the trainer's model.
        """

    def losses(self, model: nn.Module, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        """
        The losses of a batch by name, scalars, weighted as they are to be added up.

        Args:
            model: The training model as the engine wraps it. Call it, `model(pixel_values=..., labels=...)`, rather
                than its parts: [`FaceRecognitionModel`] says what it takes and gives.
            batch: On the device of the model:

                - `images` (B, 3, H, W), uint8 RGB, augmented, in [0, 255];
                - `pixel_values` (B, 3, H, W), the same as the backbone takes them;
                - `labels` (B,), int64.
        """
        raise NotImplementedError

    def observe(self, **values: Tensor) -> None:
        """Log further scalars of this batch, such as the mean norm of the embeddings."""
        self._observed |= {name: value.detach() for name, value in values.items()}

    def take_observed(self) -> dict[str, Tensor]:
        """What was observed since the last call."""
        observed, self._observed = self._observed, {}
        return observed

    def compute(self, model: nn.Module, batch: dict[str, Tensor]) -> tuple[Tensor, dict[str, Tensor]]:
        """The sum of the losses, and what to log: each loss where there are several, and what was observed."""
        losses = self.losses(model, batch)
        logged = {name: loss.detach() for name, loss in losses.items()} if len(losses) > 1 else {}
        return torch.stack([loss.reshape(()) for loss in losses.values()]).sum(), logged | self.take_observed()


__all__ = ["TrainingMethod"]
