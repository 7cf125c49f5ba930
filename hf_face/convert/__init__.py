"""Other projects' checkpoints, in and out."""

from .. import registry
from .convert import convert_checkpoint, convert_to_folder, export_checkpoint
from .insightface_heads import convert_insightface_heads, export_insightface_heads
from .layout import Layout, LayoutSource
from .source import CheckpointSource

SOURCES = registry.sources

registry.import_modules(__name__)  # a new file's source is known by name without a line here

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
