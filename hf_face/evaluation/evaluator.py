"""What all protocols share: how they are called."""

from pathlib import Path

from .embedding import Embedder


class Evaluator:
    """A protocol with its data: call it with a model, get a flat dict of metrics.

    Attributes:
        name (`str`): prefix of every metric.
        primary_metric (`str`): key of the metric to choose a model by; greater is better.
    """

    name: str
    primary_metric: str

    def __call__(self, model, image_processor, output_dir: str | Path | None = None) -> dict[str, float]:
        """Embeds the protocol's images with `model` and returns its metrics; figures go into `output_dir` if given."""
        return self.evaluate(Embedder(model, image_processor), output_dir)

    def evaluate(self, embedder: Embedder, output_dir: str | Path | None = None) -> dict[str, float]:
        """The same with an [`Embedder`], which several protocols can share so that images are embedded once."""
        raise NotImplementedError
