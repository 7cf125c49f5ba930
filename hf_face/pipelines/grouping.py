"""Groups the faces in many photographs by person."""

from collections.abc import Iterator
from dataclasses import dataclass
from io import BytesIO
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
from datasets import Dataset, Features, Image, Value
from PIL import Image as PillowImage
from scipy.sparse.csgraph import connected_components
from sklearn.cluster import AgglomerativeClustering
from sklearn.neighbors import radius_neighbors_graph
from transformers.utils import logging

from ..data.image_folder import list_images
from ..models.pipeline_face_embedding import FaceEmbeddingPipeline, Photograph
from ..models.pipeline_face_verification import calibrated_threshold
from ..user_input import check_folder
from .sface import default_pipeline

BEST_RATE = 1e-4  # of those from 1e-2 to 1e-5, by `benchmarks/many_faces.py`
THUMBNAIL_SIZE = 112
THUMBNAIL_MARGIN = 0.25  # of the longer side of a face's box
PHOTOGRAPHS_AT_ONCE = 8
FEATURES = Features(
    {
        "file_name": Value("string"),
        "face": Value("int32"),
        "person": Value("int32"),
        **{name: Value("float32") for name in ("xmin", "ymin", "xmax", "ymax", "score", "norm")},
        "thumbnail": Image(),
    }
)


@dataclass
class PhotographGroups:
    """
    Faces in photographs, grouped by person.

    Args:
        folder: The folder of the photographs.
        faces: A row for each face: `file_name` (relative to the folder), `face` (its number in the photograph),
            `person` (from 1 on; person 1 has the most faces), the box `xmin`, `ymin`, `xmax` and `ymax` in pixels of
            the upright photograph, the detector's `score`, the embedding's `norm`, and a `thumbnail`.
        without_faces: The photographs in which no face was found.
        unreadable: The files that are not images or damaged, and why.
    """

    folder: Path
    faces: Dataset
    without_faces: list[str]
    unreadable: dict[str, str]

    @property
    def people(self) -> dict[int, list[int]]:
        """The rows of each person's faces."""
        people: dict[int, list[int]] = {}
        for row, person in enumerate(self.faces["person"]):
            people.setdefault(person, []).append(row)
        return dict(sorted(people.items()))

    def summary(self) -> dict[str, Any]:
        """Counts, and the files without an answer."""
        return {
            "faces": len(self.faces),
            "people": len(self.people),
            "alone": sum(len(rows) == 1 for rows in self.people.values()),
            "without_faces": self.without_faces,
            "unreadable": self.unreadable,
        }


def group_photographs(
    folder: str | Path,
    pipeline: FaceEmbeddingPipeline | None = None,
    false_accept_rate: float | None = None,
    threshold: float | None = None,
) -> PhotographGroups:
    """
    Find the faces in a folder of photographs, and group them by person. A face that resembles no other is a group of
    its own.

    Args:
        folder: The folder, searched recursively.
        pipeline: Finds and embeds the faces, `pipeline("face-embedding", model=...)`; that of the default model by
            default.
        false_accept_rate: Selects the threshold in the model's configuration; the calibrated rate nearest to 1e-4 by
            default, which is about the best on LFW.
        threshold: The least mean similarity of two groups that are joined, in place of a calibrated one. Larger values
            make more and purer groups.

    Raises:
        FileNotFoundError: if the folder does not exist.
        ValueError: if it contains no images, no face is found in any of them, or the model is not calibrated and there
            is no threshold.

    Example:
    ```python
    >>> from hf_face.pipelines import group_photographs, save_contact_sheets

    >>> groups = group_photographs("photographs")  # doctest: +SKIP
    >>> save_contact_sheets(groups, "people")  # doctest: +SKIP
    ```
    """
    check_folder(folder)
    folder = Path(folder)
    names = list_images(folder)
    if not names:
        raise ValueError(f"{folder} contains no images.")
    pipeline = pipeline or default_pipeline()
    if threshold is None:
        config = pipeline.model.config
        threshold = calibrated_threshold(config, false_accept_rate or _nearest_rate(config))
    groups = PhotographGroups(folder, Dataset.from_dict({}), [], {})
    rows, embeddings = [], []
    found_faces = _find_faces(groups, pipeline, names)
    while photographs := list(islice(found_faces, PHOTOGRAPHS_AT_ONCE)):
        with torch.inference_mode():
            found = pipeline.embed_faces([photograph for _, photograph in photographs])
        for (name, photograph), faces in zip(photographs, found, strict=True):
            rows += [_row(name, number, face, photograph) for number, face in enumerate(faces)]
            embeddings += [face["embedding"] for face in faces]
    if not rows:
        raise ValueError(f"No face was found in any of the {len(names)} photographs in {folder}.")
    people = group_embeddings(np.stack(embeddings), threshold)
    columns = {name: [row[name] for row in rows] for name in FEATURES if name != "person"}
    groups.faces = Dataset.from_dict({name: columns.get(name, people) for name in FEATURES}, FEATURES)
    return groups


