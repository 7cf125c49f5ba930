"""What the app answers, apart from how its page looks: files in, pictures and tables out."""

import numpy as np
from PIL import Image
from torchvision.transforms.functional import to_pil_image
from transformers import pipeline

from ..pipelines import align_faces, annotate, default_model, read_photograph
from ..pipelines.drawing import GREEN, RED

CROP = 112

Named = list[tuple[Image.Image, str]]


class FaceApp:
    """
    Compares two photographs, searches a gallery and groups photographs.

    Args:
        model: Model folder or Hub name; by default [`default_model`].
        gallery: Folder or Hub name of a gallery of this model.
    """

    def __init__(self, model: str | None = None, gallery: str | None = None):
        name = model or str(default_model())
        self.verify = pipeline("face-verification", model=name)  # type: ignore[call-overload]  # registered by hf_face
        self.gallery = gallery

    @property
    def false_accept_rates(self) -> list[str]:
        """Those that the model is calibrated for, the most lenient first."""
        return sorted(self.verify.model.config.similarity_thresholds or {}, key=float, reverse=True)

    def compare(
        self, first: str | None, second: str | None, rate: str | None
    ) -> tuple[str, Image.Image, Image.Image, Named]:
        """
        Compare the largest faces of two photographs.

        Args:
            first: A file, or None if there is none yet.
            second: Another.
            rate: One of the false accept rates, or None of a model that has none.

        Returns:
            The answer in words, both photographs with the faces marked, and the aligned faces.

        Raises:
            ValueError: if a photograph is missing or no image, or no face is found in it.
        """
        if first is None or second is None:
            raise ValueError("Choose two photographs first.")
        decided = {"threshold": -1.0} if rate is None else {"false_accept_rate": float(rate)}
        answer = self.verify((first, second), **decided)
        faces, photographs = answer["faces"], [read_photograph(file) for file in (first, second)]
        color = GREEN if answer["same"] else RED
        marked = [annotate(pixels, [face], color=color) for pixels, face in zip(photographs, faces, strict=True)]
        crops = align_faces(photographs, np.array([face["landmarks"] for face in faces]), CROP, antialias=True)
        named = list(zip(map(to_pil_image, crops), ("first", "second"), strict=True))
        return in_words(answer, rate), marked[0], marked[1], named


def in_words(answer: dict, rate: str | None) -> str:
    """The answer of the pipeline "face-verification", for people."""
    similarity, threshold = answer["similarity"], answer["threshold"]
    if rate is None:
        uncalibrated = "This model is not calibrated: it cannot say which similarity is enough."
        return f"## Similarity {similarity:.2f}\n{uncalibrated}"
    decision, sign = ("One person", "≥") if answer["same"] else ("Two people", "<")
    compared = f"Similarity {similarity:.2f} {sign} {threshold:.2f}"
    return f"## {decision}\n{compared}, the similarity that {rate_in_words(rate)} pairs of strangers reach."


def rate_in_words(rate: str) -> str:
    """1e-3 as "1 in 1,000"."""
    return f"1 in {round(1 / float(rate)):,}"
