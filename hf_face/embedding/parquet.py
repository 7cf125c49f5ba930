"""Embeds any number of images into Parquet."""

import shutil
from collections.abc import Collection, Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from datasets import Dataset, Features, Image, List, Value

from ..user_input import check_at_least, check_output_file, check_output_folder, has_file_suffix
from .embedder import Embedder
from .embeddings import Embeddings
from .ranks import agreed, is_main_process, wait_for_all
from .shards import embed_shards, plan_shards, run_digest

RUN = "hf_face_run"  # in the schema of a shard: the digest of the model and the images


def embed_to_parquet(
    embedder: Embedder, images: Dataset, output: str | Path, images_per_shard: int = 16_384
) -> list[Path]:
    """
    Embed a dataset into Parquet with the columns of the dataset except images, and two of the faces: `embedding` (unit
    length, float32) and `norm`. `datasets.load_dataset` reads it.

    Run it again after an interruption to embed what is missing, which may be nothing. Under `torch.distributed`, the
    ranks share the work, and must share the output's folder.

    Args:
        embedder: the embedder; with `embedder.flip`, an embedding is the sum over the image and its flipped image.
        images: dataset with the column `image`, as [`~hf_face.data.load_images`] returns it.
        output: a Parquet file, written at the end from shards beside it, or a folder that keeps the shards
            (`data/train-00000-of-00012.parquet`).
        images_per_shard: number of images per shard, which is the most that an interruption can lose.

    Returns:
        The Parquet files.

    Raises:
        ValueError: if there are no images, one cannot be decoded, an embedding is not finite, the output cannot be
            written, or its folder has Parquet files of other images or another model.
    """
    output = Path(output)
    if has_file_suffix(output):
        check_output_file(output, [".parquet"])
    else:
        check_output_folder(output)
    check_at_least(1, images_per_shard=images_per_shard)
    features = _features_to_keep(images)
    run = run_digest(embedder, images)
    if not has_file_suffix(output):
        return _embed_into(output / "data", embedder, images, features, images_per_shard, run)
    beside = output.with_name(f"{output.name}.shards")
    if not agreed(output.exists() and _run_of(output) == run):
        shards = _embed_into(beside / run, embedder, images, features, images_per_shard, run)
        if is_main_process():
            _join(shards, output)
    if is_main_process() and beside.exists():
        shutil.rmtree(beside)
    wait_for_all()
    return [output]


def _embed_into(
    folder: Path, embedder: Embedder, images: Dataset, features: Features, images_per_shard: int, run: str
) -> list[Path]:
    shards = plan_shards(len(images), images_per_shard, folder, "train-", ".parquet")
    _check_existing(folder, shards, run)
    table = images.with_format("arrow")

    def write(path: Path, rows: range, embeddings: Embeddings) -> None:
        embeddings = embeddings.with_flip("sum" if embedder.flip else None)
        _write_table(path, table[rows], features, embeddings, run)

    embed_shards(embedder, images, shards, write)
    return list(shards)


def _features_to_keep(images: Dataset) -> Features:
    features = {name: feature for name, feature in images.features.items() if not isinstance(feature, Image)}
    for name in ("embedding", "norm"):
        if name in features:
            raise ValueError(
                f"the images already have a column {name!r}, which embedding them would overwrite. Rename or remove it"
            )
    return Features(features)


def _run_of(path: Path) -> str:
    """The digest of the run that wrote a Parquet file; empty if the file is not from here."""
    return (pq.read_schema(path).metadata or {}).get(RUN.encode(), b"").decode()


def _check_existing(folder: Path, shards: Collection[Path], run: str) -> None:
    """Raise `ValueError` for Parquet files in the folder that are not shards of the same run."""
    for path in sorted(folder.glob("*.parquet")):
        if path not in shards or _run_of(path) != run:
            raise ValueError(
                f"{path} holds embeddings of other images or of another model, or was written with another number of "
                "images per shard. Remove it, or write to another folder"
            )


def _write_table(path: Path, rows: pa.Table, features: Features, embeddings: Embeddings, run: str) -> None:
    vectors = embeddings.embeddings.astype(np.float32)  # (N, D)
    columns = {name: rows[name] for name in features} | {
        "embedding": pa.FixedSizeListArray.from_arrays(vectors.ravel(), vectors.shape[1]),
        "norm": pa.array(embeddings.norms.astype(np.float32)),
    }
    features = Features({**features, "embedding": List(Value("float32"), vectors.shape[1]), "norm": Value("float32")})
    schema = features.arrow_schema
    schema = schema.with_metadata({**schema.metadata, RUN: run})
    pq.write_table(pa.table(columns).cast(schema), path, compression="none")  # embeddings do not compress


def _join(shards: Sequence[Path], output: Path) -> None:
    unfinished = output.with_name(f"{output.name}.unfinished")
    with pq.ParquetWriter(unfinished, pq.read_schema(shards[0]), compression="none") as writer:
        for path in shards:
            writer.write_table(pq.read_table(path))
    unfinished.replace(output)
