"""Embeds a folder of any number of images into a table of embeddings."""

import shutil
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch.distributed as dist
from datasets import Dataset, Image

from ..data.image_folder import list_images
from ..user_input import check_folder, check_output_file
from .cache import EmbeddingCache
from .embedder import Embedder
from .embeddings import Embeddings
from .ranks import is_main_process

IMAGES_PER_SHARD = 4096


def embed_folder(embedder: Embedder, folder: str | Path, output: str | Path) -> int:
    """
    Embed every image of a folder into a Parquet file with the columns `file_name` (relative to the folder),
    `embedding` (unit length, float32) and `norm`.

    An [`EmbeddingCache`] next to the output lets an interrupted run resume where it stopped. Under `torch.distributed`,
    all ranks must share the folder.

    Args:
        embedder: the embedder; with `embedder.flip`, an embedding is the sum over the image and its flipped image.
        folder: folder of images, searched recursively.
        output: the Parquet file to write.

    Returns:
        The number of images.

    Raises:
        FileNotFoundError: if the folder does not exist.
        ValueError: if the folder contains no images, an image cannot be decoded, an embedding is not finite, or the
            output cannot be written or does not end in `.parquet`.
    """
    folder, output = Path(folder), Path(output)
    check_folder(folder)
    check_output_file(output, [".parquet"])
    names = list_images(folder)
    if not names:
        raise ValueError(f"{folder} contains no images.")
    images = Dataset.from_dict({"image": [str(folder / name) for name in names]}).cast_column("image", Image())
    cache = EmbeddingCache(output.with_name(f"{output.name}.shards"), IMAGES_PER_SHARD)
    unfinished = output.with_name(f"{output.name}.unfinished")
    writer = None
    for rows, embeddings in cache.shards(embedder, images):
        if is_main_process():
            table = _table(names[rows.start : rows.stop], embeddings.with_flip("sum" if embedder.flip else None))
            writer = writer or pq.ParquetWriter(unfinished, table.schema)
            writer.write_table(table)
    if dist.is_initialized():
        dist.barrier()  # other ranks may still be reading the shards
    if is_main_process():
        writer.close()
        unfinished.replace(output)
        shutil.rmtree(cache.folder)
    return len(names)


def _table(names: list[str], embeddings: Embeddings) -> pa.Table:
    vectors = embeddings.embeddings.astype(np.float32)
    return pa.table(
        {
            "file_name": names,
            "embedding": pa.FixedSizeListArray.from_arrays(vectors.ravel(), vectors.shape[1]),
            "norm": embeddings.norms.astype(np.float32),
        }
    )
