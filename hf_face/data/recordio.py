"""Reads MXNet RecordIO, the format of InsightFace's training sets, without mxnet.

A training set is a folder of three files. `train.rec` holds the records, each with one or more parts:

    part:    magic 0xced7230a | 3 bits: kind of part, 29 bits: length | data, padded to 4 bytes
    record:  number of labels L (uint32) | label (float32) | id (uint64) | id2 (uint64) | L labels (float32) | image

A record has a single label in its head (L = 0), or an array of labels that starts with the identity. `train.idx` lists
the byte at which each record starts, and `property` holds "identities,height,width". In InsightFace's sets record 0 is
a header without an image: its two labels a and b mean that records 1 ... a - 1 are images and records a ... b - 1 are
identities, and an identity's two labels are the range of its images' records.
"""

import mmap
import os
import re
import struct
from array import array
from bisect import bisect_left
from collections.abc import Iterator
from functools import cached_property
from pathlib import Path
from tempfile import NamedTemporaryFile
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from datasets import config
from datasets.fingerprint import Hasher
from huggingface_hub import snapshot_download
from pyarrow import csv
from tqdm.auto import tqdm

from .columns import BATCH_ROWS, rows_that_fit

MAGIC = 0xCED7230A
LENGTH_BITS = 29
LENGTH_MASK = (1 << LENGTH_BITS) - 1
WHOLE, FIRST, MIDDLE, LAST = range(4)  # kinds of parts
PART = struct.Struct("<II")
HEAD = struct.Struct("<IfQQ")
HEADS_SIZE = PART.size + HEAD.size  # of a record of one part: bytes before its labels and image
MAX_LABEL = 2**31  # beyond any data set, and far from where int64 ends
MAGIC_BYTES = MAGIC.to_bytes(4, "little")
HEADS_AT_ONCE = 65536
IMAGE_TYPE = pa.struct({"bytes": pa.binary(), "path": pa.string()})  # how `datasets.Image` is stored


class Record(NamedTuple):
    """One record: its labels (L,) float32, starting with the identity, and the encoded image."""

    labels: np.ndarray
    image: bytes


