"""Base class for training methods."""

import torch
from torch import Generator, Tensor, nn
from transformers import Trainer


class TrainingMethod(nn.Module):
    """
    Base class for training methods, which compute named losses from a batch.

    The trainer sums the losses and logs each of them. A subclass implements [`~TrainingMethod.losses`], is registered,
    and is selected by `method:` in a recipe or `FaceTrainer(..., method=...)`. Its modules and parameters, such as a
    projection, are trained and checkpointed with the model, but not published.

    Attributes:
        uses_head (`bool`): Whether to train the margin head, or freeze it.
        generator (`torch.Generator`): For random draws on the CPU, set before each batch; a resumed run repeats them.

    Example:
    ```python
    >>> from hf_face.registry import methods
    >>> from hf_face.training.methods import TrainingMethod

    >>> @methods.register("short_embeddings")
    ... class ShortEmbeddings(TrainingMethod):
    ...     '''The margin softmax with a penalty on the norm of the embeddings.
    ...
    ...     Args:
    ...         weight: weight of the penalty.
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
    generator: Generator | None = None

    def __init__(self):
        super().__init__()
        self._observed: dict[str, Tensor] = {}

    def setup(self, trainer: Trainer) -> None:
        """
        Called once by the trainer's constructor, for example to check the model or load a teacher.

        Raises:
            ValueError: if this method cannot train the trainer's model.
        """

    def losses(self, model: nn.Module, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        """
        Compute the losses of a batch by name, as weighted scalars.

        Args:
            model: The training model, wrapped by the engine. Call it, `model(pixel_values=..., labels=...)`, rather
                than its parts; see [`FaceRecognitionModel`] for its inputs and outputs. The method's own parameters are
                used in a function passed as `further`, or several ranks cannot train them.
            batch: Tensors on the device of the model:

                - `images` (B, 3, H, W), uint8 RGB, augmented, in [0, 255];
                - `pixel_values` (B, 3, H, W), the same images as input of the backbone;
                - `labels` (B,), int64.
        """
        raise NotImplementedError

    def observe(self, **values: Tensor) -> None:
        """Log additional scalars of this batch, such as the mean norm of the embeddings."""
        self._observed |= {name: value.detach() for name, value in values.items()}

    def take_observed(self) -> dict[str, Tensor]:
        """Return the values observed since the last call."""
        observed, self._observed = self._observed, {}
        return observed

    def compute(self, model: nn.Module, batch: dict[str, Tensor]) -> tuple[Tensor, dict[str, Tensor]]:
        """Return the sum of the losses and the values to log: each loss if there are several, and observed values."""
        losses = self.losses(model, batch)
        logged = {name: loss.detach() for name, loss in losses.items()} if len(losses) > 1 else {}
        return torch.stack([loss.reshape(()) for loss in losses.values()]).sum(), logged | self.take_observed()


__all__ = ["TrainingMethod"]
