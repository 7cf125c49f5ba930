"""Computes embeddings of images: batched, distributed over ranks, cached and resumable."""

from .cache import EmbeddingCache
from .embedder import Embedder, embed_images
from .embeddings import Embeddings, Flip
from .folder import embed_folder

__all__ = ["Embedder", "EmbeddingCache", "Embeddings", "Flip", "embed_folder", "embed_images"]
