"""Export of face models to files that run where Python does not."""

from .export import PRECISIONS, ExportedFile, export_onnx
from .runtime import OnnxFaceModel

__all__ = ["PRECISIONS", "ExportedFile", "OnnxFaceModel", "export_onnx"]
