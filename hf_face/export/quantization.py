"""Static quantization to int8, by onnxruntime."""

import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from torch import Tensor

from .graph import PIXEL_VALUES

# With the activations that follow convolutions, whose ranges would otherwise be those before they clip.
QUANTIZED_OPS = ["Add", "Clip", "Conv", "Gemm", "MatMul", "Relu"]
# The range of a tensor is the mean of those in batches of so many crops: it leaves out what hardly a crop has.
CROPS_PER_RANGE = 8


def quantize(graph: Any, pixel_values: Tensor) -> Any:
    """
    Quantize weights (per channel) and activations of a float graph to 8 bits.

    Args:
        graph: The ONNX graph.
        pixel_values: Crops `(N, 3, image_size, image_size)` that show which values activations have.
    """
    import onnx
    from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static
    from onnxruntime.quantization.shape_inference import quant_pre_process

    class Crops(CalibrationDataReader):
        def __init__(self):
            self.batches: Iterator[Tensor] = iter(pixel_values.split(CROPS_PER_RANGE))

        def get_next(self) -> dict[str, Any] | None:
            batch = next(self.batches, None)
            return None if batch is None else {PIXEL_VALUES: batch.numpy()}

    with tempfile.TemporaryDirectory() as folder:
        prepared, quantized = Path(folder, "prepared.onnx"), Path(folder, "quantized.onnx")
        quant_pre_process(graph, prepared, skip_symbolic_shape=True)
        quantize_static(
            prepared,
            quantized,
            Crops(),
            quant_format=QuantFormat.QDQ,
            op_types_to_quantize=QUANTIZED_OPS,
            per_channel=True,
            activation_type=QuantType.QUInt8,
            weight_type=QuantType.QInt8,
            extra_options={"CalibMovingAverage": True},
        )
        return onnx.load(quantized)
