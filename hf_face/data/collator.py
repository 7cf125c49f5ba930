"""Collates rows of encoded images into uint8 batches."""

import math
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import get_worker_info
from transformers.utils import logging

from .decode import ImageDecoder, UndecodableImageError, empty_batch
from .encoded_jpegs import EncodedJpegs
from .loading import EncodedRows

logger = logging.get_logger(__name__)

MAX_WORKERS = 256


class FaceCollator:
    """Decodes the images of a batch, for a `DataLoader` over [`FaceDataset`] or over rows of any `datasets.Dataset`.

    Args:
        image_size: Height and width of the batch, in pixels. Images of this size are never resampled; others are
            resized (antialiased bilinear).
        num_identities: Number of identities. If given, labels outside 0 ... num_identities - 1 raise an error.
        on_bad_image: How to handle an image that is missing or cannot be decoded. "raise" raises an error; "skip" logs
            it, counts it in `num_skipped`, and replaces it with the next good image of the batch and its label, so that
            batches keep their size (ranks that gather embeddings need equal batches).
        keep_jpeg: Leave batches of JPEG images encoded, for a [`DeviceDecoder`]. Batches with an image that it may not
            read as Pillow does (another format, rotated by its Exif orientation, truncated) are still decoded here.
    """

    def __init__(
        self,
        image_size: int,
        num_identities: int | None = None,
        on_bad_image: Literal["raise", "skip"] = "raise",
        keep_jpeg: bool = False,
    ):
        if on_bad_image not in ("raise", "skip"):
            raise ValueError(f"on_bad_image must be 'raise' or 'skip', found {on_bad_image!r}")
        self.image_size = image_size
        self.num_identities = num_identities
        self.on_bad_image = on_bad_image
        self.keep_jpeg = keep_jpeg
        self._decoder = ImageDecoder(image_size)
        # in shared memory, so that the main process sees the counts of the workers' copies, one slot per worker
        self._skipped = torch.zeros(MAX_WORKERS, dtype=torch.int64).share_memory_()

    @property
    def num_skipped(self) -> int:
        """Number of images that this process and its workers have skipped so far."""
        return int(self._skipped.sum())

    def __call__(self, rows: EncodedRows | Sequence[Mapping]) -> dict[str, Any]:
        """Collate a batch.

        Args:
            rows: A batch of [`FaceDataset`], or a list of rows as mappings, with `image` undecoded or a Pillow image
                and `label` an integer.

        Returns:
            `{"pixel_values": uint8 (B, 3, image_size, image_size) RGB, "labels": int64 (B,)}`. Pixels are in
            `torch.channels_last` format, as decoders write them; the device converts them to planes. With `keep_jpeg`,
            batches of JPEG images have `jpegs` ([`EncodedJpegs`]) in place of `pixel_values`.

        Raises:
            UndecodableImageError: if an image is missing or undecodable and `on_bad_image="raise"`, or if all are.
            ValueError: if a label is missing or out of range.
        """
        if not isinstance(rows, EncodedRows):
            rows = EncodedRows.from_rows(rows)
        jpegs = EncodedJpegs.from_images(rows.images) if self.keep_jpeg else None
        return self.decode(rows) if jpegs is None else _Batch(jpegs=jpegs, **self._values(rows))

    def decode(self, rows: EncodedRows) -> dict[str, Tensor]:
        """Collate a batch, and decode it even with `keep_jpeg`."""
        values = self._values(rows)
        batch = empty_batch(len(rows.images), self.image_size)
        bad = []
        for i, (place, image) in enumerate(zip(batch.numpy(), rows.images, strict=True)):
            try:
                self._decoder.decode_into(place, image)
            except UndecodableImageError as error:
                self._reject(f"{rows.describe(i)}: {error}")
                bad.append(i)
        if bad:
            _replace(bad, batch, *values.values())
        return _Batch(pixel_values=batch.permute(0, 3, 1, 2), **values)

    def _values(self, rows: EncodedRows) -> dict[str, Tensor]:
        """What a batch has of each image (B,) besides its pixels."""
        return {"labels": self._checked_labels(rows)}

    def _checked_labels(self, rows: EncodedRows) -> Tensor:
        upper = math.inf if self.num_identities is None else self.num_identities
        for i in np.flatnonzero((rows.labels < 0) | (rows.labels >= upper)).tolist():
            label = rows.row(i)["label"]
            expected = "0 or more" if self.num_identities is None else f"0 to {self.num_identities - 1}"
            raise ValueError(f"{rows.describe(i)}: label {label} is out of range, expected {expected}")
        return torch.tensor(rows.labels)  # a copy: what Arrow gives may not be written to

    def _reject(self, reason: str):
        if self.on_bad_image == "raise":
            raise UndecodableImageError(f'{reason}. Set on_bad_image="skip" to continue without such images')
        worker = get_worker_info()
        self._skipped[worker.id % MAX_WORKERS if worker else 0] += 1
        logger.warning(f"skipped {reason}")


class _Batch(dict):
    """A batch that workers send with its labels by value: another shared tensor costs the main process 0.5 ms."""

    def __reduce__(self):
        images = {name: self[name] for name in ("pixel_values", "jpegs") if name in self}
        small = {name: value.numpy() for name, value in self.items() if name not in images}
        return _Batch._from_numpy, (images, small)

    @classmethod
    def _from_numpy(cls, images: dict[str, Any], small: dict[str, np.ndarray]) -> "_Batch":
        return cls(**images, **{name: torch.from_numpy(value) for name, value in small.items()})


def _replace(bad: list[int], images: Tensor, *values: Tensor):
    """Replace each bad image and its values with the next good one, cyclically."""
    good = np.setdiff1d(np.arange(len(images)), bad)
    if not len(good):
        raise UndecodableImageError(f"none of the {len(images)} images in a batch can be decoded")
    next_good = good[np.searchsorted(good, bad) % len(good)]
    for tensor in (images, *values):
        tensor[bad] = tensor[next_good]
