"""Computes embeddings of images: once per image, batched, sharded over the ranks of a distributed run."""

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
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
from .embeddings import Embeddings, Flip
from .ranks import is_main_process


class Embedder:
    """A model with its image processor, which embeds each dataset only once and remembers the result.

    Under `torch.distributed`, every rank embeds its share of the batches and receives all embeddings. Batches contain
    the same images for any number of ranks, so results do not depend on it.

    Args:
        model: a face model that returns `pooler_output` (unit length) and `norm`. It is put into evaluation mode while
            embedding, and its mode is restored afterwards.
        image_processor: the model's `FaceImageProcessor`, which defines size, mean, std and channel order.
        batch_size (`int`): number of images per forward pass and rank.
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
        batch_size: int = 128,
        flip: bool = True,
        dtype: torch.dtype | None = None,
        num_workers: int = 0,
        progress: bool = True,
    ):
        self.model = model
        self.image_processor = image_processor
        self.batch_size = batch_size
        self.flip = flip
        self.dtype = dtype
        self.num_workers = num_workers
        self.progress = progress
        parameter = next(model.parameters())
        self.device = parameter.device
        self._model_dtype = parameter.dtype
        self._image_size = image_processor.size["height"]
        self._normalize = _build_normalize(image_processor).to(self.device)
        self._known: dict[str, Embeddings] = {}

    def __call__(self, images: Dataset, flip: Flip = "sum") -> Embeddings:
        """Embed the column `image` of `images`, in its order."""
        key = images._fingerprint
        if key not in self._known:
            self._known[key] = self.embed(images)
        return self._known[key].with_flip(flip)

    def embed(self, images: Dataset, description: str = "Embedding") -> Embeddings:
        """Embed without remembering the result, for parts of a dataset that is too large to hold twice."""
        batches = _DecodedBatches(images, _batches_of_this_rank(len(images), self.batch_size), self._image_size)
        loader = DataLoader(
            batches, batch_size=None, num_workers=self.num_workers, pin_memory=self.device.type == "cuda"
        )
        hidden = not (self.progress and is_main_process())
        with _evaluating(self.model):
            features = [
                self._pad(self._forward(pixels))
                for pixels in logging.tqdm(loader, desc=description, unit="batch", disable=hidden)
            ]
        features = _gather(torch.stack(features))[: len(images)]  # (N, views, D)
        views: list[Any] = [view.cpu().numpy() for view in features.unbind(1)]
        return Embeddings(*views)

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
            photographs = [_naming_row(row, _decode_photograph, image) for row, image in zip(rows, images, strict=True)]
            landmarks = np.array(batch["landmarks"].to_pylist()).reshape(-1, 5, 2)
            return align_faces(photographs, landmarks, size)
        pixels = empty_batch(len(rows), size)
        for row, place, image in zip(rows, pixels.numpy(), images, strict=True):
            _naming_row(row, self._decoder.decode_into, place, image)
        return pixels.permute(0, 3, 1, 2)


def _decode_photograph(image: dict) -> np.ndarray:
    return decode_with_pillow(read_bytes(image))


def _naming_row(row: int, decode: Callable, *args):
    """Call `decode(*args)`, and name the row if its image cannot be decoded."""
    try:
        return decode(*args)
    except UndecodableImageError as error:
        raise UndecodableImageError(f"image in row {row}: {error}") from None


def embed_images(
    model: nn.Module,
    images: Dataset,
    image_processor,
    batch_size: int = 128,
    flip: Flip = "sum",
    dtype: torch.dtype | None = None,
    num_workers: int = 0,
    progress: bool = True,
) -> Embeddings:
    """Embed the column `image` of a dataset; see [`Embedder`] for the arguments and [`Embeddings`] for the result."""
    embedder = Embedder(model, image_processor, batch_size, flip is not None, dtype, num_workers, progress)
    return embedder(images, flip)


def _build_normalize(image_processor) -> BatchNormalize:
    """Combine the processor's rescaling and normalization into one step on uint8 batches."""
    factor = 255 * image_processor.rescale_factor if image_processor.do_rescale else 255
    mean, std = image_processor.image_mean, image_processor.image_std
    if not image_processor.do_normalize:
        mean, std = [0.0] * 3, [1.0] * 3
    return BatchNormalize([m / factor for m in mean], [s / factor for s in std], image_processor.channel_order)


def _batches_of_this_rank(num_images: int, batch_size: int) -> list[range]:
    """Every world-size-th batch of consecutive rows. All ranks get the same number of batches, repeating the last one
    if necessary: a sharded model (FSDP, ZeRO-3) needs every rank in every forward pass."""
    rank, world = (dist.get_rank(), dist.get_world_size()) if dist.is_initialized() else (0, 1)
    last = math.ceil(num_images / batch_size) - 1
    starts = [min(turn + rank, last) * batch_size for turn in range(0, last + 1, world)]
    return [range(start, min(start + batch_size, num_images)) for start in starts]


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
