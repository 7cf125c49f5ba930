"""Loads verification pairs from the file formats in which protocols are published."""

import codecs
import posixpath
import re
import unicodedata
from collections import Counter
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pyarrow as pa
from datasets import Dataset, Features, Image, Value
from pyarrow import csv

from ..models.pixels import image_suffixes
from ..user_input import check_path
from .image_folder import find_images, read_images
from .pairs import VerificationPairs
from .recordio import image_column
from .sources import load_shards
from .verification_bin import read_verification_bin

STARTS_ELSEWHERE = re.compile(r"/|[A-Za-z]:/|\.\./")  # absolute on any system, or leads out of the list's folder


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
            compared without suffix, since aligned copies are often PNG where the list says JPEG, and regardless of how
            the system that wrote the list spells them: backslashes, decomposed accents, paths that start elsewhere.
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
    check_path(path)
    path = Path(path)
    name = name or path.stem
    if path.suffix == ".bin":
        return _read_bin(path, name)
    listing = _read_pairs_txt(path) if path.suffix == ".txt" else _read_csv(path)
    wanted, pairs = np.unique(listing.files, return_inverse=True)
    dataset = _select_images(wanted.tolist(), path.parent if images is None else images, path)
    if landmarks is not None:
        dataset = dataset.add_column("landmarks", _read_landmarks(Path(landmarks), dataset["name"][:]))
    return VerificationPairs(
        dataset, pairs.reshape(listing.files.shape), listing.same, listing.fold, name, listing.group
    )


class _Listing(NamedTuple):
    files: np.ndarray  # (P, 2) normalized names
    same: np.ndarray
    fold: np.ndarray | None = None
    group: np.ndarray | None = None


def _read_bin(path: Path, name: str) -> VerificationPairs:
    images, same = read_verification_bin(path)
    rows: dict[bytes, int] = {}  # an image may be in many pairs
    pairs = np.array([rows.setdefault(image, len(rows)) for image in images], dtype=np.int64)
    encoded = image_column(pa.array(rows, pa.binary()))
    dataset = Dataset.from_dict({"image": encoded}, features=Features({"image": Image()}))
    return VerificationPairs(dataset, pairs.reshape(len(same), 2), same, name=name)


def _read_pairs_txt(path: Path) -> _Listing:
    """Read LFW's format: a line "folds pairs" (or only "pairs"), then "name i j" (same) and "name i other j" lines.

    Each fold has `pairs` pairs of the same person, followed by as many of different people. Without the first line, as
    in RFW's lists, there may be any number of pairs, in ten consecutive folds.
    """
    lines = _read_text(path).split("\n")
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
        files.append((_normalized(f"{person}_{int(a):04d}"), _normalized(f"{other}_{int(b):04d}")))
        same.append(other == person)
    fold = _promised_folds(path, lines[0], len(files)) if has_header else None
    return _Listing(np.array(files), np.array(same), fold)


def _promised_folds(path: Path, header: str, num_pairs: int) -> np.ndarray | None:
    """The fold of each pair according to a list's header; None if the header states no folds."""
    *folds, pairs_per_fold = (int(count) for count in header.split())
    num_folds = folds[0] if folds else 1
    expected = 2 * num_folds * pairs_per_fold
    if num_pairs != expected:
        raise ValueError(f"{path}: expected {expected} pairs from the first line, {header!r}, found {num_pairs}")
    return np.repeat(np.arange(num_folds), 2 * pairs_per_fold) if num_folds > 1 else None


def _read_landmarks(path: Path, names: list[str]) -> list[list[float]]:
    """Five points (alternating x and y) of each image, matched by file name without folder and suffix."""
    points = {}
    for number, line in enumerate(_read_text(path).splitlines(), start=1):
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
    try:
        table = csv.read_csv(path, convert_options=csv.ConvertOptions(**names))
    except pa.ArrowInvalid as error:
        raise ValueError(f"{path} is not a CSV file with the columns file_a, file_b and same: {error}") from error
    for column in ("file_a", "file_b", "same"):
        if column not in table.column_names:
            raise ValueError(f"{path} has no column {column!r}, only {table.column_names}")
    if not len(table):
        raise ValueError(f"{path} has no pairs")
    columns = {name: table[name].to_numpy() for name in table.column_names}
    _check_column(path, "same", columns["same"], np.isin(columns["same"], [0, 1]), "0 or 1")
    for name in ("file_a", "file_b"):
        _check_column(path, name, columns[name], columns[name].astype(bool), "a file name")  # not "" or None
    if "fold" in columns:
        fold = columns["fold"]
        whole = np.isfinite(fold) & (fold == np.floor(fold)) if fold.dtype.kind in "iuf" else np.zeros(len(fold), bool)
        _check_column(path, "fold", fold, whole, "an integer")
    files = np.array([[_normalized(name) for name in columns[side]] for side in ("file_a", "file_b")]).T
    return _Listing(files, columns["same"], columns.get("fold"), columns.get("group"))


