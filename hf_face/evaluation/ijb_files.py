"""The official files of IJB-B and IJB-C, as InsightFace and most papers distribute them.

    IJBC/loose_crop/1.jpg ...                 images, not aligned
    IJBC/meta/ijbc_face_tid_mid.txt           image, template and media of each image
    IJBC/meta/ijbc_name_5pts_score.txt        image, five landmarks and detector score, in the same order
    IJBC/meta/ijbc_template_pair_label.txt    template, template, 1 for genuine pairs
    IJBC/meta/ijbc_1N_gallery_G1.csv          template, subject, ...: enrolled people; also _G2 (IJB-B: _S1, _S2)
    IJBC/meta/ijbc_1N_probe_mixed.csv         template, subject, ...: the probes

Every error names the file and the line.
"""

import csv
import os
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.csv
from datasets import Dataset, Image

from ..user_input import check_folder

LANDMARKS = ("x1", "y1", "x2", "y2", "x3", "y3", "x4", "y4", "x5", "y5")


@dataclass(frozen=True)
class SubjectTemplates:
    """A gallery or probe list: ascending template ids (T,) and the subject of each."""

    templates: np.ndarray
    subjects: np.ndarray
    source: str


@dataclass(frozen=True)
class IJBProtocol:
    """Images, templates and comparisons of IJB-B, IJB-C or a dataset in their format.

    Args:
        name: prefix of the files and of the metrics, such as `ijbc`.
        images: columns `image` and `landmarks` (ten numbers), N rows; other per-image arrays are in the same order.
        templates, medias: ids (N,) of the template and the media that each image belongs to.
        detector_scores: confidence (N,) of the face detector.
        pairs: template ids (P, 2) of the 1:1 comparisons.
        same: true (P,) for genuine pairs.
        galleries: the 1:N galleries by name, with disjoint subjects; empty without 1:N lists.
        probes: the 1:N probes, which are searched for in every gallery.
    """

    name: str
    images: Dataset
    templates: np.ndarray
    medias: np.ndarray
    detector_scores: np.ndarray
    pairs: np.ndarray
    same: np.ndarray
    pairs_source: str
    galleries: dict[str, SubjectTemplates] = field(default_factory=dict)
    probes: SubjectTemplates | None = None


def load_ijb(folder: str | Path) -> IJBProtocol:
    """Read a folder with `meta` and `loose_crop`.

    Raises:
        FileNotFoundError: if the folder, a file or a listed image is missing.
        ValueError: if a line is malformed or two files disagree; the message names the file and line.
    """
    check_folder(folder)
    folder = Path(folder)
    meta = folder / "meta"
    found = sorted(meta.glob("[!.]*_face_tid_mid.txt"))
    if len(found) != 1:
        raise FileNotFoundError(
            f"{meta} contains {len(found)} files *_face_tid_mid.txt, expected one: pass a dataset's folder such as IJBC"
        )
    name = found[0].name.removesuffix("_face_tid_mid.txt")
    members = read_columns(found[0], {"image": str, "template": int, "media": int})
    faces_path = meta / f"{name}_name_5pts_score.txt"
    faces = _read_faces(faces_path)
    _check_same_images(found[0], members["image"], faces_path, faces["image"])
    pairs_path = meta / f"{name}_template_pair_label.txt"
    pairs = _read_pairs(pairs_path)
    galleries, probes = _read_identification(meta, name)
    _check_photographs(folder / "loose_crop", faces_path, faces["image"])
    images = Dataset.from_dict(
        {
            "image": [str(folder / "loose_crop" / image) for image in faces["image"]],
            "landmarks": np.stack([faces[column] for column in LANDMARKS], axis=1),
        }
    )
    return IJBProtocol(
        name=name,
        images=images.cast_column("image", Image()),
        templates=members["template"],
        medias=members["media"],
        detector_scores=faces["score"].astype(np.float32),
        pairs=np.stack([pairs["first"], pairs["second"]], axis=1),
        same=pairs["label"] == 1,
        pairs_source=str(pairs_path),
        galleries=galleries,
        probes=probes,
    )


def _read_faces(path: Path) -> dict[str, np.ndarray]:
    faces = read_columns(path, {"image": str, **dict.fromkeys(LANDMARKS, float), "score": float})
    for column in (*LANDMARKS, "score"):
        _check(path, np.isfinite(faces[column]), f"{column} is not finite")
    return faces


def _read_pairs(path: Path) -> dict[str, np.ndarray]:
    pairs = read_columns(path, {"first": int, "second": int, "label": int})
    _check(path, np.isin(pairs["label"], (0, 1)), "the label is neither 0 nor 1")
    return pairs


