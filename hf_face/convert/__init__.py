"""Other projects' checkpoints, in and out."""

from .convert import SOURCES, convert_checkpoint, export_checkpoint

__all__ = ["SOURCES", "convert_checkpoint", "export_checkpoint"]
