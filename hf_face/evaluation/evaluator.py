"""What all protocols share: how they are called."""

from collections.abc import Sequence
from pathlib import Path

from ..embedding import Embedder


class Evaluator:
    """A protocol with its data: call it with a model, get a flat dict of metrics.

    Attributes:
        name (`str`): prefix of every metric.
        primary_metric (`str`): key of the metric to choose a model by.
        greater_is_better (`bool`): whether a greater value of it is the better one.
        needs_flip (`bool`): whether it needs the embeddings of the flipped images, which cost a second forward pass.
        not_measurable (`list[str]`): metrics that the data is too small for; they are left out of the answer, never
            reported as zero.
    """

    name: str
    primary_metric: str
    greater_is_better = True
    needs_flip = True
    not_measurable: Sequence[str] = ()

    def __call__(self, model, image_processor, output_dir: str | Path | None = None) -> dict[str, float]:
        """Embeds the protocol's images with `model` and returns its metrics; figures go into `output_dir` if given."""
        return self.evaluate(Embedder(model, image_processor, flip=self.needs_flip), output_dir)

    def evaluate(self, embedder: Embedder, output_dir: str | Path | None = None) -> dict[str, float]:
        """The same with an [`Embedder`], which several protocols can share so that images are embedded once."""
        raise NotImplementedError
