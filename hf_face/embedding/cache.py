"""Caches embeddings on disk in shards, so that an interrupted run over half a million images can resume."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from datasets import Dataset
from safetensors.numpy import load_file, save_file

from ..user_input import check_at_least, check_output_folder
from .embedder import Embedder
from .embeddings import Embeddings
from .shards import embed_shards, plan_shards, run_digest


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
        folder = self.folder / run_digest(embedder, images)
        shards = plan_shards(len(images), self.shard_size, folder, "", ".safetensors")
        embed_shards(embedder, images, shards, _write)
        for path, rows in shards.items():
            shard: dict[str, Any] = load_file(path)
            yield rows, Embeddings(**shard)


def _write(path: Path, rows: range, embeddings: Embeddings) -> None:
    save_file({name: np.ascontiguousarray(view) for name, view in _views(embeddings).items()}, path)


def _views(embeddings: Embeddings) -> dict[str, np.ndarray]:
    views = {"original": embeddings.original, "flipped": embeddings.flipped}
    return {name: view for name, view in views.items() if view is not None}
