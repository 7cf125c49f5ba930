"""Embeds a dataset into files of its rows, and resumes: what an interrupted run has written is not embedded again."""

import hashlib
import json
import os
from collections.abc import Callable, Mapping
from pathlib import Path

import torch
from datasets import Dataset
from torch import nn

from .embedder import Embedder
from .embeddings import Embeddings
from .ranks import agreed, is_main_process, wait_for_all


def plan_shards(num_rows: int, rows_per_shard: int, folder: Path, prefix: str, suffix: str) -> dict[Path, range]:
    """Assign all rows to files such as `folder/train-00000-of-00012.parquet`. Raises `ValueError` if there are none."""
    if not num_rows:
        raise ValueError("there are no images to embed")
    starts = range(0, num_rows, rows_per_shard)
    return {
        folder / f"{prefix}{index:05d}-of-{len(starts):05d}{suffix}": range(
            start, min(start + rows_per_shard, num_rows)
        )
        for index, start in enumerate(starts)
    }


def embed_shards(
    embedder: Embedder,
    images: Dataset,
    shards: Mapping[Path, range],
    write: Callable[[Path, range, Embeddings], None],
) -> None:
    """
    Embed the rows of those files that do not exist yet, in one pass, and write each file as soon as it is embedded.

    A file is written under another name and then renamed, so that every file under its own name is complete, even if
    the process is killed. Under `torch.distributed`, the ranks share the work of every file and must share the folder.

    Args:
        embedder: The embedder.
        images: Dataset with the column `image`.
        shards: The rows of each file.
        write: Writes the embeddings of some rows to a file.
    """
    missing = agreed([path for path in shards if not path.exists()])
    embedded = embedder.embed_parts(images, [shards[path] for path in missing])
    for path, embeddings in zip(missing, embedded, strict=True):
        if is_main_process():
            path.parent.mkdir(parents=True, exist_ok=True)
            unfinished = path.with_suffix(".unfinished")
            write(unfinished, shards[path], embeddings)
            os.replace(unfinished, path)
    wait_for_all()


def run_digest(embedder: Embedder, images: Dataset) -> str:
    """
    A digest of what embeddings depend on: weights, preprocessing, flipping, precision and the rows of the dataset.

    Images in files are known by their paths, and the rows of a dataset in the cache of `datasets` by its fingerprint,
    which depends on when the source's files were changed: reading all rows would take a good part of the time of
    embedding.
    """
    settings = f"{model_digest(embedder.model, embedder.image_processor)} flip={embedder.flip} dtype={embedder.dtype}"
    digest = hashlib.sha256(settings.encode())
    if images.cache_files:
        digest.update(images._fingerprint.encode())
    else:
        for rows in images.with_format("arrow").iter(batch_size=1000):
            # Serialized, since a slice shares the buffers of the whole table.
            for batch in rows.combine_chunks().to_batches():
                digest.update(batch.serialize())
    return digest.hexdigest()[:16]


def model_digest(model: nn.Module, image_processor) -> str:
    """A digest of a model's weights and its preprocessing: embeddings of two models cannot be compared."""
    digest = hashlib.sha256()
    for name, tensor in model.state_dict().items():
        digest.update(name.encode())
        digest.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy())
    digest.update(json.dumps(image_processor.to_dict(), sort_keys=True, default=str).encode())
    return digest.hexdigest()[:16]
