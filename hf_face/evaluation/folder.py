"""A folder of images to a table of embeddings, however many images there are."""

import shutil
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch.distributed as dist
from datasets import Dataset, Image
from transformers.utils import logging

from ..data.image_folder import list_images
from .embedding import Embedder, is_main_process
from .embedding_cache import agreed, embedder_digest

IMAGES_PER_PART = 4096


def embed_folder(embedder: Embedder, folder: str | Path, output: str | Path) -> int:
    """
    Embed every image of a folder into a Parquet file with the columns `file_name` (relative to the folder),
    `embedding` (unit length, float32) and `norm`.

    The work goes through parts of a few thousand images, each written when it is done: started again after a stop, it
    goes on with the first missing one. Parts are kept apart by a digest of the model, its preprocessing and precision.
    Under `torch.distributed` all ranks must see the same folder.

    Args:
        embedder: the model; `embedder.mirror` says whether an embedding is the sum over the image and its mirror image.
        folder: images, in subfolders or not.
        output: the Parquet file to write. Its parts lie beside it until it is complete.

    Returns:
        The number of images.

    Raises:
        FileNotFoundError: there is no such folder.
        ValueError: the folder holds no image, an image cannot be decoded, or parts of an earlier run are of other
            images.
    """
    folder, output = Path(folder), Path(output)
    if not folder.is_dir():
        raise FileNotFoundError(f"There is no folder {folder}.")
    names = list_images(folder)
    if not names:
        raise ValueError(f"{folder} holds no images.")
    parts_folder = output.with_name(f"{output.name}.{embedder_digest(embedder)}.parts")
    parts_folder.mkdir(parents=True, exist_ok=True)
    parts = []
    hidden = not (embedder.progress and is_main_process())
    with logging.tqdm(total=len(names), desc="Embedding", unit="image", disable=hidden) as progress:
        for start in range(0, len(names), IMAGES_PER_PART):
            part_names = names[start : start + IMAGES_PER_PART]
            parts.append(parts_folder / f"{start:012d}.parquet")
            if agreed(parts[-1].exists()):
                _check_part(parts[-1], part_names)
            else:
                table = _embed(embedder, folder, part_names)
                if is_main_process():
                    _write([table], parts[-1])
            progress.update(len(part_names))
    if dist.is_initialized():
        dist.barrier()  # other ranks may still be reading the parts
    if is_main_process():
        _write((pq.read_table(part) for part in parts), output)
        shutil.rmtree(parts_folder)
    return len(names)


def _embed(embedder: Embedder, folder: Path, names: list[str]) -> pa.Table:
    images = Dataset.from_dict({"image": [str(folder / name) for name in names]}).cast_column("image", Image())
    answer = embedder.embed(images).with_flip("sum" if embedder.mirror else None)
    embeddings = answer.embeddings.astype(np.float32)
    vectors = pa.FixedSizeListArray.from_arrays(embeddings.ravel(), embeddings.shape[1])
    return pa.table({"file_name": names, "embedding": vectors, "norm": answer.norms.astype(np.float32)})


def _check_part(part: Path, names: list[str]) -> None:
    if pq.read_table(part, columns=["file_name"])["file_name"].to_pylist() != names:
        raise ValueError(f"{part} is of other images than the folder now holds: delete {part.parent} to start anew.")


def _write(tables, path: Path) -> None:
    """Tables into one file, which is there whole or not at all."""
    unfinished = path.with_name(path.name + ".unfinished")
    writer = None
    for table in tables:
        writer = writer or pq.ParquetWriter(unfinished, table.schema)
        writer.write_table(table)
    writer.close()
    unfinished.replace(path)
