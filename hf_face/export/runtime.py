"""Exported files as models, to compare with those they were exported from."""

from pathlib import Path

import torch
from torch import Tensor, nn

from ..models.modeling_face import FaceEmbeddingOutput
from .graph import PIXEL_VALUES


class OnnxFaceModel(nn.Module):
    """
    An exported face model, run by onnxruntime on the CPU. Called like the model itself, and taken by an `Embedder` and
    every protocol.

    Args:
        file: A file that [`export_onnx`] wrote.

    Raises:
        ImportError: if onnxruntime is not installed.

    Example:
    ```python
    >>> from hf_face.export import OnnxFaceModel

    >>> model = OnnxFaceModel("my-model/onnx/model_quantized.onnx")  # doctest: +SKIP
    >>> model(**image_processor(crops, return_tensors="pt")).pooler_output.shape  # doctest: +SKIP
    torch.Size([2, 512])
    ```
    """

    def __init__(self, file: str | Path):
        super().__init__()
        onnxruntime = import_onnxruntime()
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = torch.get_num_threads()
        options.log_severity_level = 3  # errors
        self.session = onnxruntime.InferenceSession(file, options, providers=["CPUExecutionProvider"])
        self.input_name = self.session.get_inputs()[0].name
        self.place = nn.Parameter(torch.empty(0), requires_grad=False)  # says device and dtype, like a model's weights

    @torch.no_grad()
    def forward(self, pixel_values: Tensor) -> FaceEmbeddingOutput:
        """
        Args:
            pixel_values (`torch.Tensor`): Normalized crops `(batch, 3, image_size, image_size)`; of a file with
                preprocessing, uint8 RGB images `(batch, height, width, 3)`.
        """
        embedding, norm = self.session.run(["pooler_output", "norm"], {self.input_name: pixel_values.numpy()})
        return FaceEmbeddingOutput(torch.from_numpy(embedding), torch.from_numpy(norm))

    @property
    def takes_pixels(self) -> bool:
        """Whether the preprocessing is in the file."""
        return self.input_name != PIXEL_VALUES


def import_onnxruntime():
    try:
        import onnx  # noqa: F401
        import onnxruntime
        import onnxscript  # noqa: F401
    except ImportError as error:
        raise ImportError(
            f'Exporting to ONNX requires {error.name}, which is missing: pip install "hf_face[onnx]"'
        ) from error
    return onnxruntime
