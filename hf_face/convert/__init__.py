"""Conversion of other projects' checkpoints, in both directions."""

from .. import registry
from .convert import convert_checkpoint, convert_to_folder, export_checkpoint
from .insightface_heads import convert_insightface_heads, export_insightface_heads
from .layout import Layout, LayoutSource
from .source import CheckpointSource

SOURCES = registry.sources

registry.import_modules(__name__)  # registers the sources of new files without listing them here

__all__ = [
    "SOURCES",
    "CheckpointSource",
    "Layout",
    "LayoutSource",
    "convert_checkpoint",
    "convert_insightface_heads",
    "convert_to_folder",
    "export_checkpoint",
    "export_insightface_heads",
]
