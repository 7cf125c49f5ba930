"""What the app answers, apart from how its page looks: files in, pictures and tables out."""

import shutil
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
from PIL import Image
from torchvision.transforms.functional import to_pil_image
from transformers import pipeline

from ..pipelines import FaceGallery, align_faces, annotate, default_model, group_photographs, read_photograph
from ..pipelines.drawing import GREEN, RED

CROP = 112
MOST_SIMILAR = 5  # people of a gallery shown for a face
FACES_SHOWN = 12  # of a person

Named = list[tuple[Image.Image, str]]


class FaceApp:
    """
    Compares two photographs, searches a gallery and groups photographs.

    Args:
        model: Model folder or Hub name; by default [`default_model`].
        gallery: Folder or Hub name of a [`FaceGallery`] of this model.
    """

    def __init__(self, model: str | None = None, gallery: str | None = None):
        name: Any = model or str(default_model())
        self.verify: Any = pipeline("face-verification", model=name)  # type: ignore[call-overload]
        shared: Any = {"model": self.verify.model, "image_processor": self.verify.image_processor}
        self.embed: Any = pipeline("face-embedding", **shared)  # type: ignore[call-overload]
        self.gallery = None if gallery is None else FaceGallery.load(gallery, self.embed)

    @property
    def false_accept_rates(self) -> list[str]:
        """Those that the model is calibrated for, the most lenient first."""
        return sorted(self.verify.model.config.similarity_thresholds or {}, key=float, reverse=True)

    def compare(self, first: str | None, second: str | None, rate: str | None) -> tuple[str, *tuple[Image.Image, ...]]:
        """
        Compare the largest faces of two photographs.

        Args:
            first: A file, or None if there is none yet.
            second: Another.
            rate: One of the false accept rates, or None of a model that has none.

        Returns:
            The answer in words, both photographs with the faces marked, and both aligned faces.

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
        return in_words(answer, rate), *marked, *map(to_pil_image, crops)

    def search(self, photograph: str | None, rate: str | None) -> tuple[str, Image.Image, list[list[Any]]]:
        """
        Look for the faces of a photograph in the gallery.

        Args:
            photograph: A file, or None if there is none yet.
            rate: One of the false accept rates, or None of a model that has none.

        Returns:
            Who was found, the photograph with a name at each face, and a row for each face and similar person: the
            face's number, person, similarity, and whether it is enough.

        Raises:
            ValueError: if the photograph is missing or no image, or no face is found in it.
        """
        if photograph is None:
            raise ValueError("Choose a photograph first.")
        threshold = np.inf if rate is None else self.verify.model.config.similarity_thresholds[rate]
        faces = self.gallery.search(photograph, top_k=MOST_SIMILAR, threshold=-1.0)
        names, rows = [], []
        for number, face in enumerate(faces, start=1):
            people = [(person["person"], person["similarity"]) for person in face["people"]]
            found = [person for person, similarity in people if similarity >= threshold]
            names.append(found[0] if found else "nobody")
            rows += [[number, person, round(similarity, 2), similarity >= threshold] for person, similarity in people]
        return f"## {', '.join(names)}", annotate(photograph, faces, names), rows

    def group(self, files: Sequence[str] | None) -> tuple[str, Named, list[list[Any]]]:
        """
        Group photographs by person.

        Args:
            files: The photographs, or None if there are none yet.

        Returns:
            How many people there are, their faces, and a row for each face: file and person.

        Raises:
            ValueError: if there are no photographs, or no face is found in any of them.
        """
        if not files:
            raise ValueError("Choose some photographs first.")
        with TemporaryDirectory() as folder:
            for number, file in enumerate(files, start=1):  # two may have one name
                Path(folder, str(number)).mkdir()
                shutil.copy(file, Path(folder, str(number), Path(file).name))
            groups = group_photographs(folder, self.embed)
        shown = [
            (groups.faces[row]["thumbnail"], f"person {person}")
            for person, rows in groups.people.items()
            for row in rows[:FACES_SHOWN]
        ]
        names = [Path(name).name for name in groups.faces["file_name"]]
        rows = [list(row) for row in zip(names, groups.faces["person"], strict=True)]
        missing = [f"No face was found in {Path(name).name}." for name in groups.without_faces]
        missing += [f"{Path(name).name} cannot be read." for name in groups.unreadable]
        return "\n\n".join([f"## {len(groups.people)} people, {len(rows)} faces", *missing]), shown, rows


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