class RecordIO:
    """The images of a RecordIO training set, memory-mapped: `len`, random access by row, iteration, batches.

    Args:
        path: A folder with `train.rec` (or a single other `.rec` file), or the `.rec` file itself.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if it has no images, or a record or the index is damaged; also raised by every method that reads.
            The message names the file and the byte.

    Example:

        >>> recordio = RecordIO("faces_emore")
        >>> len(recordio), recordio.num_identities
        (5822653, 85742)
        >>> labels, image = recordio[0]
    """

    def __init__(self, path: str | Path):
        self.path = _find_rec(Path(path))
        with self.path.open("rb") as file:
            if not file.seek(0, 2):
                raise ValueError(f"{self.path} is empty")
            self._map = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        self._words = np.frombuffer(self._map, dtype="<u4", count=len(self._map) // 4)
        self._keys, self._offsets = self._read_index()
        self._check_end()
        self._images, self._identities = self._image_and_identity_records()
        if not len(self._images):
            raise ValueError(f"{self.path} has no images, only {len(self._offsets)} records that describe others")

    @classmethod
    def from_hub(cls, repo_id: str, revision: str | None = None) -> "RecordIO":
        """Read the RecordIO files of a Hub dataset such as `gaunernst/ms1mv3-recordio`."""
        return cls(download_recordio(repo_id, revision))

    def __len__(self) -> int:
        return len(self._images)

    def __getitem__(self, row: int) -> Record:
        if not -len(self) <= row < len(self):
            raise IndexError(f"row {row} of {len(self)} in {self.path}")
        return self._record(self._images[row])

    def __iter__(self) -> Iterator[Record]:
        return map(self._record, self._images)

    @cached_property
    def identity_ranges(self) -> np.ndarray | None:
        """(C, 2) int64: identity c's images are rows `[c, 0]` to `[c, 1] - 1`; None if the file does not list them.

        The file stores them as float32, exact up to 2^24 rows.
        """
        if not len(self._identities):
            return None
        return np.array([self._record(offset).labels for offset in self._identities], dtype=np.int64) - 1

    @cached_property
    def num_identities(self) -> int:
        """The number stated in `property`, else the number of ranges, else one more than the largest label."""
        properties = self.path.with_name("property")
        if properties.is_file():
            stated = properties.read_bytes().split(b",")[0].strip()
            if not re.fullmatch(rb"\d{1,18}", stated):
                raise ValueError(f"{properties}: expected 'identities,height,width', found {stated[:80]!r}")
            return int(stated)
        return len(self._identities) or int(self.labels().max()) + 1

    @property
    def names(self) -> list[str]:
        """The identities' numbers, since they have no names."""
        self.check_people()
        return [str(identity) for identity in range(self.num_identities)]

    def check_people(self):
        """Raise `ValueError` for more identities than images: a damaged label may claim any number."""
        if self.num_identities > len(self):
            raise ValueError(
                f"{self.path} has {self.num_identities} identities according to its property file or labels, but only "
                f"{len(self)} images. Load it with load_identities(..., compact=True)"
            )

    @property
    def fingerprint(self) -> str:
        """A fingerprint that changes when the file is replaced."""
        status = self.path.stat()
        return f"{status.st_size}-{status.st_mtime_ns}"

    def labels(self) -> np.ndarray:
        """The identity of every image, (N,) int64. Reads the head of each record only."""
        chunks = np.split(self._images, range(HEADS_AT_ONCE, len(self), HEADS_AT_ONCE))
        return np.concatenate([self._heads(chunk).identity for chunk in chunks])

    def read_batch(self, start: int, stop: int) -> pa.Table:
        """Rows `start` to `stop` as the columns `image` (encoded, as `datasets.Image` stores it) and `label`.

        An image's path locates its record: the file's name, `@` and the byte.
        """
        offsets = self._images[start:stop]
        heads = self._heads(offsets)
        images = self._slices(np.where(heads.plain, heads.start, offsets), np.where(heads.plain, heads.end, offsets))
        if not heads.plain.all():
            others = pa.array([self._record(offset).image for offset in offsets[~heads.plain]], pa.binary())
            images = pc.replace_with_mask(images, ~heads.plain, others)
        paths = pc.binary_join_element_wise(self.path.name, pa.array(offsets).cast(pa.string()), "@")
        return pa.table({"image": image_column(images, paths), "label": heads.identity})

    def batches(self, start: int = 0, stop: int | None = None, batch_size: int = BATCH_ROWS) -> Iterator[pa.Table]:
        """Rows `start` to `stop` as tables of at most `batch_size` rows and 64 MB, one in memory at a time."""
        stop = len(self) if stop is None else stop
        while start < stop:
            offsets = self._images[start : min(start + batch_size, stop)]
            end = start + rows_that_fit(self._words[offsets // 4 + 1] & LENGTH_MASK)
            yield self.read_batch(start, end)
            self._forget(self._images[start:end])
            start = end

    def _forget(self, offsets: np.ndarray):
        """Release the memory pages of records, which would otherwise count as this process's until memory runs low."""
        if hasattr(mmap, "MADV_DONTNEED"):
            start = int(offsets.min()) // mmap.PAGESIZE * mmap.PAGESIZE
            self._map.madvise(mmap.MADV_DONTNEED, start, int(offsets.max()) - start)

    # Opening: find the records, and which of them are images

    def _read_index(self) -> tuple[np.ndarray, np.ndarray]:
        """Keys and byte offsets of all records, sorted by key."""
        index = self.path.with_suffix(".idx")
        if not index.is_file():
            return self._scan()
        try:
            table = csv.read_csv(
                index,
                read_options=csv.ReadOptions(column_names=["key", "offset"]),
                parse_options=csv.ParseOptions(delimiter="\t"),
                convert_options=csv.ConvertOptions(column_types={"key": pa.int64(), "offset": pa.int64()}),
            )
        except pa.ArrowInvalid as error:
            raise ValueError(f"{index} is not an index with lines 'key<tab>byte offset': {error}") from error
        for name in ("key", "offset"):
            if table[name].null_count:
                raise ValueError(f"{index} has no {name} in row {pc.index(pc.is_null(table[name]), True).as_py() + 1}")
        keys, offsets = (table[name].to_numpy() for name in ("key", "offset"))
        for name, values in (("key", keys), ("offset", offsets)):
            _, first, counts = np.unique(values, return_index=True, return_counts=True)
            if len(repeated := first[counts > 1]):
                raise ValueError(
                    f"{index} has the {name} {values[repeated[0]]} more than once. Remove the file to rebuild it from "
                    f"{self.path.name}"
                )
        outside = np.flatnonzero((offsets < 0) | (offsets > len(self._map) - PART.size))
        if len(outside):
            raise ValueError(
                f"{index} has record {keys[outside[0]]} at byte {offsets[outside[0]]}, past the end of "
                f"{self.path.name} ({len(self._map)} bytes), which is truncated or does not belong to it"
            )
        order = np.argsort(keys, kind="stable")
        return keys[order], offsets[order]

    def _scan(self) -> tuple[np.ndarray, np.ndarray]:
        """Keys and byte offsets without an index, which is rebuilt once and stored in the cache of `datasets`."""
        name = Hasher.hash([str(self.path.absolute()), self.fingerprint])
        kept = Path(config.HF_DATASETS_CACHE, "recordio", f"{name}.npy")
        if not kept.is_file():
            offsets = self._walk()
            kept.parent.mkdir(parents=True, exist_ok=True)
            with NamedTemporaryFile(dir=kept.parent, delete=False) as file:  # other processes may be writing it too
                np.save(file, offsets)
            os.replace(file.name, kept)
        offsets = np.asarray(np.load(kept, mmap_mode="r"))
        return np.arange(len(offsets)), offsets

    def _walk(self) -> np.ndarray:
        """The byte offsets of all records, found by walking from one to the next."""
        offsets, end = array("q"), 0
        with tqdm(total=len(self._map), unit="B", unit_scale=True, desc=f"indexing {self.path.name}") as progress:
            while end < len(self._map):
                offsets.append(end)
                end = self._parts(end)[-1].next
                progress.update(end - offsets[-1])
        return np.array(offsets)

    def _check_end(self):
        """Check the last record in the file, which reveals the most common damage: a truncated copy."""
        last = self._offsets.argmax()
        end = self._parts(self._offsets[last])[-1].next
        if end != len(self._map):
            raise ValueError(
                f"the last record of the index, {self._keys[last]}, ends at byte {end}, but {self.path} has "
                f"{len(self._map)}, so they do not belong together. Remove the .idx file to rebuild it"
            )

    def _image_and_identity_records(self) -> tuple[np.ndarray, np.ndarray]:
        """The byte offsets of the images, and of the records that list the identities."""
        labels, image = self._record(self._offsets[0])
        if image:  # as written by im2rec: no header, every record is an image
            return self._offsets, self._offsets[:0]
        # images come first; the header's float32 counts are only exact up to 2^24, so they serve only as a check
        images = range(1, len(self._offsets))
        end = bisect_left(images, True, key=lambda i: not self._record(int(self._offsets[i])).image) + 1
        if labels.tolist() != np.array([end, len(self._offsets)], dtype=np.float32).tolist():
            raise ValueError(
                f"{self.path}: according to the header, images end before record {labels[0]:.0f} and identities before "
                f"{labels[1]:.0f}, but images end before record {end} of {len(self._offsets)}"
            )
        return self._offsets[1:end], self._offsets[end:]

    # Reading

    def _parts(self, offset: int) -> list["_Part"]:
        """The positions of the parts of the record at byte `offset`."""
        parts = [self._part(offset)]
        if parts[0].kind == WHOLE:
            return parts
        if parts[0].kind != FIRST:
            raise ValueError(f"{self.path}: the record at byte {offset} starts with part kind {parts[0].kind}")
        while parts[-1].kind != LAST:
            parts.append(self._part(parts[-1].next))
            if parts[-1].kind not in (MIDDLE, LAST):
                raise ValueError(f"{self.path}: the multi-part record at byte {offset} has no last part")
        return parts

    def _part(self, offset: int) -> "_Part":
        if offset + PART.size > len(self._map):
            raise ValueError(f"{self.path} is truncated: a part starts at byte {offset} of {len(self._map)}")
        magic, kind_and_length = PART.unpack_from(self._map, offset)
        if magic != MAGIC:
            raise ValueError(
                f"{self.path}: no record at byte {offset}, expected the magic {MAGIC:#x}, found {magic:#x}"
            )
        start = offset + PART.size
        end = start + (kind_and_length & LENGTH_MASK)
        next_part = end + -end % 4
        if next_part > len(self._map):
            raise ValueError(
                f"{self.path} is truncated: the record at byte {offset} ends at byte {next_part} of {len(self._map)}"
            )
        return _Part(kind_and_length >> LENGTH_BITS, start, end, next_part)

    def _record(self, offset: int) -> Record:
        # a part ends where the data contained the magic at a multiple of 4 bytes; the magic itself is not stored
        data = MAGIC_BYTES.join(self._map[part.start : part.end] for part in self._parts(int(offset)))
        if len(data) < HEAD.size:
            raise ValueError(f"{self.path}: the record at byte {offset} is shorter than its head of {HEAD.size} bytes")
        num_labels, label, _, _ = HEAD.unpack_from(data)
        if num_labels == 0:
            return Record(np.array([label], dtype=np.float32), data[HEAD.size :])
        end = HEAD.size + 4 * num_labels
        if end > len(data):
            raise ValueError(
                f"{self.path}: the record at byte {offset} declares {num_labels} labels, but its {len(data)} bytes "
                f"hold {(len(data) - HEAD.size) // 4}"
            )
        return Record(np.frombuffer(data, "<f4", num_labels, HEAD.size), data[end:])

    def _heads(self, offsets: np.ndarray) -> "_Heads":
        """Identities and image bounds of many records at once."""
        plain = (offsets % 4 == 0) & (offsets <= len(self._map) - HEADS_SIZE)
        magic, part, num_labels, label = self._words[offsets * plain // 4 + np.arange(4)[:, None]]  # (B,) each
        end = offsets + PART.size + (part & LENGTH_MASK).astype(np.int64)
        start = offsets + HEADS_SIZE + 4 * num_labels.astype(np.int64)
        plain &= (magic == MAGIC) & (part >> LENGTH_BITS == WHOLE) & (start <= end) & (end <= len(self._map))
        label = label.view("<f4")
        in_array = plain & (num_labels > 0)
        label[in_array] = self._words.view("<f4")[(offsets[in_array] + HEADS_SIZE) // 4]
        for row in np.flatnonzero(~plain):  # multi-part, or damaged
            label[row] = self._record(offsets[row]).labels[0]
        odd = np.flatnonzero((label < 0) | (label != np.floor(label)) | (label > MAX_LABEL))
        if len(odd):
            raise ValueError(
                f"{self.path}: the record at byte {offsets[odd[0]]} has label {label[odd[0]]}, which is not an identity"
            )
        return _Heads(label.astype(np.int64), start, end, plain)

    def _slices(self, start: np.ndarray, end: np.ndarray) -> pa.BinaryArray:
        """Bytes `start[i]` to `end[i]` of the file, copied only once and without a Python object per slice.

        The file itself serves as the data buffer of an array that alternates between these slices and the gaps.
        """
        order = np.argsort(start, kind="stable")
        bounds = np.stack([start[order], end[order]], axis=1).ravel()
        buffers = [None, pa.py_buffer(bounds), pa.py_buffer(self._map)]
        slices_and_gaps = pa.LargeBinaryArray.from_buffers(pa.large_binary(), len(bounds[1:]), buffers)
        return slices_and_gaps.take(pa.array(2 * np.argsort(order))).cast(pa.binary())


class _Part(NamedTuple):
    kind: int
    start: int  # of the data, in bytes
    end: int
    next: int  # where the next part starts


class _Heads(NamedTuple):
    identity: np.ndarray
    start: np.ndarray  # of the image, in bytes
    end: np.ndarray
    plain: np.ndarray  # whether the record has a single part; otherwise start and end are not valid


def _find_rec(path: Path) -> Path:
    if path.is_file():
        return path
    if path.joinpath("train.rec").is_file():
        return path / "train.rec"
    files = sorted(path.glob("[!.]*.rec"))
    if len(files) != 1:
        found = f"{len(files)} files; pass the path of one of them" if files else "none"
        raise FileNotFoundError(f"expected train.rec or one other .rec file in {path}, found {found}")
    return files[0]


def download_recordio(repo_id: str, revision: str | None = None) -> Path:
    """Download the RecordIO files of a Hub dataset, if it has any, and return their folder in the Hub cache."""
    patterns = ["*.rec", "*.idx", "property"]
    return Path(snapshot_download(repo_id, repo_type="dataset", revision=revision, allow_patterns=patterns))


def image_column(encoded: pa.BinaryArray, paths: pa.StringArray | None = None) -> pa.StructArray:
    """Encoded images and their paths, as `datasets.Image` stores them."""
    paths = pa.nulls(len(encoded), pa.string()) if paths is None else paths
    return pa.StructArray.from_arrays([encoded, paths], fields=list(IMAGE_TYPE))
