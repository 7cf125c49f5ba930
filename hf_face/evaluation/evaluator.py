"""Base class for protocols: how they are loaded, called and plotted."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from matplotlib.figure import Figure

from ..embedding import Embedder, Flip
from ..embedding.ranks import is_main_process
from ..user_input import check_output_folder
from .metrics import greater_is_better
from .plots import save_figure


@dataclass
class Findings:
    """
    The results of a protocol.

    Args:
        metrics (`dict[str, float]`): Metrics without prefix: "accuracy", "tar@far=1e-3".
        plots (`dict[str, Callable[[], Figure]]`):
            Functions that draw the figures, by kind ("roc", "det", "scores", "cmc"), the most important one first.
            They are only called when figures are saved.
    """

    metrics: dict[str, float]
    plots: dict[str, Callable[[], Figure]] = field(default_factory=dict)


class Evaluator:
    """
    A protocol with its data: embeddings in, a flat dict of metrics out.

    A subclass implements [`~Evaluator.compute`] and sets the attributes. If it is registered, recipes (`eval_data:`)
    and command lines can run it by name.

    Attributes:
        name (`str`): Prefix of its logged metrics.
        primary_metric (`str`): The metric to select the best model by, without prefix.
        greater_is_better (`bool`): Whether greater values of the primary metric are better.
        flip (`str`, *optional*): Test-time augmentation by the flipped image: `"sum"`, `"concat"` or `None`.
        not_measurable (`Sequence[str]`):
            Metrics that the data is too small for. They are left out of the results, not reported as zero.

    Example:
    ```python
    >>> from hf_face.data import load_identities
    >>> from hf_face.evaluation import Evaluator, Findings
    >>> from hf_face.registry import protocols

    >>> @protocols.register("embedding_norms")
    ... class NormEvaluator(Evaluator):
    ...     '''Mean and spread of the embeddings' norms.
    ...
    ...     Args:
    ...         data: identity data, as `load_identities` takes it.
    ...     '''
    ...
    ...     name, primary_metric, flip = "norms", "mean", None
    ...
    ...     def __init__(self, data: str):
    ...         self.images = load_identities(data)
    ...
    ...     def compute(self, embedder):
    ...         norms = embedder(self.images, self.flip).norms
    ...         return Findings({"mean": float(norms.mean()), "std": float(norms.std())})

    >>> metrics = NormEvaluator("orl")(model, image_processor)
    >>> list(metrics)
    ['norms_mean', 'norms_std']
    ```
    """

    name: str
    primary_metric: str
    greater_is_better = True
    flip: Flip = "sum"
    not_measurable: Sequence[str] = ()

    _drawn_kinds: Sequence[str] = ()  # of the last evaluation, the most important one first

    @classmethod
    def load(cls, **options) -> list["Evaluator"]:
        """Build evaluators from the options of a recipe or command line. Overrides declare their options."""
        return [cls(**options)]

    @property
    def needs_flip(self) -> bool:
        """Whether it requires embeddings of the flipped images, which take a second forward pass."""
        return self.flip is not None

    def compute(self, embedder: Embedder) -> Findings:
        """Embed the protocol's images and compute its metrics. Implemented by subclasses."""
        raise NotImplementedError

    def evaluate(self, embedder: Embedder, output_dir: str | Path | None = None) -> dict[str, float]:
        """
        Compute the metrics of the embedder's model, without prefix.

        Args:
            embedder (`Embedder`): May be shared by several protocols, to embed images only once.
            output_dir (`str` or `Path`, *optional*): Folder to save figures to, as `<name>_<kind>.png`.

        Raises:
            ValueError: if the protocol requires flipped images and the embedder does not embed them, a metric is not
                finite, or the folder cannot be written to.
        """
        if self.needs_flip and not embedder.flip:
            raise ValueError(f"{self.name} needs the flipped images: pass Embedder(..., flip=True)")
        if output_dir is not None:
            check_output_folder(output_dir)
        findings = self.compute(embedder)
        for key, value in findings.metrics.items():
            if not math.isfinite(value):
                raise ValueError(f"{self.name}: the metric {key} is {value}, which no comparison can use")
        if output_dir is not None:
            self._drawn_kinds = list(findings.plots)
            if is_main_process():
                for kind, plot in findings.plots.items():
                    save_figure(plot(), self._figure_path(output_dir, kind))
        return findings.metrics

    def __call__(self, model, image_processor, output_dir: str | Path | None = None) -> dict[str, float]:
        """Compute the metrics of `model`, prefixed with the protocol's name; saves figures if `output_dir` is set."""
        embedder = Embedder(model, image_processor, flip=self.needs_flip)
        return self.prefixed(self.evaluate(embedder, output_dir))

    def prefixed(self, metrics: dict[str, float]) -> dict[str, float]:
        """Prefix metrics for logging: "accuracy" becomes "lfw_accuracy"."""
        return {f"{self.name}_{key}": value for key, value in metrics.items()}

    def is_greater_better(self, metric: str) -> bool:
        """Whether greater values of one of its metrics, without prefix, are better."""
        return self.greater_is_better if metric == self.primary_metric else greater_is_better(metric)

    def lead_figure(self, output_dir: str | Path) -> Path | None:
        """The most important figure, if the last evaluation saved it to `output_dir`."""
        if not self._drawn_kinds:
            return None
        path = self._figure_path(output_dir, self._drawn_kinds[0])
        return path if path.is_file() else None

    def _figure_path(self, output_dir: str | Path, kind: str) -> Path:
        return Path(output_dir, f"{self.name}_{kind}.png")
