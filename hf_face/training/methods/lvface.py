"""LVFace's progressive cluster optimization: class centers are held by the expectations of their embeddings."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from safetensors import safe_open
from torch import Tensor, nn

from ...heads.margin_softmax import NEVER, Classes, margin_softmax
from ...heads.partial_fc import sample_classes, sampled_classes
from ...models import FaceEmbeddingOutput
from ...models.configuration_vit_face import LVFACE
from ...registry import methods
from .base import TrainingMethod
from .identity_memory import IdentityMemory

MEMORY = "method.expectations"


@methods.register("lvface", citation=LVFACE)
class LVFace(TrainingMethod):
    r"""
    The margin softmax with a penalty from the expectations of the identities' embeddings.

    With t = s margin(cos theta_y) the margined logit of a sample's own class center and n_j = s cos theta_j that of
    another, and t^e and n_j^e the same for the expectations e_j instead of the centers, the loss is the mean over the
    batch of

        log(1 + sum_{j != y} exp(n_j - t) + sum_{j != y} exp(n_j^e - t^e)),

    equations 11 and 12 of You et al., ICCV 2025. After the step, e_y becomes alpha e_y + (1 - alpha) x, with x the
    embedding and alpha = sigmoid(cos(x, e_y)). Identities without an earlier image have no expectation, and their terms
    are left out.

    Of the paper's three stages, the first is `margin_softmax` with `partial_fc_sample_rate: 0.1`, the second this
    method with the same rate, and the third this method with all negatives. Each starts from the one before, by
    `model_name_or_path`, `head_from` and, the third, `expectations_from`. A stage ends after its steps, not at the
    paper's thresholds of the mean squared cosine.

    Keeps an expectation of each identity on every rank. Inputs: `pixel_values` (B, 3, H, W) and `labels` (B,). Logs
    `embedding_norm` and `target_cosine` as [`MarginSoftmax`] does.

    Args:
        expectations_from: checkpoint folder to start the expectations from, of a run with this method.
        update: whether to update the expectations.

    Example:
    ```python
    >>> trainer = FaceTrainer(model, args, train_dataset=people, method=LVFace())
    ```
    """

    expectations: IdentityMemory

    def __init__(self, expectations_from: str | Path | None = None, update: bool = True):
        super().__init__()
        self.expectations_from, self.update = expectations_from, update

    def setup(self, trainer: Any) -> None:
        head = trainer.model.head
        if head.margin.batch_statistics:
            raise ValueError(
                f"The method lvface applies the margin twice, and {trainer.model.config.margin} follows the statistics "
                "of the batch: set margin to cosface or arcface."
            )
        if self.expectations_from is None and not self.update:
            raise ValueError("lvface: update=False without expectations_from leaves all expectations unknown.")
        self._head = (head,)  # not a module of this one
        self.expectations = IdentityMemory.of_model(trainer.model, MEMORY)
        if self.expectations_from is not None:
            self.expectations.vectors.copy_(self._read(Path(self.expectations_from)))

    def _read(self, folder: Path) -> Tensor:
        name, size = f"{MEMORY}.vectors", tuple(self.expectations.vectors.shape)
        for path in sorted(folder.glob("model*.safetensors")):
            with safe_open(path, "pt") as file:
                found = file.get_tensor(name) if name in set(file.keys()) else None
            if found is not None and found.shape != size:
                raise ValueError(
                    f"{path} has the expectations of {len(found)} identities, of size {found.shape[1]}, but this model "
                    f"has {size[0]} identities and embedding size {size[1]}."
                )
            if found is not None:
                return found
        raise ValueError(f"{folder} has no expectations: it must be a checkpoint of a run with the method lvface.")

    def losses(self, model: nn.Module, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        labels = batch["labels"]
        output = model(
            pixel_values=batch["pixel_values"],
            labels=labels,
            rival=lambda embedding: self.penalty(embedding, labels),
        )
        if self.update:
            self.expectations.update(labels, output.pooler_output, merge=follow)
        self.observe(embedding_norm=output.norm.mean(), target_cosine=output.target_cosine.mean())
        return {"margin_softmax": output.loss}

    def penalty(self, embedding: FaceEmbeddingOutput, labels: Tensor) -> Tensor:
        """(B,), log sum_{j != y} exp(n_j^e - t^e)."""
        (head,) = self._head
        softmax = margin_softmax(
            embedding.pooler_output,
            embedding.norm,
            self._classes(labels),
            labels >= 0,
            head.margin,
            head.scale,
            head.chunk_size,
            head.filter_threshold,
        )
        return torch.where(self.expectations.known[labels], softmax.excess, NEVER)  # not used without a label

    def _classes(self, labels: Tensor) -> Classes:
        """The expectations of the same sample of identities as in the head, unknown ones with a logit of NEVER."""
        (head,), vectors = self._head, self.expectations.vectors
        sample = sample_classes(labels, len(vectors), head.sample_rate, 0, head.num_samples, head.seed)
        # A copy, which chunks keep for the gradient while the update changes the vectors.
        classes = sampled_classes(vectors, labels, sample, head.sample_rate, sub_centers=1)
        known = classes.centers.any(1)
        weight = torch.zeros_like(known, dtype=vectors.dtype) if classes.log_weight is None else classes.log_weight
        return replace(classes, log_weight=torch.where(known, weight, NEVER))


def follow(expectation: Tensor, embedding: Tensor) -> Tensor:
    """The new expectations (n, D), which move less the nearer the embeddings (n, D) already are."""
    alpha = F.cosine_similarity(expectation, embedding).sigmoid()[:, None]
    return alpha * expectation + (1 - alpha) * embedding


__all__ = ["LVFace"]
