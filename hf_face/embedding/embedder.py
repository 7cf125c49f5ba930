"""Computes embeddings of images: once per image, batched, sharded over the ranks of a distributed run."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from itertools import chain, islice
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
import torch.nn.functional as F
from datasets import Dataset, Image
from torch import Tensor, nn
from torch.utils.data import DataLoader
from torch.utils.data import Dataset as TorchDataset
from transformers.utils import logging

from ..data.alignment import align_faces
from ..data.decode import ImageDecoder, UndecodableImageError, decode_with_pillow, empty_batch, read_bytes
from ..data.normalize import BatchNormalize
from ..data.workers import spare_workers
from ..user_input import check_at_least
from .embeddings import Embeddings, Flip
from .finite import first_not_finite
from .ranks import is_main_process

BATCH_SIZE = 128
# The activations of larger batches are mapped anew in every layer: page faults take up to twice as long as the model.
CPU_BATCH_SIZE = 16


class Embedder:
    """A model with its image processor, which embeds each dataset only once and remembers the result.

    Under `torch.distributed`, every rank embeds its share of the batches and receives all embeddings. Batches contain
    the same images for any number of ranks, so results do not depend on it.

    Args:
        model: a face model that returns `pooler_output` (unit length) and `norm`. It is put into evaluation mode while
            embedding, and its mode is restored afterwards.
        image_processor: the model's `FaceImageProcessor`, which defines size, mean, std and channel order.
        batch_size (`int`, *optional*): number of images per forward pass and rank; 16 on a CPU and 128 on other devices
            by default.
        flip (`bool`): whether to embed the flipped images too, which takes a second forward pass.
        dtype (`torch.dtype`, *optional*): autocast precision, such as `torch.bfloat16`.
        num_workers (`int`): number of processes that read and decode ahead.
        progress (`bool`): whether to show a progress bar on the main process.

    Example:
    ```python
    >>> embedder = Embedder(model, image_processor)
    >>> embedder(pairs.images).embeddings.shape  # runs the model
    (400, 512)
    >>> embedder(pairs.images, flip="concat").embeddings.shape  # does not run the model again
    (400, 1024)
    ```
    """

    def __init__(
        self,
        model: nn.Module,
        image_processor,
        batch_size: int | None = None,
        flip: bool = True,
        dtype: torch.dtype | None = None,
        num_workers: int = 0,
        progress: bool = True,
    ):
        check_at_least(1, batch_size=batch_size)
        check_at_least(0, num_workers=num_workers)
        self.model = model
        self.image_processor = image_processor
        self.flip = flip
        self.dtype = dtype
        self.num_workers = num_workers
        self.progress = progress
        parameter = next(model.parameters())
        self.device = parameter.device
        self.batch_size = batch_size or (CPU_BATCH_SIZE if self.device.type == "cpu" else BATCH_SIZE)
        self._model_dtype = parameter.dtype
        self._image_size = image_processor.size["height"]
        self._normalize = BatchNormalize.from_image_processor(image_processor).to(self.device)
        self._known: dict[str, Embeddings] = {}

    def __call__(self, images: Dataset, flip: Flip = "sum") -> Embeddings:
        """Embed the column `image` of `images`, in its order."""
        key = images._fingerprint
        if key not in self._known:
            self._known[key] = self.embed(images)
        return self._known[key].with_flip(flip)

    def embed(self, images: Dataset, description: str = "Embedding") -> Embeddings:
        """
        Embed without remembering the result.

        Args:
            images: Dataset with the column `image`.
            description: Label of the progress bar.

        Raises:
            UndecodableImageError: if an image cannot be decoded; the message names its file or row.
            ValueError: if an embedding is not finite; likewise.
        """
        (embeddings,) = self.embed_parts(images, [range(len(images))], description)
        return embeddings

    def embed_parts(
        self, images: Dataset, parts: Sequence[range], description: str = "Embedding"
    ) -> Iterator[Embeddings]:
        """
        Embed parts of a dataset that is too large to hold all its embeddings. While one part is being used, the workers
        are already decoding the next.

        Args:
            images, description: As for [`~Embedder.embed`].
            parts: Rows of each part, none of them empty.

        Raises:
            ValueError: if a part is empty; otherwise as for [`~Embedder.embed`].
        """
        if not all(parts):
            raise ValueError("there are no images to embed")
        shares = [_batches_of_this_rank(rows, self.batch_size) for rows in parts]
        decoded = _DecodedBatches(images, list(chain.from_iterable(shares)), self._image_size)
        loader = spare_workers(
            DataLoader(decoded, batch_size=None, num_workers=self.num_workers, pin_memory=self.device.type == "cuda")
        )
        hidden = not (self.progress and is_main_process())
        batches = iter(logging.tqdm(loader, desc=description, unit="batch", disable=hidden))
        for rows, share in zip(parts, shares, strict=True):
            with _evaluating(self.model):
                features = torch.stack([self._pad(self._forward(pixels)) for pixels in islice(batches, len(share))])
            features = _gather(features)[: len(rows)]  # (N, views, D)
            bad = first_not_finite(features)
            if bad is not None:
                raise ValueError(
                    f"the embedding of the image {decoded.name(rows[bad])} is not finite: the model's weights are not, "
                    f"or it overflows in {self.dtype or self._model_dtype}"
                )
            views: list[Any] = [view.cpu().numpy() for view in features.unbind(1)]
            yield Embeddings(*views)

    def _forward(self, pixels: Tensor) -> Tensor:
        """Embed (B, 3, H, W) uint8 to raw embeddings (B, views, D), float32."""
        pixels = self._normalize(pixels.to(self.device, non_blocking=True)).to(self._model_dtype)
        views = [pixels, pixels.flip(-1)] if self.flip else [pixels]
        with torch.autocast(self.device.type, self.dtype, enabled=self.dtype is not None):
            outputs = [self.model(pixel_values=view) for view in views]
        return torch.stack([output.pooler_output.float() * output.norm for output in outputs], dim=1)

    def _pad(self, features: Tensor) -> Tensor:
        """Pad the last batch to `batch_size` rows, since ranks can only gather tensors of equal shape."""
        return F.pad(features, (0, 0) * (features.ndim - 1) + (0, self.batch_size - len(features)))


class _DecodedBatches(TorchDataset):
    """Batches of consecutive images, decoded to uint8 (B, 3, S, S) RGB when a `DataLoader` requests them.

    If the dataset has a column `landmarks` (ten numbers, alternating x and y), images may have any size and are aligned
    by their landmarks."""

    def __init__(self, images: Dataset, batches: list[range], image_size: int):
        self._has_landmarks = "landmarks" in images.column_names
        images = images.select_columns(["image", "landmarks"] if self._has_landmarks else ["image"])
        self._images = images.cast_column("image", Image(decode=False)).with_format("arrow")
        self._batches = batches
        self._decoder = ImageDecoder(image_size)

    def __len__(self) -> int:
        return len(self._batches)

    def __getitem__(self, index: int) -> Tensor:
        rows, size = self._batches[index], self._decoder.image_size
        batch = self._images[rows]
        images = batch["image"].to_pylist()
        if self._has_landmarks:
            photographs = [
                _naming(row, image, _decode_photograph, image) for row, image in zip(rows, images, strict=True)
            ]
            landmarks = np.array(batch["landmarks"].to_pylist()).reshape(-1, 5, 2)
            return align_faces(photographs, landmarks, size)
        pixels = empty_batch(len(rows), size)
        for row, place, image in zip(rows, pixels.numpy(), images, strict=True):
            _naming(row, image, self._decoder.decode_into, place, image)
        return pixels.permute(0, 3, 1, 2)

    def name(self, row: int) -> str:
        """How messages name the image in a row."""
        return _name(row, self._images[row : row + 1]["image"].to_pylist()[0])


def _decode_photograph(image: dict) -> np.ndarray:
    return decode_with_pillow(read_bytes(image))


def _naming(row: int, image: dict, decode: Callable, *args):
    """Call `decode(*args)`, and name the image if it cannot be decoded."""
    try:
        return decode(*args)
    except UndecodableImageError as error:
        raise UndecodableImageError(f"image {_name(row, image)}: {error}") from None


def _name(row: int, image: dict | None) -> str:
    """How messages name an image: by its row, and its file if it has one."""
    path = (image or {}).get("path")
    return f"in row {row}" if path is None else f"{path} (row {row})"


def embed_images(
    model: nn.Module,
    images: Dataset,
    image_processor,
    batch_size: int | None = None,
    flip: Flip = "sum",
    dtype: torch.dtype | None = None,
    num_workers: int = 0,
    progress: bool = True,
) -> Embeddings:
    """Embed the column `image` of a dataset; see [`Embedder`] for the arguments and [`Embeddings`] for the result."""
    embedder = Embedder(model, image_processor, batch_size, flip is not None, dtype, num_workers, progress)
    return embedder(images, flip)


def _batches_of_this_rank(rows: range, batch_size: int) -> list[range]:
    """Every world-size-th batch of `rows`. All ranks get the same number of batches, repeating the last one
    if necessary: a sharded model (FSDP, ZeRO-3) needs every rank in every forward pass."""
    rank, world = (dist.get_rank(), dist.get_world_size()) if dist.is_initialized() else (0, 1)
    batches = [rows[start : start + batch_size] for start in range(0, len(rows), batch_size)]
    return [batches[min(turn + rank, len(batches) - 1)] for turn in range(0, len(batches), world)]


def _gather(features: Tensor) -> Tensor:
    """Gather the ranks' batches (batches, batch_size, ...) in the order of the images, (images, ...)."""
    if not dist.is_initialized():
        return features.flatten(0, 1)
    shares = [torch.empty_like(features) for _ in range(dist.get_world_size())]
    dist.all_gather(shares, features)
    return torch.stack(shares, dim=1).flatten(0, 2)


@contextmanager
def _evaluating(model: nn.Module) -> Iterator[None]:
    training = [module for module in model.modules() if module.training]
    model.eval()
    try:
        # Not inference_mode: buffers that a model creates lazily would be unusable when training continues.
        with torch.no_grad():
            yield
    finally:
        for module in training:  # not model.train(): layers frozen in evaluation mode must stay in it
            module.training = True