def group_embeddings(embeddings: np.ndarray, threshold: float) -> np.ndarray:
    """
    Group faces by person: agglomerative clustering with average linkage, which joins two groups as long as the mean
    similarity of their faces is at least a threshold.

    Two groups are only ever joined if some face of one is at least that similar to some face of the other. So the parts
    of the graph of similar faces can be clustered one by one, with the same result in less memory.

    Args:
        embeddings: Unit-length embeddings (N, D).
        threshold: The least mean cosine similarity.

    Returns:
        The person of each face (N,), from 1 on, those with more faces first.
    """
    embeddings = np.ascontiguousarray(embeddings, dtype=np.float32)
    radius = np.sqrt(max(0.0, 2 - 2 * threshold)) * (1 + 1e-4)  # of similarity in Euclidean distance, rounded up
    similar = radius_neighbors_graph(embeddings, radius, n_jobs=-1)
    _, parts = connected_components(similar, directed=False)
    order = np.argsort(parts, kind="stable")
    groups = np.empty(len(embeddings), dtype=np.int64)
    num_groups = 0
    for rows in np.split(order, np.flatnonzero(np.diff(parts[order])) + 1):
        part = _cluster(embeddings[rows], threshold)
        groups[rows] = num_groups + part
        num_groups += part.max() + 1
    return _largest_first(groups)


def _cluster(embeddings: np.ndarray, threshold: float) -> np.ndarray:
    if len(embeddings) == 1:
        return np.zeros(1, dtype=np.int64)
    clustering = AgglomerativeClustering(
        n_clusters=None, metric="cosine", linkage="average", distance_threshold=np.nextafter(1 - threshold, 2)
    )
    return clustering.fit_predict(embeddings)


def _largest_first(groups: np.ndarray) -> np.ndarray:
    """Number groups from 1 on, by size and then by their first face."""
    _, first, inverse, counts = np.unique(groups, return_index=True, return_inverse=True, return_counts=True)
    rank = np.empty(len(counts), dtype=np.int64)
    rank[np.lexsort((first, -counts))] = np.arange(1, len(counts) + 1)
    return rank[inverse]


def _nearest_rate(config) -> float:
    """The calibrated false accept rate nearest to the best one; that itself, for an error, if there is none."""
    rates = [float(rate) for rate in config.similarity_thresholds or {}]
    return min(rates, key=lambda rate: abs(np.log(rate / BEST_RATE)), default=BEST_RATE)


def _find_faces(
    groups: PhotographGroups, pipeline: FaceEmbeddingPipeline, names: list[str]
) -> Iterator[tuple[str, Photograph]]:
    """The photographs with faces; `groups` notes the others."""
    for name in logging.tqdm(names, desc="Finding faces", unit="photograph"):
        try:
            photograph = pipeline.find_faces(groups.folder / name)
        except (ValueError, FileNotFoundError) as error:  # the latter of a link to nothing
            groups.unreadable[name] = str(error)
            continue
        if len(photograph.boxes):
            yield name, photograph
        else:
            groups.without_faces.append(name)


def _row(name: str, number: int, face: dict[str, Any], photograph: Photograph) -> dict[str, Any]:
    thumbnail = BytesIO()
    _thumbnail(photograph.pixels, photograph.boxes[number]).save(thumbnail, "JPEG", quality=85)
    return {
        "file_name": name,
        "face": number,
        **face["box"],
        "score": face["score"],
        "norm": face["norm"],
        "thumbnail": {"bytes": thumbnail.getvalue(), "path": None},
    }


def _thumbnail(pixels: np.ndarray, box: np.ndarray) -> PillowImage.Image:
    """A square around a face, black outside the photograph."""
    center, side = (box[:2] + box[2:]) / 2, (box[2:] - box[:2]).max() * (1 + 2 * THUMBNAIL_MARGIN)
    corner = np.round(center - side / 2).astype(int)
    size = max(1, round(float(side)))
    left, top = np.maximum(corner, 0)
    inside = pixels[top : max(top, corner[1] + size), left : max(left, corner[0] + size)]
    square = PillowImage.new("RGB", (size, size))
    square.paste(PillowImage.fromarray(inside), (int(left - corner[0]), int(top - corner[1])))
    return square.resize((THUMBNAIL_SIZE, THUMBNAIL_SIZE), PillowImage.Resampling.LANCZOS, reducing_gap=3)


__all__ = ["PhotographGroups", "group_embeddings", "group_photographs"]
