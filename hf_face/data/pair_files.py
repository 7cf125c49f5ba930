"""Loads verification pairs from the file formats in which protocols are published."""

import os
from collections import Counter
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pyarrow as pa
from datasets import Dataset, Features, Image, Value, load_dataset
from pyarrow import csv

from .image_folder import IMAGE_SUFFIXES, list_images, read_images
from .pairs import VerificationPairs
from .recordio import image_column
from .verification_bin import read_verification_bin


def load_verification_pairs(
    path: str | Path,
    images: str | Path | Dataset | None = None,
    name: str | None = None,
    landmarks: str | Path | None = None,
    revision: str | None = None,
) -> VerificationPairs:
    """Load a verification protocol.

    Args:
        path: One of: an InsightFace `.bin`; LFW's `pairs.txt` (also XQLFW's, and RFW's without header); a CSV with the
            columns `file_a`, `file_b`, `same` and optionally `fold` and `group`; a folder written by
            [`VerificationPairs.to_parquet`], or the Hub dataset it was pushed to.
        images: Location of the images of a `pairs.txt` or CSV: a folder of images, or a Parquet file, a folder of them
            or a `Dataset` with the columns `image` and `file_name`. Defaults to the list's own folder. File names are
            compared without suffix, since aligned copies are often PNG where the list says JPEG.
        name: Prefix of the metrics; defaults to the file's name.
        landmarks: For a list of unaligned images, RFW's `<group>_lmk.txt` with a file, a label and five points per
            line. They become the images' column `landmarks`, which an `Embedder` uses to align them.
        revision: Revision of a Hub dataset.

    Raises:
        FileNotFoundError: if the list, or an image in it, is missing.
        UnsafePickleError: if a `.bin` refers to something that could run code.
        ValueError: if a column is missing, a line or value is invalid, or a `.bin` has an odd number of images.
    """
    if Path(path).suffix not in (".bin", ".csv", ".txt"):
        return VerificationPairs.from_parquet(path, name, revision)
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"{path} does not exist")
    name = name or path.stem
    if path.suffix == ".bin":
        return _read_bin(path, name)
    listing = _read_pairs_txt(path) if path.suffix == ".txt" else _read_csv(path)
    wanted, pairs = np.unique(listing.files, return_inverse=True)
    dataset = _select_images(wanted.tolist(), path.parent if images is None else images, path)
    if landmarks is not None:
        dataset = dataset.add_column("landmarks", _read_landmarks(Path(landmarks), dataset["name"][:]))
    return VerificationPairs(dataset, pairs.reshape(-1, 2), listing.same, listing.fold, name, listing.group)


class _Listing(NamedTuple):
    files: np.ndarray  # (P, 2) names without suffix
    same: np.ndarray
    fold: np.ndarray | None = None
    group: np.ndarray | None = None


def _read_bin(path: Path, name: str) -> VerificationPairs:
    images, same = read_verification_bin(path)
    distinct = pa.array(images, pa.binary()).dictionary_encode()  # an image may be in many pairs
    dataset = Dataset.from_dict({"image": image_column(distinct.dictionary)}, features=Features({"image": Image()}))
    return VerificationPairs(dataset, distinct.indices.to_numpy().reshape(-1, 2), same, name=name)


def _read_pairs_txt(path: Path) -> _Listing:
    """Read LFW's format: a line "folds pairs" (or only "pairs"), then "name i j" (same) and "name i other j" lines.

    Each fold has `pairs` pairs of the same person, followed by as many of different people. Without the first line, as
    in RFW's lists, there may be any number of pairs, in ten consecutive folds.
    """
    lines = path.read_text(encoding="utf-8").split("\n")
    counts = lines[0].split()
    has_header = len(counts) <= 2
    if has_header and not (counts and all(count.isdecimal() for count in counts)):
        raise ValueError(f"{path}: the first line must be '<folds> <pairs>' or a pair, found {lines[0]!r}")
    files, same = [], []
    for number, line in enumerate(lines[has_header:], start=1 + has_header):
        match line.split():
            case [person, a, b] if a.isdecimal() and b.isdecimal():
                other = person
            case [person, a, other, b] if a.isdecimal() and b.isdecimal():
                pass
            case []:
                continue
            case _:
                raise ValueError(f"{path}, line {number}: expected 'name i j' or 'name i other j', found {line!r}")
        files.append((f"{person}_{int(a):04d}", f"{other}_{int(b):04d}"))
        same.append(other is person)
    fold = _promised_folds(path, lines[0], len(files)) if has_header else None
    return _Listing(np.array(files), np.array(same), fold)


