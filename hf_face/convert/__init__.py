"""Other projects' checkpoints, in and out."""

from .convert import SOURCES, convert_checkpoint, export_checkpoint
from .insightface_heads import convert_insightface_heads, export_insightface_heads

__all__ = [
    "SOURCES",
    "convert_checkpoint",
    "convert_insightface_heads",
    "export_checkpoint",
    "export_insightface_heads",
]