def _check_column(path: Path, name: str, values: np.ndarray, good: np.ndarray, expected: str):
    bad = np.flatnonzero(~good)
    if len(bad):
        raise ValueError(f"{path}, line {bad[0] + 2}: {name} must be {expected}, found {values[bad[0]]!r}")


def _read_text(path: Path) -> str:
    """The text of a list as Linux, macOS or Windows writes it, with or without a byte-order mark."""
    data = path.read_bytes()
    encoding = "utf-16" if data.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)) else "utf-8-sig"
    try:
        return data.decode(encoding).replace("\r\n", "\n")
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} is not a text in UTF-8: {error}") from error


def _select_images(wanted: list[str], images: str | Path | Dataset, listing: Path) -> Dataset:
    """The images with these names, in this order, with the columns `image` and `name`."""
    features = Features({"image": Image(), "name": Value("string")})
    files = find_images(Path(images))[0] if not isinstance(images, Dataset) and Path(images).is_dir() else []
    if files:
        files = [files[row] for row in _locate(wanted, files, listing, str(images))]
        return Dataset.from_dict({"image": read_images(Path(images), files), "name": files}, features=features)
    dataset = images if isinstance(images, Dataset) else _load_parquet(Path(images))
    if "file_name" not in dataset.column_names:
        raise ValueError(f"{images} has no column 'file_name', only {dataset.column_names}")
    rows = _locate(wanted, dataset["file_name"][:], listing, "the dataset's column file_name")
    return dataset.select_columns(["image", "file_name"]).rename_column("file_name", "name").select(rows)


def _load_parquet(path: Path) -> Dataset:
    files = [path] if path.is_file() else sorted(path.glob("[!.]*.parquet"))
    if not files:
        raise FileNotFoundError(f"{path} contains neither images nor Parquet files")
    return load_shards(files, path if path.is_dir() else path.parent)


def _locate(wanted: list[str], files: list[str], listing: Path, where: str) -> list[int]:
    """The position in `files` of each name.

    LFW's list identifies a file by person and number; it may be in the person's folder, or all in a single folder.
    """
    names = [_stem(file) if listing.suffix == ".txt" else _normalized(file) for file in files]
    rows = {name: row for row, name in enumerate(names)}
    counts = Counter(names)
    wanted = _relative(wanted, rows)
    missing = [name for name in wanted if name not in rows]
    if missing:
        raise FileNotFoundError(
            f"{listing}: {len(missing)} of its {len(wanted)} images are not in {where}, for example {missing[0]!r}"
        )
    for name in wanted:
        if counts[name] > 1:
            raise ValueError(f"{listing}: {counts[name]} images in {where} are named {name!r}")
    return [rows[name] for name in wanted]


def _relative(names: list[str], known: dict[str, int]) -> list[str]:
    """Names relative to the images' folder: paths from another folder or computer all lose the same number of parts."""
    elsewhere = [name.split("/") for name in names if STARTS_ELSEWHERE.match(name)]
    if not elsewhere:
        return names
    depths = range(1, max(map(len, elsewhere)))
    dropped = max(depths, key=lambda n: sum("/".join(parts[n:]) in known for parts in elsewhere))
    return ["/".join(name.split("/")[dropped:]) if STARTS_ELSEWHERE.match(name) else name for name in names]


def _normalized(name: str) -> str:
    """A file's name without suffix, spelled the same for every system: composed accents, slashes, no dots."""
    name = posixpath.normpath(unicodedata.normalize("NFC", name).replace("\\", "/"))
    stem, suffix = posixpath.splitext(name)
    return stem if suffix.lower() in image_suffixes() else name


def _stem(name: str) -> str:
    return _normalized(name).rpartition("/")[2]
