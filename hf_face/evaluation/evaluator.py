"""What all protocols share: how they are loaded, called and drawn."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from matplotlib.figure import Figure

from ..embedding import Embedder, Flip
from ..embedding.ranks import is_main_process
from .plots import save_figure


@dataclass
class Findings:
    """
    What a protocol found.

    Args:
        metrics (`dict[str, float]`): The figures, without any prefix: "accuracy", "tar@far=1e-3".
        plots (`dict[str, Callable[[], Figure]]`):
            What draws each figure, by kind ("roc", "det", "scores", "cmc"), the leading one first. Drawn only when
            somebody wants to see them.
    """

    metrics: dict[str, float]
    plots: dict[str, Callable[[], Figure]] = field(default_factory=dict)


class Evaluator:
    """
    A protocol with its data: embeddings in, a flat dict of metrics out.

    A subclass writes [`~Evaluator.compute`] and states the attributes. With a name in the registry it can be run by
    that name, from a recipe (`eval_data:`) and from the command line.

    Attributes:
        name (`str`): What its metrics are prefixed with when they are logged.
        primary_metric (`str`): The metric to choose a model by, without prefix.
        greater_is_better (`bool`): Whether a greater value of it is the better one.
        flip (`str`, *optional*): Test-time augmentation by the flipped image: `"sum"`, `"concat"` or `None`.
        not_measurable (`Sequence[str]`):
            Metrics that the data is too small for. They are left out of the answer, never reported as zero.

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

    _drawn_kinds: Sequence[str] = ()  # of the last evaluation, the leading figure first

    @classmethod
    def load(cls, **options) -> list["Evaluator"]:
        """The evaluators that a recipe's or a command line's options ask for. An override names its options."""
        return [cls(**options)]

    @property
    def needs_flip(self) -> bool:
        """Whether it needs the embeddings of the flipped images, which cost a second forward pass."""
        return self.flip is not None

    def compute(self, embedder: Embedder) -> Findings:
        """Embed the protocol's images and judge the embeddings: the one thing that a protocol writes."""
        raise NotImplementedError

    def evaluate(self, embedder: Embedder, output_dir: str | Path | None = None) -> dict[str, float]:
        """
        The metrics of the embedder's model, without prefix.

        Args:
            embedder (`Embedder`): Several protocols can share it, so that images are embedded once.
            output_dir (`str` or `Path`, *optional*): Where the figures go, each as `<name>_<kind>.png`.

        Raises:
            ValueError: if the protocol needs flipped images and the embedder leaves them out.
        """
        if self.needs_flip and not embedder.flip:
            raise ValueError(f"{self.name} needs the flipped images: Embedder(..., flip=True)")
        findings = self.compute(embedder)
        if output_dir is not None:
            self._drawn_kinds = list(findings.plots)
            if is_main_process():
                for kind, plot in findings.plots.items():
                    save_figure(plot(), self._figure_path(output_dir, kind))
        return findings.metrics

    def __call__(self, model, image_processor, output_dir: str | Path | None = None) -> dict[str, float]:
        """The metrics of `model`, each prefixed with the protocol's name; figures go into `output_dir` if given."""
        embedder = Embedder(model, image_processor, flip=self.needs_flip)
        return self.prefixed(self.evaluate(embedder, output_dir))

    def prefixed(self, metrics: dict[str, float]) -> dict[str, float]:
        """The metrics as they are logged: "lfw_accuracy" for "accuracy"."""
        return {f"{self.name}_{key}": value for key, value in metrics.items()}

    def lead_figure(self, output_dir: str | Path) -> Path | None:
        """The figure to show where there is room for one, if the last evaluation drew it into `output_dir`."""
        if not self._drawn_kinds:
            return None
        path = self._figure_path(output_dir, self._drawn_kinds[0])
        return path if path.is_file() else None

    def _figure_path(self, output_dir: str | Path, kind: str) -> Path:
        return Path(output_dir, f"{self.name}_{kind}.png")
