"""A gallery of people, enrolled from photographs, and the search for the people in other photographs."""

from collections import defaultdict
from collections.abc import Collection, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from tempfile import TemporaryDirectory
from types import ModuleType
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from datasets import Dataset
from huggingface_hub import CommitInfo
from scipy.sparse.csgraph import connected_components
from transformers.utils import logging

from ..data.image_folder import ImageFolder
from ..embedding import model_digest
from ..hub.datasets_and_metrics import push_dataset
from ..models.pipeline_face_embedding import FaceEmbeddingPipeline
from ..models.pipeline_face_verification import FALSE_ACCEPT_RATE, calibrated_threshold
from ..models.pixels import name_of
from ..user_input import check_at_least, check_exists, did_you_mean
from .gallery_files import features_of, read_gallery, vectors, write_gallery
from .sface import default_pipeline

EXACT_UP_TO = 100_000  # photographs
TRAINING_VECTORS_PER_CELL = 64
SHARE_OF_CELLS_SEARCHED = 1 / 8


class FaceGallery:
    """
    People enrolled from photographs, who are then searched for in others.

    The gallery is a `datasets.Dataset` with a row for each photograph: `person`, `file_name`, `embedding` (unit length)
    and `norm`. It is searched with FAISS: exactly for up to 100,000 photographs; beyond that, only the cells of the
    embedding space that are nearest to a face are searched (an inverted file), which may occasionally miss a person.

    Args:
        pipeline ([`FaceEmbeddingPipeline`], *optional*):
            Finds and embeds the faces, `pipeline("face-embedding", model=...)`; that of the default model by default.

    Example:
    ```python
    >>> from hf_face import FaceGallery

    >>> gallery = FaceGallery()
    >>> gallery.add_folder("people")  # people/Ada/1.jpg, people/Grace/1.jpg, ...  # doctest: +SKIP
    >>> gallery.search("holiday.jpg")[0]["people"]  # doctest: +SKIP
    [{'person': 'Ada', 'similarity': 0.71, 'file_name': 'Ada/1.jpg'}]
    >>> gallery.save("my_gallery")  # doctest: +SKIP
    ```
    """

    def __init__(self, pipeline: FaceEmbeddingPipeline | None = None):
        self.pipeline: Any = pipeline or default_pipeline()
        self._schema = features_of(self.pipeline.model.config.embedding_size).arrow_schema
        self._set_rows(self._schema.empty_table())

    def __len__(self) -> int:
        """The number of photographs."""
        return len(self.dataset)

    def __repr__(self) -> str:
        return f"FaceGallery({len(self.people)} people, {len(self)} photographs, {self.model_name})"

    @property
    def people(self) -> dict[str, int]:
        """The people, and the number of photographs of each."""
        counts = pc.value_counts(self._table["person"]).to_pylist()
        return {count["values"]: count["counts"] for count in counts}

    @property
    def model_name(self) -> str:
        """Folder or Hub name of the model, without the folders around an absolute one."""
        name = self.pipeline.model.config.name_or_path
        return Path(name).name if Path(name).is_absolute() else name

    @cached_property
    def _made_with(self) -> dict[str, str]:
        digest = model_digest(self.pipeline.model, self.pipeline.image_processor)
        return {"model": self.model_name, "digest": digest}

    def add(self, person: str, photographs: Any, check_people: bool = True) -> None:
        """
        Enroll a person from one or more photographs; of several faces in a photograph, the largest. Photographs that
        were enrolled under the same name replace those from before.

        Args:
            person: The person's name.
            photographs: A photograph (see [`read_photograph`]) or a list of them.
            check_people: Whether to refuse photographs that show two different people.

        Raises:
            FileNotFoundError: if a photograph does not exist.
            ValueError: if there is no face in a photograph, it is not an image, or the person's photographs show two
                different people. Nothing is enrolled then.
        """
        if not person:
            raise ValueError("A person needs a name, but it is empty.")
        photographs = photographs if isinstance(photographs, list | tuple) else [photographs]
        if not photographs:
            raise ValueError(f"There are no photographs of {person!r} to enroll.")
        self._enroll([(person, name_of(each), each) for each in photographs], check_people)

    def add_folder(self, folder: str | Path, check_people: bool = True) -> None:
        """
        Enroll everyone in a folder with one folder of photographs per person; see [`~FaceGallery.add`]. Either all of
        them are enrolled, or after an error, nobody.

        Raises:
            ValueError: if the folder contains no people, or one of them has no photographs; otherwise as for `add`.
        """
        check_exists(folder)
        images = ImageFolder(folder)
        images.check_people()
        people = [images.names[label] for label in images.labels()]
        photographs = [str(images.path / file) for file in images.files]
        self._enroll(list(zip(people, images.files, photographs, strict=True)), check_people)

    def remove(self, person: str) -> None:
        """
        Remove a person.

        Raises:
            ValueError: if nobody has this name.
        """
        others = pc.not_equal(self._table["person"], person)
        if pc.all(others).as_py():
            raise ValueError(f"There is no {person!r} in the gallery.{did_you_mean(person, self.people)}")
        self._set_rows(self._table.filter(others))

    def search(
        self,
        photograph: Any,
        top_k: int = 1,
        false_accept_rate: float = FALSE_ACCEPT_RATE,
        threshold: float | None = None,
        policy: str = "all",
    ) -> list[dict[str, Any]]:
        """
        Find out who is in a photograph.

        Args:
            photograph: The photograph; see [`read_photograph`].
            top_k: Greatest number of people for each face.
            false_accept_rate: How often a stranger is taken for **one** person. It selects the threshold in the model's
                configuration. In a gallery of N people, a stranger is up to N times as likely to be taken for
                one of them, so a large gallery needs a small rate.
            threshold: The least similarity, in place of a calibrated one.
            policy: Which faces of the photograph to look for: `"all"`, the `"largest"`, or the one nearest to the
                `"center"`.

        Returns:
            `list[dict]`: For each face, what [`FaceEmbeddingPipeline`] says of it, and:

            - **people** (`list[dict]`): Each `person` with the `similarity` and `file_name` of their most similar
              photograph, the most similar person first. Empty for nobody of the gallery.
            - **threshold** (`float`): The least similarity.

        Raises:
            FileNotFoundError: if the photograph does not exist.
            ValueError: if there is no face in it, it is not an image, the gallery is empty, or there is no threshold
                for the false accept rate.
        """
        check_at_least(1, top_k=top_k)
        if threshold is None:
            threshold = calibrated_threshold(self.pipeline.model.config, false_accept_rate)
        if not len(self):
            raise ValueError("The gallery is empty: enroll people first.")
        faces = self.pipeline(photograph, policy=policy)
        if not faces:
            raise ValueError(f"No face was found in {name_of(photograph)}.")
        return [
            {**face, "people": self.nearest_people(face["embedding"], top_k, threshold), "threshold": threshold}
            for face in faces
        ]

    def nearest_people(self, embedding: np.ndarray, top_k: int, threshold: float) -> list[dict[str, Any]]:
        """The people at least as similar as a threshold to a face (D,), at most `top_k`, the most similar first."""
        num_rows = min(4 * top_k, len(self))
        while True:
            similarities, rows = self._index.search("embedding", np.asarray(embedding, np.float32), num_rows)
            similar = (rows >= 0) & (similarities >= threshold)  # an inverted file may find fewer rows
            found = self._table.select(["person", "file_name"]).take(rows[similar]).to_pylist()
            people: dict[str, dict[str, Any]] = {}
            for row, similarity in zip(found, similarities[similar].tolist(), strict=True):
                people.setdefault(row["person"], {"person": row["person"], "similarity": similarity, **row})
            if len(people) >= top_k or not similar.all() or num_rows == len(self):
                return list(people.values())[:top_k]
            num_rows = min(4 * num_rows, len(self))  # most were photographs of the same people

    def save(self, folder: str | Path) -> Path:
        """
        Save the gallery, in place of one that is there. `datasets.load_dataset` reads it, too.

        Returns:
            The folder.

        Raises:
            ValueError: if the folder cannot be written to.
        """
        write_gallery(self._table, self._made_with, Path(folder))
        return Path(folder)

    @classmethod
    def load(cls, source: str | Path, pipeline: FaceEmbeddingPipeline | None = None) -> "FaceGallery":
        """
        Load a gallery from a folder or the Hub.

        Args:
            source: The folder, or the name of a dataset on the Hub.
            pipeline: As for [`FaceGallery`]: the one that the people were enrolled with.

        Raises:
            FileNotFoundError: if there is no such gallery.
            ValueError: if the file is damaged or not a gallery, or was made with another model.
        """
        made_with, rows = read_gallery(source)
        gallery = cls(pipeline)
        gallery._check_model(made_with, source)
        gallery._set_rows(rows)
        return gallery

    def push_to_hub(
        self, repo_id: str, *, private: bool = True, license: str = "other", token: str | None = None
    ) -> CommitInfo:
        """
        Publish the gallery as a dataset, which [`~FaceGallery.load`] and `datasets.load_dataset` read.

        Args:
            repo_id: `org/name`.
            private: Whether a new repository is private, as biometric data should be.
            license: License of the dataset, one of the Hub's identifiers.
            token: Token of the Hub; the stored one by default.

        Returns:
            `CommitInfo`: with `commit_url` and `oid`.

        Raises:
            huggingface_hub.errors.LocalTokenNotFoundError: if not logged in.
            huggingface_hub.errors.HfHubHTTPError: if the token is invalid (401) or lacks permission (403).
        """
        with TemporaryDirectory() as folder:
            return push_dataset(
                self.save(folder), repo_id, license=license, private=private, token=token, commit_message="Push gallery"
            )

    @property
    def _table(self) -> pa.Table:
        return self.dataset.data.table

    def _set_rows(self, table: pa.Table) -> None:
        self.dataset = Dataset(table.cast(self._schema))
        self.__dict__.pop("_index", None)

    @cached_property
    def _index(self) -> Dataset:
        """The dataset with its index, made at the first search."""
        faiss = _faiss()
        indexed = Dataset(self._table)
        cells = 2 ** round(np.log2(len(self)) / 2)
        exact = len(self) <= EXACT_UP_TO
        indexed.add_faiss_index(
            "embedding",
            string_factory="Flat" if exact else f"IVF{cells},Flat",
            metric_type=faiss.METRIC_INNER_PRODUCT,
            train_size=None if exact else cells * TRAINING_VECTORS_PER_CELL,
            batch_size=100_000,
        )
        if not exact:
            indexed.get_index("embedding").faiss_index.nprobe = round(cells * SHARE_OF_CELLS_SEARCHED)
        return indexed

    def _check_model(self, made_with: Mapping[str, str], source: str | Path) -> None:
        if made_with["digest"] != self._made_with["digest"]:
            raise ValueError(
                f"{source} holds embeddings of another model, {made_with['model']}, which cannot be compared with "
                f"those of {self.model_name}. Pass pipeline=pipeline('face-embedding', model={made_with['model']!r}), "
                "or enroll the people again."
            )

    def _enroll(self, photographs: Sequence[tuple[str, str, Any]], check_people: bool) -> None:
        """Enroll photographs, given as the person's name, the file's name and the photograph."""
        images = (photograph for _, _, photograph in photographs)
        found = logging.tqdm(self.pipeline(images, policy="largest"), desc="Enrolling", total=len(photographs))
        rows = []
        for (person, file_name, _), faces in zip(photographs, found, strict=True):
            if not faces:
                raise ValueError(f"No face was found in {file_name}, a photograph of {person!r}.")
            face = {name: faces[0][name] for name in ("embedding", "norm")}
            rows.append({"person": person, "file_name": file_name, **face})
        table = pa.concat_tables([self._table, pa.Table.from_pylist(rows, schema=self._schema)])
        names = zip(table["person"].to_pylist(), table["file_name"].to_pylist(), strict=True)
        newest = {name: row for row, name in enumerate(names)}
        table = table.take(list(newest.values()))
        if check_people and self.pipeline.model.config.similarity_thresholds:
            self._check_people(table, {person for person, _, _ in photographs})
        self._set_rows(table)

    def _check_people(self, table: pa.Table, people: Collection[str]) -> None:
        """Raise `ValueError` if photographs under one name show two people, by the most lenient threshold there is."""
        thresholds = self.pipeline.model.config.similarity_thresholds
        threshold = thresholds[max(thresholds, key=float)]
        rows_of = defaultdict(list)
        for row, person in enumerate(table["person"].to_pylist()):
            if person in people:
                rows_of[person].append(row)
        for person, rows in rows_of.items():
            embeddings = vectors(table.take(rows))
            similarities = embeddings @ embeddings.T
            _, groups = connected_components(similarities >= threshold, directed=False)
            if groups.any():  # not all in the first
                first, second = 0, int(groups.argmax())
                names = [table["file_name"][rows[each]] for each in (first, second)]
                raise ValueError(
                    f"The photographs of {person!r} seem to show two people: {names[0]} and {names[1]} have a "
                    f"similarity of {similarities[first, second]:.2f}, below {threshold:.2f}, and no others connect "
                    "them. Give two people two names, or pass check_people=False if it is one person."
                )


def _faiss() -> ModuleType:
    try:
        import faiss
    except ImportError as error:
        raise ImportError(
            'Searching a gallery requires FAISS, which is missing: pip install "hf_face[gallery]"'
        ) from error
    return faiss


__all__ = ["FaceGallery"]
