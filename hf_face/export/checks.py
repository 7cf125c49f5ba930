"""Exported files compared with their model, on real faces, before anybody relies on them."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from datasets import Dataset
from torch import Tensor, nn
from transformers import PreTrainedModel

from ..data import VerificationPairs
from ..embedding import Embedder
from ..evaluation import VerificationEvaluator
from ..models import FaceImageProcessor
from .crops import decoded
from .runtime import OnnxFaceModel

BATCH_SIZE = 16
MAX_DIFFERENCE = 1e-4  # fp32: of an embedding's entries and, relatively, of its norm
MIN_COSINE = 0.999  # fp16: of every crop
MIN_MEAN_COSINE = 0.995  # int8
MAX_ACCURACY_LOSS = 0.005  # any precision, on verification pairs


@dataclass
class ExportedFile:
    """
    An exported file, and how far it is from the model it was exported from.

    Attributes:
        path: The file.
        precision: `"fp32"`, `"fp16"` or `"int8"`.
        num_crops: How many crops it was checked with.
        max_difference: Largest difference of an entry of a (unit length) embedding, or relative one of a norm.
        mean_cosine, min_cosine: Cosine similarity of the embeddings of the same crop.
        accuracy, accuracy_of_model: Verification accuracy on the pairs, if any were given.
    """

    path: Path
    precision: str
    num_crops: int
    max_difference: float
    mean_cosine: float
    min_cosine: float
    accuracy: float | None = None
    accuracy_of_model: float | None = None

    def __str__(self) -> str:
        figures = f"{self.precision}, {self.path.stat().st_size / 1e6:.1f} MB; {self.comparison}"
        if self.accuracy is not None:
            figures += f"; accuracy {self.accuracy:.4f}, of the model {self.accuracy_of_model:.4f}"
        return f"{self.path}: {figures}"

    @property
    def comparison(self) -> str:
        cosines = f"cosine {self.mean_cosine:.5f} on average, at least {self.min_cosine:.5f}"
        return f"{cosines}, largest difference {self.max_difference:.1e} on {self.num_crops} crops"

    def check(self) -> None:
        """
        Raises:
            ValueError: if the file's answers are too far from the model's.
        """
        close, wanted, advice = REQUIRED[self.precision]
        if not close(self):
            raise ValueError(
                f"The {self.precision} file answers differently, so nothing was written: {self.comparison}, but "
                f"{wanted} is required. {advice}"
            )
        if self.accuracy is not None and self.accuracy < self.accuracy_of_model - MAX_ACCURACY_LOSS:
            raise ValueError(
                f"The {self.precision} file loses too much, so nothing was written: its accuracy on the pairs is "
                f"{self.accuracy:.4f}, that of the model {self.accuracy_of_model:.4f}. Export another precision."
            )


# Of each precision: whether a file is close enough, what that takes, and the way out if it is not.
REQUIRED: dict[str, tuple[Callable[[ExportedFile], bool], str, str]] = {
    "fp32": (
        lambda file: file.max_difference <= MAX_DIFFERENCE,
        f"a difference of at most {MAX_DIFFERENCE}",
        "Please report it with the model's config.json.",
    ),
    "fp16": (
        lambda file: file.min_cosine >= MIN_COSINE,
        f"a cosine of at least {MIN_COSINE}",
        "Export fp32 or int8.",
    ),
    "int8": (
        lambda file: file.mean_cosine >= MIN_MEAN_COSINE,
        f"an average of at least {MIN_MEAN_COSINE}",
        "Calibrate on more crops of the kind that the model will see, or export fp16, half the size of fp32.",
    ),
}


class Reference:
    """A model's own answers for crops and pairs, which those of its files are compared with."""

    def __init__(
        self,
        model: PreTrainedModel,
        image_processor: FaceImageProcessor,
        crops: Dataset,
        pairs: VerificationPairs | None,
    ):
        self.image_processor = image_processor
        images = decoded(crops)
        self.pixel_values = image_processor(images, return_tensors="pt").pixel_values
        # At the model's size: a file with preprocessing resizes others up to a gray level differently.
        plain: dict[str, Any] = {"do_rescale": False, "do_normalize": False, "channel_order": "rgb"}
        self.pixels = image_processor(images, return_tensors="pt", **plain).pixel_values.permute(0, 2, 3, 1)
        self.evaluator = None if pairs is None else VerificationEvaluator(pairs, flip=None)
        self.embeddings, self.norms = self.answers(model, self.pixel_values)
        self.accuracy = self.measure_accuracy(model)

    def compare(self, file: Path, precision: str) -> ExportedFile:
        """How far a file's answers are from the model's."""
        model = OnnxFaceModel(file)
        embeddings, norms = self.answers(model, self.pixels if model.takes_pixels else self.pixel_values)
        cosines = (embeddings * self.embeddings).sum(1)
        difference = max(np.abs(embeddings - self.embeddings).max(), np.abs(norms / self.norms - 1).max())
        accuracy = None if model.takes_pixels else self.measure_accuracy(model)
        figures = (float(difference), float(cosines.mean()), float(cosines.min()))
        return ExportedFile(file, precision, len(cosines), *figures, accuracy, accuracy and self.accuracy)

    @staticmethod
    @torch.no_grad()
    def answers(model: nn.Module, crops: Tensor) -> tuple[np.ndarray, np.ndarray]:
        """Embeddings (N, D) and norms (N, 1)."""
        outputs = [model(pixel_values=batch) for batch in crops.split(BATCH_SIZE)]
        embeddings, norms = zip(*((output.pooler_output, output.norm) for output in outputs), strict=True)
        return torch.cat(embeddings).numpy(), torch.cat(norms).numpy()

    def measure_accuracy(self, model: nn.Module) -> float | None:
        if self.evaluator is None:
            return None
        return self.evaluator.evaluate(Embedder(model, self.image_processor, flip=False))["accuracy"]
