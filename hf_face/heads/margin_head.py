"""The classifier over identities, which is needed for training but not for inference."""

from dataclasses import dataclass

import torch
import torch.distributed as dist
from torch import Tensor, nn
from transformers.utils import ModelOutput

from .margin_softmax import Classes, check_chunk_size, check_labels, compute_dtype, margin_softmax, weighted_mean
from .margins import Margin, build_margin
from .partial_fc import sample_classes, sampled_classes
from .sharding import check_same_batch_size, gather_rows, gather_with_gradient, shard_range

_INIT_BLOCK = 4096  # rows drawn from one generator, so that a shard gets the same values as its rows in a whole head


@dataclass
class MarginHeadOutput(ModelOutput):
    """Output of a [`MarginHead`].

    Attributes:
        loss: scalar, including the regularizer.
        target_cosine: (B,) cosine to the sample's class center, detached; 0 for ignored samples.
        regularizer: scalar, detached; None if the margin has none.
    """

    loss: Tensor | None = None
    target_cosine: Tensor | None = None
    regularizer: Tensor | None = None


class MarginHead(nn.Module):
    """Class centers and the margin softmax over them: over all classes, a sample of them, or split over ranks.

    Args:
        embedding_size: embedding size D.
        num_identities: number of identities, over all ranks.
        margin: name of a margin (see [`build_margin`]) or a [`Margin`].
        margin_kwargs: the margin's arguments, if it is given by name.
        scale: scale s of the cosines.
        sub_centers: number of class centers per identity.
        chunk_size: number of classes to hold logits of at a time; None for all (see [`margin_softmax_loss`]).
        sample_rate: if below 1, trains on the batch's identities and this fraction of the others (Partial FC); the
            optimizer then requires [`step_sampled_rows_only`].
        filter_threshold: see [`margin_softmax_loss`].
        seed: seed for sampling.
        group: ranks to split the class centers over on creation; [`shard`] does so later.

    Attributes:
        weight: (num_identities * sub_centers, embedding_size), or this rank's rows.
        first_label, last_label: the identities [first_label, last_label) of this rank.

    Raises:
        ValueError: for a sample_rate outside (0, 1], a chunk_size below 1 or an unknown margin.
    """

    num_samples: Tensor

    def __init__(
        self,
        embedding_size: int,
        num_identities: int,
        margin: str | Margin = "arcface",
        margin_kwargs: dict | None = None,
        scale: float = 64.0,
        sub_centers: int = 1,
        chunk_size: int | None = None,
        sample_rate: float = 1.0,
        filter_threshold: float | None = None,
        seed: int = 0,
        group: dist.ProcessGroup | None = None,
    ):
        super().__init__()
        if not 0 < sample_rate <= 1:
            raise ValueError(f"sample_rate must be in (0, 1], found {sample_rate}")
        check_chunk_size(chunk_size)
        self.embedding_size, self.num_identities, self.sub_centers = embedding_size, num_identities, sub_centers
        self.margin = build_margin(margin, **(margin_kwargs or {})) if isinstance(margin, str) else margin
        self.scale, self.chunk_size, self.filter_threshold = scale, chunk_size, filter_threshold
        self.sample_rate, self.seed = sample_rate, seed
        self.register_buffer("num_samples", torch.tensor(0))
        self._split_over(group)
        rows = (self.last_label - self.first_label) * sub_centers
        self.weight = nn.Parameter(torch.empty(rows, embedding_size))
        if not self.weight.is_meta:  # on the meta device, from_pretrained fills in the values
            self.reset_parameters()

    @torch.no_grad()
    def reset_parameters(self) -> None:
        """Draw class centers from N(0, 0.01^2); the same torch seed gives the same centers on any number of ranks."""
        generator, seed = torch.Generator(), int(torch.randint(2**62, (), device="cpu"))
        first, last = self.own_rows.start, self.own_rows.stop
        for block in range(first // _INIT_BLOCK, -(-last // _INIT_BLOCK)):
            generator.manual_seed(seed + block)
            rows = 0.01 * torch.randn(_INIT_BLOCK, self.embedding_size, generator=generator, device="cpu")
            start, stop = max(first, block * _INIT_BLOCK), min(last, (block + 1) * _INIT_BLOCK)
            self.weight[start - first : stop - first] = rows[start - block * _INIT_BLOCK : stop - block * _INIT_BLOCK]

    def shard(self, group: dist.ProcessGroup) -> None:
        """Keep only this rank's rows of the class centers. Call on every rank, before creating the optimizer."""
        self._split_over(group)
        own = self.weight.detach()[self.own_rows].clone()
        self.weight = nn.Parameter(own, requires_grad=self.weight.requires_grad)

    @property
    def own_rows(self) -> slice:
        """This rank's rows in the weight of all class centers."""
        return slice(self.first_label * self.sub_centers, self.last_label * self.sub_centers)

    def _split_over(self, group: dist.ProcessGroup | None) -> None:
        self.group = group
        rank, world_size = (0, 1) if group is None else (dist.get_rank(group), dist.get_world_size(group))
        self.first_label, self.last_label = shard_range(self.num_identities, rank, world_size)

    def forward(
        self,
        direction: Tensor,
        norm: Tensor,
        labels: Tensor,
        sample_weight: Tensor | None = None,
        rival: Tensor | None = None,
    ) -> MarginHeadOutput:
        """
        Compute the loss of a batch of embeddings from a face model.

        With several ranks, all must have the same B, and gradients must be averaged over ranks, as DDP does. The loss
        of a split head is the mean over the samples of all ranks; the losses of replicated heads average to the same
        value.

        Args:
            direction: (B, D), unit-length embeddings (`pooler_output`).
            norm: (B, 1), length of the embeddings before normalization.
            labels: (B,) int64; samples with label -1 are ignored.
            sample_weight: (B,) weights of the samples' losses.
            rival: (B,) logits of one more negative for each sample, relative to the sample's own.

        Raises:
            ValueError: for labels out of range, or ranks with different numbers of samples.
        """
        batch_size, copies = len(labels), self._ranks_with_copies()
        if ranks := self.group or copies:
            check_same_batch_size(batch_size, ranks, labels.device)
        if self.group is not None:
            direction, norm, rival = self._gather(direction, norm, rival)
            labels = gather_rows(labels, self.group)
            if sample_weight is not None:
                sample_weight = gather_rows(sample_weight, self.group)
        check_labels(labels, self.num_identities)
        labeled = labels >= 0
        softmax = margin_softmax(
            direction,
            norm,
            self._classes(labels),
            labeled,
            self.margin,
            self.scale,
            self.chunk_size,
            self.filter_threshold,
            self.group,
            statistics_group=copies,
            rival=rival,
        )
        loss = weighted_mean(softmax.cross_entropy, labeled, sample_weight, copies)
        regularizer = None
        if softmax.regularizer is not None:
            regularizer = weighted_mean(softmax.regularizer, labeled, None, copies)
            loss = loss + regularizer
            regularizer = regularizer.detach()
        own = slice(0, batch_size)
        if self.group is not None:
            rank = dist.get_rank(self.group)
            own = slice(rank * batch_size, (rank + 1) * batch_size)
        return MarginHeadOutput(loss, softmax.target_cosine[own], regularizer)

    def _gather(self, direction: Tensor, norm: Tensor, rival: Tensor | None) -> tuple[Tensor, Tensor, Tensor | None]:
        """The embeddings, and rivals if there are any, of all ranks, by a single collective."""
        dtype, size = compute_dtype(direction, self.weight), direction.shape[1]
        columns = [direction, norm] if rival is None else [direction, norm, rival[:, None]]
        rows = gather_with_gradient(torch.cat([column.to(dtype) for column in columns], dim=1), self.group)
        return rows[:, :size], rows[:, size, None], None if rival is None else rows[:, -1]

    def sample(self, labels: Tensor) -> Tensor:
        """The identities for a training step, as ascending positions among this rank's identities."""
        num_classes = self.last_label - self.first_label
        return sample_classes(labels, num_classes, self.sample_rate, self.first_label, self.num_samples, self.seed)

    def _classes(self, labels: Tensor) -> Classes:
        labels = labels - self.first_label  # -1 stays negative: not available
        if self.sample_rate == 1 or not self.training:
            return Classes(self.weight, labels, sub_centers=self.sub_centers)
        sample = self.sample(labels)
        self.num_samples += 1
        return sampled_classes(self.weight, labels, sample, self.sample_rate, self.sub_centers)

    def _ranks_with_copies(self) -> dist.ProcessGroup | None:
        """The ranks that train replicas of this head on their own samples; in `eval()`, a rank may run alone."""
        if self.training and self.group is None and dist.is_initialized() and dist.get_world_size() > 1:
            return dist.group.WORLD
        return None

    # A rank's shard is not the model's weight: state dicts leave it out, and save_head saves it instead.

    def _save_to_state_dict(self, destination, prefix, keep_vars):
        super()._save_to_state_dict(destination, prefix, keep_vars)
        if self.group is not None:
            del destination[prefix + "weight"]

    def _load_from_state_dict(self, state_dict, prefix, *args):
        key = prefix + "weight"
        if self.group is not None:
            whole = state_dict.get(key)
            state_dict = {**state_dict, key: self.weight if whole is None else whole[self.own_rows]}
        super()._load_from_state_dict(state_dict, prefix, *args)

    def extra_repr(self) -> str:
        return (
            f"embedding_size={self.embedding_size}, num_identities={self.num_identities}, scale={self.scale}, "
            f"sample_rate={self.sample_rate}, sub_centers={self.sub_centers}"
        )
