"""A memory of one embedding for each identity."""

from collections.abc import Callable

import torch
import torch.distributed as dist
from torch import Tensor, nn

from ...heads.sharding import gather_rows
from ...recognition import FaceRecognitionModel


class IdentityMemory(nn.Module):
    """
    One vector for each identity, zero until its first image, and the same on every rank.

    Args:
        num_identities: number of identities C.
        embedding_size: embedding size D.

    Attributes:
        vectors: (C, D), saved with checkpoints.
    """

    vectors: Tensor

    def __init__(self, num_identities: int, embedding_size: int):
        super().__init__()
        self.register_buffer("vectors", torch.zeros(num_identities, embedding_size))

    @classmethod
    def of_model(cls, model: FaceRecognitionModel, name: str) -> "IdentityMemory":
        """A memory for the embeddings of a training model, which is to be the module `name` of it."""
        config = model.config
        # The ranks update theirs alike, so that DDP need not send it from the first one in every step.
        model._ddp_params_and_buffers_to_ignore += [f"{name}.vectors"]  # type: ignore[operator]
        return cls(config.num_identities, config.backbone_config.embedding_size)

    @property
    def known(self) -> Tensor:
        """(C,) bool, the identities with a vector."""
        return self.vectors.any(1)

    @torch.no_grad()
    def update(
        self, labels: Tensor, embeddings: Tensor, merge: Callable[[Tensor, Tensor], Tensor] | None = None
    ) -> None:
        """
        Store the embeddings of a batch of all ranks; the last one of an identity counts. Must be called on every rank.

        Args:
            labels: (B,); images with the label -1 are left out.
            embeddings: (B, D).
            merge: computes what is stored from the former vectors (n, D) and the embeddings (n, D) of known identities;
                the embeddings by default.
        """
        embeddings = embeddings.detach().to(self.vectors)
        if dist.is_initialized():
            labels, embeddings = (gather_rows(rows, dist.group.WORLD) for rows in (labels, embeddings))
        labels, embeddings = labels[labels >= 0], embeddings[labels >= 0]
        last = labels.new_full((len(self.vectors),), -1)
        last.scatter_reduce_(0, labels, torch.arange(len(labels), device=labels.device), "amax")
        rows = last[last >= 0]
        labels, new = labels[rows], embeddings[rows]
        if merge is not None:
            old = self.vectors[labels]
            new = torch.where(old.any(1, keepdim=True), merge(old, new), new)
        self.vectors[labels] = new
