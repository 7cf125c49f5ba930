"""The files of a gallery: a dataset of embeddings, with a card."""

import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from datasets import Features, List, Value
from huggingface_hub import snapshot_download

from ..embedding.finite import check_finite
from ..user_input import check_exists, check_output_folder
from ..writing import whole_file

FILE = Path("data", "train-00000-of-00001.parquet")
MADE_WITH = b"hf_face_gallery"  # in the file's schema: the model, as JSON

CARD = """\
---
tags:
- face-recognition
- hf_face-gallery
configs:
- config_name: default
  data_files:
  - split: train
    path: data/train-*.parquet
---

# People

A gallery of {num_people:,} people, enrolled from {num_photographs:,} photographs with the model `{model}`.

```python
from hf_face import FaceGallery

gallery = FaceGallery.load("<this repository, or its folder>")
gallery.search("photograph.jpg")
```

Embeddings of faces are biometric data of people. Share and use them only with their consent, and as the law allows.
"""


def features_of(embedding_size: int) -> Features:
    """The columns of a gallery, with a row for each photograph."""
    return Features(
        {
            "person": Value("string"),
            "file_name": Value("string"),
            "embedding": List(Value("float32"), length=embedding_size),
            "norm": Value("float32"),
        }
    )


def vectors(rows: pa.Table) -> np.ndarray:
    """The embeddings (N, D) of a gallery's rows."""
    column = rows["embedding"].combine_chunks()
    return column.flatten().to_numpy().reshape(len(column), -1)


def write_gallery(rows: pa.Table, made_with: dict[str, str], folder: Path) -> None:
    """
    Write a gallery to a folder, in place of one that is there.

    Args:
        rows: Its rows, with the columns of [`features_of`].
        made_with: The `model` whose embeddings they are, and its `digest`.
        folder: The folder.

    Raises:
        ValueError: if the folder cannot be written to.
    """
    check_output_folder(folder)
    (folder / FILE).parent.mkdir(parents=True, exist_ok=True)
    with whole_file(folder / FILE) as unfinished:
        metadata = {**(rows.schema.metadata or {}), MADE_WITH: json.dumps(made_with).encode()}
        pq.write_table(rows.replace_schema_metadata(metadata), unfinished)
    num_people = pc.count_distinct(rows["person"]).as_py()
    card = CARD.format(num_people=num_people, num_photographs=len(rows), model=made_with["model"])
    (folder / "README.md").write_text(card, encoding="utf-8")


def read_gallery(source: str | Path) -> tuple[dict[str, str], pa.Table]:
    """
    Read a gallery, which may come from somebody else.

    Args:
        source: The folder, or the name of a dataset on the Hub.

    Returns:
        What it was made with, and its rows; see [`write_gallery`].

    Raises:
        FileNotFoundError: if there is no such gallery.
        ValueError: if the file is damaged or not a gallery.
    """
    file = _find_file(source)
    try:
        rows = pq.read_table(file)
    except pa.ArrowInvalid as error:
        raise ValueError(f"{file} is not a complete Parquet file: {error}") from error
    made_with = (rows.schema.metadata or {}).get(MADE_WITH)
    if made_with is None or rows.column_names != list(features_of(1)):
        raise ValueError(f"{file} is not a gallery, as `FaceGallery.save` writes it.")
    check_finite(vectors(rows), f"embeddings of {file}: row")
    return json.loads(made_with), rows


def _find_file(source: str | Path) -> Path:
    check_exists(source)
    folder = Path(source)
    if not folder.exists():
        folder = Path(snapshot_download(str(source), repo_type="dataset", allow_patterns=FILE.as_posix()))
    if not (folder / FILE).is_file():
        raise FileNotFoundError(f"{source} is not a gallery: it has no {FILE}.")
    return folder / FILE
