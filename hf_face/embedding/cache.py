"""Caches embeddings on disk in shards, so that an interrupted run over half a million images can resume."""

import hashlib
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from datasets import Dataset
from safetensors.numpy import load_file, save_file

from ..user_input import check_at_least, check_output_folder
from .embedder import Embedder
from .embeddings import Embeddings
from .ranks import agreed, is_main_process


class EmbeddingCache:
    """Embeds a dataset shard by shard into a folder, and reuses the shards that already exist.

    The shards are stored in a subfolder named by a digest of the model's weights, the preprocessing, the precision and
    the rows of the dataset (with paths in place of images in files), so that no stale shard is read. Under
    `torch.distributed`, all ranks must share the folder.

    Args:
        folder: folder for the subfolders.
        shard_size: number of images per shard, which is the most that an interruption can lose.
    """

    def __init__(self, folder: str | Path, shard_size: int = 16384):
        check_output_folder(folder)
        check_at_least(1, shard_size=shard_size)
        self.folder = Path(folder)
        self.shard_size = shard_size

    def __call__(self, embedder: Embedder, images: Dataset) -> Embeddings:
        """Embed the column `image` of `images`, in its order."""
        views: dict[str, Any] = {}
        for rows, shard in self.shards(embedder, images):
            for name, view in _views(shard).items():
                if name not in views:
                    views[name] = np.empty((len(images), view.shape[1]), view.dtype)
                views[name][rows.start : rows.stop] = view
        return Embeddings(**views)

    def shards(self, embedder: Embedder, images: Dataset) -> Iterator[tuple[range, Embeddings]]:
        """Rows and their embeddings, one shard at a time, in bounded memory. Missing shards are embedded first."""
        folder = self.folder / _digest(embedder, images)
        starts = range(0, len(images), self.shard_size)
        for index, start in enumerate(starts):
            rows = range(start, min(start + self.shard_size, len(images)))
            path = folder / f"{index:05d}-of-{len(starts):05d}.safetensors"
            if not agreed(path.exists()):
                _write(path, embedder.embed(images, f"Embedding shard {index + 1} of {len(starts)}", rows))
            shard: dict[str, Any] = load_file(path)
            yield rows, Embeddings(**shard)


def _views(embeddings: Embeddings) -> dict[str, np.ndarray]:
    views = {"original": embeddings.original, "flipped": embeddings.flipped}
    return {name: view for name, view in views.items() if view is not None}


def _write(path: Path, embeddings: Embeddings) -> None:
    """Write under a temporary name first, so that a file with its final name is complete."""
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
        # Serialized, since a slice shares the buffers of the whole table.
        for batch in rows.combine_chunks().to_batches():
            digest.update(batch.serialize())
    return digest.hexdigest()[:16]


def _embedder_digest(embedder: Embedder) -> str:
    """A digest of the model's weights, the preprocessing, flipping and the precision."""
    digest = hashlib.sha256()
    for name, tensor in embedder.model.state_dict().items():
        digest.update(name.encode())
        digest.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy())
    preprocessing = json.dumps(embedder.image_processor.to_dict(), sort_keys=True, default=str)
    digest.update(f"{preprocessing} flip={embedder.flip} dtype={embedder.dtype}".encode())
    return digest.hexdigest()[:16]
