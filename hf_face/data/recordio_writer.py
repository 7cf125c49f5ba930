"""Writes identity datasets as RecordIO in InsightFace's layout, for tools that read nothing else."""

import io
import re
from pathlib import Path

import numpy as np
from datasets import Dataset
from PIL import Image as PILImage
from tqdm.auto import tqdm

from .columns import FEW_ROWS, encoded_images, identity_labels
from .identities import check_identities
from .recordio import FIRST, HEAD, LAST, LENGTH_BITS, LENGTH_MASK, MAGIC, MAGIC_BYTES, MIDDLE, PART, WHOLE


def write_recordio(dataset: Dataset, folder: str | Path, batch_size: int = FEW_ROWS) -> Path:
    """Write `train.rec`, `train.idx` and `property`, without re-encoding the images.

    Images are grouped by identity, since the format stores a range of records per identity.

    Args:
        dataset: Identity data with `image` and `label`.
        folder: Folder to write to.
        batch_size: Number of images to hold in memory at a time.

    Returns:
        The path of `train.rec`.

    Raises:
        FileExistsError: if the folder already has a `train.rec`.
        ValueError: if there are no images, an identity has none, or an image's bytes are missing.
    """
    path = Path(folder, "train.rec")
    if path.exists():
        raise FileExistsError(f"{path} already exists. Remove it, or write to another folder")
    check_identities(dataset)
    labels = identity_labels(dataset)
    order = np.argsort(labels, kind="stable")
    ends = 1 + np.cumsum(np.bincount(labels))
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_suffix(".rec.unfinished")
    with unfinished.open("wb") as rec, path.with_suffix(".idx").open("w") as idx:
        writer = _Writer(rec, idx)
        writer.write([len(order) + 1, len(order) + 1 + len(ends)])
        for start in tqdm(range(0, len(order), batch_size), desc=f"writing {path.name}"):
            rows = order[start : start + batch_size]
            for label, image in zip(labels[rows], encoded_images(dataset, rows), strict=True):
                writer.write(label, image)
        for identity in zip([1, *ends[:-1]], ends, strict=True):
            writer.write(identity)
    (first,) = encoded_images(dataset, order[:1])
    with PILImage.open(io.BytesIO(first)) as image:
        path.with_name("property").write_text(f"{len(ends)},{image.height},{image.width}")
    return unfinished.rename(path)


class _Writer:
    """Appends records and their index entries; a record's key is its position."""

    def __init__(self, rec, idx):
        self.rec, self.idx = rec, idx
        self.count = 0

    def write(self, labels, image: bytes = b""):
        """Append a record with one label or an array of labels, and an image."""
        self.idx.write(f"{self.count}\t{self.rec.tell()}\n")
        if np.ndim(labels) == 0:
            data = HEAD.pack(0, labels, self.count, 0) + image
        else:
            data = HEAD.pack(len(labels), 0, self.count, 0) + np.array(labels, dtype="<f4").tobytes() + image
        if len(data) > LENGTH_MASK:
            raise ValueError(f"record {self.count} has {len(data)} bytes, but the format allows at most {LENGTH_MASK}")
        parts = _split_at_magic(data)
        kinds = [FIRST, *[MIDDLE] * (len(parts) - 2), LAST] if len(parts) > 1 else [WHOLE]
        for kind, part in zip(kinds, parts, strict=True):
            self.rec.write(PART.pack(MAGIC, kind << LENGTH_BITS | len(part)) + part + bytes(-len(part) % 4))
        self.count += 1


def _split_at_magic(data: bytes) -> list[bytes]:
    """Split at every magic at a multiple of 4 bytes, dropping it, so that readers can search for record starts."""
    parts, start = [], 0
    for found in re.finditer(re.escape(MAGIC_BYTES), data):
        if found.start() % 4 == 0:
            parts.append(data[start : found.start()])
            start = found.end()
    return [*parts, data[start:]]