def _promised_folds(path: Path, header: str, num_pairs: int) -> np.ndarray | None:
    """The fold of each pair according to a list's header; None if the header states no folds."""
    *folds, pairs_per_fold = (int(count) for count in header.split())
    num_folds = folds[0] if folds else 1
    expected = 2 * num_folds * pairs_per_fold
    if num_pairs != expected:
        raise ValueError(f"{path}: expected {expected} pairs from the first line, {header!r}, found {num_pairs}")
    return np.arange(expected) * num_folds // expected if num_folds > 1 else None


def _read_landmarks(path: Path, names: list[str]) -> list[list[float]]:
    """Five points (alternating x and y) of each image, matched by file name without folder and suffix."""
    points = {}
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1):
        fields = line.split()
        try:
            coordinates = [float(field) for field in fields[2:]]
        except ValueError:
            coordinates = []
        if len(coordinates) != 10:
            raise ValueError(f"{path}, line {number}: expected a file, a label and ten coordinates, found {line!r}")
        points[_stem(fields[0])] = coordinates
    stems = [_stem(name) for name in names]
    if missing := [stem for stem in stems if stem not in points]:
        raise ValueError(f"{path}: no landmarks for {len(missing)} of {len(stems)} images, for example {missing[0]!r}")
    return [points[stem] for stem in stems]


def _read_csv(path: Path) -> _Listing:
    names = {"column_types": {"file_a": pa.string(), "file_b": pa.string(), "group": pa.string()}}
    table = csv.read_csv(path, convert_options=csv.ConvertOptions(**names))
    for column in ("file_a", "file_b", "same"):
        if column not in table.column_names:
            raise ValueError(f"{path} has no column {column!r}, only {table.column_names}")
    columns = {name: table[name].to_numpy() for name in table.column_names}
    bad = np.flatnonzero(~np.isin(columns["same"], [0, 1]))
    if len(bad):
        raise ValueError(f"{path}, line {bad[0] + 2}: same must be 0 or 1, found {columns['same'][bad[0]]!r}")
    files = np.stack([columns["file_a"], columns["file_b"]], axis=1)
    without_suffix = np.array([[_without_suffix(name) for name in pair] for pair in files])
    return _Listing(without_suffix, columns["same"], columns.get("fold"), columns.get("group"))


def _select_images(wanted: list[str], images: str | Path | Dataset, listing: Path) -> Dataset:
    """The images with these names, in this order, with the columns `image` and `name`."""
    features = Features({"image": Image(), "name": Value("string")})
    files = [] if isinstance(images, Dataset) else list_images(Path(images))
    if files:
        files = [files[row] for row in _locate(wanted, files, listing, str(images))]
        return Dataset.from_dict({"image": read_images(Path(images), files), "name": files}, features=features)
    dataset = images if isinstance(images, Dataset) else _load_parquet(Path(images))
    if "file_name" not in dataset.column_names:
        raise ValueError(f"{images} has no column 'file_name', only {dataset.column_names}")
    rows = _locate(wanted, dataset["file_name"][:], listing, "the dataset's column file_name")
    return dataset.select_columns(["image", "file_name"]).rename_column("file_name", "name").select(rows)


def _load_parquet(path: Path) -> Dataset:
    files = [path] if path.is_file() else sorted(path.glob("*.parquet"))
    if not files:
        raise FileNotFoundError(f"{path} contains neither images nor Parquet files")
    return load_dataset("parquet", data_files=[str(file) for file in files], split="train")


def _locate(wanted: list[str], files: list[str], listing: Path, where: str) -> list[int]:
    """The position in `files` of each name.

    LFW's list identifies a file by person and number; it may be in the person's folder, or all in a single folder.
    """
    stems = [_stem(file) if listing.suffix == ".txt" else _without_suffix(file) for file in files]
    rows = {stem: row for row, stem in enumerate(stems)}
    counts = Counter(stems)
    missing = [name for name in wanted if name not in rows]
    if missing:
        raise FileNotFoundError(
            f"{listing}: {len(missing)} of its {len(wanted)} images are not in {where}, for example {missing[0]!r}"
        )
    ambiguous = [name for name in wanted if counts[name] > 1]
    if ambiguous:
        raise ValueError(f"{listing}: {counts[ambiguous[0]]} images in {where} are named {ambiguous[0]!r}")
    return [rows[name] for name in wanted]


def _without_suffix(name: str) -> str:
    stem, suffix = os.path.splitext(name)
    return stem if suffix.lower() in IMAGE_SUFFIXES else name


def _stem(name: str) -> str:
    return _without_suffix(name).rpartition("/")[2]
