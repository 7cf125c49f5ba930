"""Embeddings on disk, in shards: an interrupted run over half a million images resumes where it stopped."""

import hashlib
import json
import os
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
import torch.distributed as dist
from datasets import Dataset
from safetensors.numpy import load_file, save_file

from .embedder import Embedder
from .embeddings import Embeddings
from .ranks import agreed, is_main_process


class EmbeddingCache:
    """Embeds a dataset shard by shard into a folder, and reads the shards that are already there.

    The shards lie in a subfolder named by a digest of the model's weights, the preprocessing, the precision and the
    rows of the dataset (paths stand for the images behind them), so that nothing stale is ever read. Under
    `torch.distributed` all ranks must see the same folder.

    Args:
        folder: where the subfolders go.
        shard_size: images in a shard, which is what an interruption can cost.
    """

    def __init__(self, folder: str | Path, shard_size: int = 16384):
        self.folder = Path(folder)
        self.shard_size = shard_size

    def __call__(self, embedder: Embedder, images: Dataset) -> Embeddings:
        """The embeddings of the column `image` of `images`, in its order."""
        views: dict[str, np.ndarray] = {}
        for rows, shard in self.shards(embedder, images):
            for name, view in _views(shard).items():
                if name not in views:
                    views[name] = np.empty((len(images), view.shape[1]), view.dtype)
                views[name][rows.start : rows.stop] = view
        return Embeddings(**views)

    def shards(self, embedder: Embedder, images: Dataset) -> Iterator[tuple[range, Embeddings]]:
        """Rows and their embeddings, shard after shard, in bounded memory. Missing shards are embedded first."""
        folder = self.folder / _digest(embedder, images)
        starts = range(0, len(images), self.shard_size)
        for index, start in enumerate(starts):
            rows = range(start, min(start + self.shard_size, len(images)))
            path = folder / f"{index:05d}-of-{len(starts):05d}.safetensors"
            if not agreed(path.exists()):
                _write(path, embedder.embed(images.select(rows), f"Embedding shard {index + 1} of {len(starts)}"))
            yield rows, Embeddings(**load_file(path))


def _views(embeddings: Embeddings) -> dict[str, np.ndarray]:
    views = {"original": embeddings.original, "flipped": embeddings.flipped}
    return {name: view for name, view in views.items() if view is not None}


def _write(path: Path, embeddings: Embeddings) -> None:
    """Writes under another name first: a file that has its own name is complete."""
    if is_main_process():
        path.parent.mkdir(parents=True, exist_ok=True)
        unfinished = path.with_suffix(".unfinished")
        save_file({name: np.ascontiguousarray(view) for name, view in _views(embeddings).items()}, unfinished)
        os.replace(unfinished, path)
    if dist.is_initialized():
        dist.barrier()


def _digest(embedder: Embedder, images: Dataset) -> str:
    digest = hashlib.sha256(_embedder_digest(embedder).encode())
    for rows in images.with_format("arrow").iter(batch_size=1000):
        # Serialized, since the buffers of a slice are those of the whole table.
        for batch in rows.combine_chunks().to_batches():
            digest.update(batch.serialize())
    return digest.hexdigest()[:16]


def _embedder_digest(embedder: Embedder) -> str:
    """Changes with the model's weights, the preprocessing, flipping and the precision."""
    digest = hashlib.sha256()
    for name, tensor in embedder.model.state_dict().items():
        digest.update(name.encode())
        digest.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy())
    preprocessing = json.dumps(embedder.image_processor.to_dict(), sort_keys=True, default=str)
    digest.update(f"{preprocessing} flip={embedder.flip} dtype={embedder.dtype}".encode())
    return digest.hexdigest()[:16]