def read_columns(path: Path, columns: dict[str, type]) -> dict[str, np.ndarray]:
    """Read the columns of a whitespace-separated file without header, by name.

    Args:
        columns: name and type (`str`, `int` or `float`) of every column.

    Raises:
        ValueError: if the file is empty, or a line does not have these columns.
    """
    if not path.stat().st_size:
        raise ValueError(f"{path} is empty")
    arrow_types = {str: pa.string(), int: pa.int64(), float: pa.float64()}
    try:
        table = pyarrow.csv.read_csv(
            path,
            pyarrow.csv.ReadOptions(column_names=list(columns)),
            pyarrow.csv.ParseOptions(delimiter=" ", quote_char=False),
            pyarrow.csv.ConvertOptions(
                column_types={name: arrow_types[kind] for name, kind in columns.items()}, null_values=[]
            ),
        )
    except pa.ArrowInvalid:  # other whitespace, or an error that only the slow reader can locate
        return _read_columns_slowly(path, columns)
    return {name: table[name].to_numpy() for name in columns}


def _read_columns_slowly(path: Path, columns: dict[str, type]) -> dict[str, np.ndarray]:
    values: dict[str, list] = {name: [] for name in columns}
    with open(path, encoding="utf-8") as file:
        for number, line in enumerate(file, 1):
            fields = line.split()
            if len(fields) != len(columns):
                raise ValueError(f"{path}, line {number}: expected {len(columns)} fields, found {len(fields)}")
            for (name, kind), text in zip(columns.items(), fields, strict=True):
                values[name].append(_parse(kind, text, f"{path}, line {number}: {name}"))
    return {name: np.array(column) for name, column in values.items()}


def read_subject_templates(path: Path) -> SubjectTemplates:
    """Read a gallery or probe list: CSV with a header, one row per image, first columns template and subject."""
    subject_of: dict[int, int] = {}
    with open(path, newline="", encoding="utf-8") as file:
        reader = csv.reader(file)
        next(reader, None)
        for row in reader:
            where = f"{path}, line {reader.line_num}"
            if len(row) < 2:
                raise ValueError(f"{where}: expected a template and a subject, found {len(row)} fields")
            template, subject = _parse(int, row[0], f"{where}: template"), _parse(int, row[1], f"{where}: subject")
            if subject_of.setdefault(template, subject) != subject:
                raise ValueError(
                    f"{where}: template {template} has subject {subject}, but {subject_of[template]} in an earlier line"
                )
    if not subject_of:
        raise ValueError(f"{path}: no templates")
    templates = np.array(sorted(subject_of))
    return SubjectTemplates(templates, np.array([subject_of[template] for template in templates]), str(path))


def _read_identification(meta: Path, name: str) -> tuple[dict[str, SubjectTemplates], SubjectTemplates | None]:
    lists = sorted(meta.glob(f"{name}_1N_*.csv"))
    if not lists:
        return {}, None
    letter = "S" if (meta / f"{name}_1N_gallery_S1.csv").exists() else "G"
    paths = {each: meta / f"{name}_1N_gallery_{each}.csv" for each in (f"{letter}1", f"{letter}2")}
    probes_path = meta / f"{name}_1N_probe_mixed.csv"
    for path in (*paths.values(), probes_path):
        if not path.exists():
            raise FileNotFoundError(f"{path} is missing; identification requires two galleries and the mixed probes")
    galleries = {each: read_subject_templates(path) for each, path in paths.items()}
    return galleries, read_subject_templates(probes_path)


def _parse(kind: type, text: str, where: str):
    try:
        return kind(text)
    except ValueError:
        raise ValueError(f"{where} is {text!r}, expected {kind.__name__}") from None


def _check_same_images(path: Path, images: np.ndarray, other_path: Path, other_images: np.ndarray):
    if len(images) != len(other_images):
        raise ValueError(
            f"{path} lists {len(images)} images, {other_path} {len(other_images)}: expected the same images"
        )
    _check(path, images == other_images, f"the image is not the one in the same line of {other_path}")


def _check_photographs(folder: Path, path: Path, images: np.ndarray):
    """Check that all images exist by listing the folder once, to fail before embedding instead of hours into it."""
    there = set(os.listdir(folder))
    missing = [image for image in images if image not in there]
    if missing:
        raise FileNotFoundError(
            f"{len(missing)} of the {len(images)} images in {path} are missing from {folder}, for example {missing[0]}"
        )


def _check(path: Path, good: np.ndarray, fault: str):
    if not good.all():
        raise ValueError(f"{path}, line {int(np.argmin(good)) + 1}: {fault}")
