"""Images to embeddings: once per image, batched, sharded over the ranks of a distributed run."""

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager

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
    """A model with its image processor, which embeds each dataset of images once however often it is asked for.

    Under `torch.distributed` every rank embeds its share of the batches and receives all embeddings. Batches hold the
    same images whatever the number of ranks, so the numbers do not depend on it.

    Args:
        model: a face model, whose output has `pooler_output` (unit length) and `norm`. It is put into evaluation mode
            while it works, and left in the mode it was found in.
        image_processor: the model's `FaceImageProcessor`; size, mean, std and channel order are read off it.
        batch_size (`int`): images per forward pass and rank.
        flip (`bool`): embed the flipped images too, which costs a second forward pass.
        dtype (`torch.dtype`, *optional*): precision to autocast to, such as `torch.bfloat16`.
        num_workers (`int`): processes that read and decode ahead.
        progress (`bool`): show a progress bar on the main process.

    Example:
    ```python
    >>> embedder = Embedder(model, image_processor)
    >>> embedder(pairs.images).embeddings.shape  # forward passes
    (400, 512)
    >>> embedder(pairs.images, flip="concat").embeddings.shape  # none
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
        """Embeds the column `image` of `images`, in its order."""
        key = images._fingerprint
        if key not in self._known:
            self._known[key] = self.embed(images)
        return self._known[key].with_flip(flip)

    def embed(self, images: Dataset, description: str = "Embedding") -> Embeddings:
        """Embeds without remembering: for parts of a dataset too large to hold twice."""
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
        return Embeddings(*(view.cpu().numpy() for view in features.unbind(1)))

    def _forward(self, pixels: Tensor) -> Tensor:
        """(B, 3, H, W) uint8 to raw embeddings (B, views, D), float32."""
        pixels = self._normalize(pixels.to(self.device, non_blocking=True)).to(self._model_dtype)
        views = [pixels, pixels.flip(-1)] if self.flip else [pixels]
        with torch.autocast(self.device.type, self.dtype, enabled=self.dtype is not None):
            outputs = [self.model(pixel_values=view) for view in views]
        return torch.stack([output.pooler_output.float() * output.norm for output in outputs], dim=1)

    def _pad(self, features: Tensor) -> Tensor:
        """Fills the last batch up to `batch_size` rows: ranks can gather only what has one shape."""
        return F.pad(features, (0, 0) * (features.ndim - 1) + (0, self.batch_size - len(features)))


class _DecodedBatches(TorchDataset):
    """Batches of consecutive images, decoded to uint8 (B, 3, S, S) RGB when a `DataLoader` asks for them.

    Where the dataset has a column `landmarks` (ten numbers, x and y in turn), the images are photographs of any size
    and are aligned by them."""

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
    """`decode(*args)`; an image that cannot be decoded is an error that names its row."""
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
    """Embeds the column `image` of a dataset; see [`Embedder`] for the arguments, [`Embeddings`] for the answer."""
    embedder = Embedder(model, image_processor, batch_size, flip is not None, dtype, num_workers, progress)
    return embedder(images, flip)


def _build_normalize(image_processor) -> BatchNormalize:
    """The processor's rescaling and normalization as one step on uint8 batches."""
    factor = 255 * image_processor.rescale_factor if image_processor.do_rescale else 255
    mean, std = image_processor.image_mean, image_processor.image_std
    if not image_processor.do_normalize:
        mean, std = [0.0] * 3, [1.0] * 3
    return BatchNormalize([m / factor for m in mean], [s / factor for s in std], image_processor.channel_order)


def _batches_of_this_rank(num_images: int, batch_size: int) -> list[range]:
    """Every world-size-th batch of consecutive rows. All ranks get equally many, the last one repeated where it must
    be: a sharded model (FSDP, ZeRO-3) needs every rank in every forward pass."""
    rank, world = (dist.get_rank(), dist.get_world_size()) if dist.is_initialized() else (0, 1)
    last = math.ceil(num_images / batch_size) - 1
    starts = [min(turn + rank, last) * batch_size for turn in range(0, last + 1, world)]
    return [range(start, min(start + batch_size, num_images)) for start in starts]


def _gather(features: Tensor) -> Tensor:
    """The ranks' batches (batches, batch_size, ...) back in the order of the images, (images, ...)."""
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
        # Not inference_mode: buffers that a model creates lazily would be unusable when training goes on.
        with torch.no_grad():
            yield
    finally:
        for module in training:  # not model.train(): layers that were frozen in evaluation mode stay there
            module.training = True
