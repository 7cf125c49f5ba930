"""Computes embeddings of images: batched, distributed over ranks, cached and resumable."""

from .cache import EmbeddingCache
from .embedder import Embedder, embed_images
from .embeddings import Embeddings, Flip
from .parquet import embed_to_parquet
from .shards import model_digest

__all__ = ["Embedder", "EmbeddingCache", "Embeddings", "Flip", "embed_images", "embed_to_parquet", "model_digest"]
