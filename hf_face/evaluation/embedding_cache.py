"""Embeddings on disk, in shards: a run over half a million images that was interrupted goes on where it stopped."""

import hashlib
import json
import os
from pathlib import Path

import numpy as np
import torch
import torch.distributed as dist
from datasets import Dataset
from safetensors.numpy import load_file, save_file

from .embedding import Embedder, Embeddings, is_main_process


class EmbeddingCache:
    """Embeds a data set shard by shard into a folder, and reads the shards that are there already.

    The shards lie in a sub-folder named by a digest of the model's weights, the preprocessing, the precision and the
    rows of the data set (paths stand for the images behind them), so that nothing stale is ever read. Under
    `torch.distributed` all ranks must see the same folder.

    Args:
        folder: where the sub-folders go.
        shard_size: images in a shard: what an interruption can cost.
    """

    def __init__(self, folder: str | Path, shard_size: int = 16384):
        self.folder = Path(folder)
        self.shard_size = shard_size

    def __call__(self, embedder: Embedder, images: Dataset) -> Embeddings:
        folder = self.folder / _digest(embedder, images)
        starts = range(0, len(images), self.shard_size)
        paths = [folder / f"{index:05d}-of-{len(starts):05d}.safetensors" for index in range(len(starts))]
        for start, path in zip(starts, paths, strict=True):
            if not agreed(path.exists()):
                rows = range(start, min(start + self.shard_size, len(images)))
                _write(path, embedder.embed(images.select(rows)))
        shards = (load_file(path) for path in paths)
        first = next(shards)
        views = {name: np.empty((len(images), view.shape[1]), view.dtype) for name, view in first.items()}
        for start, shard in zip(starts, (first, *shards), strict=True):
            for name, view in shard.items():
                views[name][start : start + len(view)] = view
        return Embeddings(**views)


def agreed(exists: bool) -> bool:
    """What the main process sees: ranks that disagreed would wait for each other for ever."""
    if not dist.is_initialized():
        return exists
    answer = [exists]
    dist.broadcast_object_list(answer)
    return answer[0]


def _write(path: Path, embeddings: Embeddings):
    """Under its own name only when complete."""
    if is_main_process():
        path.parent.mkdir(parents=True, exist_ok=True)
        views = {"original": embeddings.original, "mirrored": embeddings.mirrored}
        views = {name: np.ascontiguousarray(view) for name, view in views.items() if view is not None}
        unfinished = path.with_suffix(".unfinished")
        save_file(views, unfinished)
        os.replace(unfinished, path)
    if dist.is_initialized():
        dist.barrier()


def embedder_digest(embedder: Embedder) -> str:
    """Changes with the model's weights, the preprocessing, the mirror images and the precision."""
    digest = hashlib.sha256()
    for name, tensor in embedder.model.state_dict().items():
        digest.update(name.encode())
        digest.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy())
    preprocessing = json.dumps(embedder.image_processor.to_dict(), sort_keys=True, default=str)
    digest.update(f"{preprocessing} mirror={embedder.mirror} dtype={embedder.dtype}".encode())
    return digest.hexdigest()[:16]


def _digest(embedder: Embedder, images: Dataset) -> str:
    digest = hashlib.sha256(embedder_digest(embedder).encode())
    for rows in images.with_format("arrow").iter(batch_size=1000):
        # As a message, since the buffers of a slice are those of the whole table.
        for batch in rows.combine_chunks().to_batches():
            digest.update(batch.serialize())
    return digest.hexdigest()[:16]
