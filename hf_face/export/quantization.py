"""Static quantization to int8, by onnxruntime."""

import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.utils import logging

from .graph import PIXEL_VALUES

# With the activations that follow convolutions, whose ranges would otherwise be those before they clip.
QUANTIZED_OPS = ["Add", "Clip", "Conv", "Gemm", "MatMul", "Relu"]
# The range of a tensor is the mean of those in batches of so many crops: it leaves out what hardly a crop has.
CROPS_PER_RANGE = 8
NUM_CROPS_FOR_LAYERS = 16
MAX_LOSS_OF_A_LAYER = 5e-4  # of the embeddings' mean cosine, which may fall by ten times as much


@torch.no_grad()
def sensitive_layers(backbone: PreTrainedModel, pixel_values: Tensor) -> list[str]:
    """
    The layers whose input of 8 bits, all else in float, already costs too much, such as the convolution over the whole
    feature map that ends a MobileFaceNet. They stay in float.
    """
    pixel_values = pixel_values[:NUM_CROPS_FOR_LAYERS]
    expected = backbone(pixel_values).pooler_output
    layers = [(name, layer) for name, layer in backbone.named_modules() if isinstance(layer, nn.Conv2d | nn.Linear)]
    found = []
    for name, layer in logging.tqdm(layers, desc="Layers in 8 bits", unit="layer"):
        hook = layer.register_forward_pre_hook(in_8_bits)
        cosine = (backbone(pixel_values).pooler_output * expected).sum(1).mean()
        hook.remove()
        if 1 - cosine > MAX_LOSS_OF_A_LAYER:
            found.append(name)
    return found


def in_8_bits(layer: nn.Module, inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    values = inputs[0]
    low, high = values.amin().clamp_max(0), values.amax().clamp_min(0)
    scale = ((high - low) / 255).clamp_min(1e-12)
    return (torch.fake_quantize_per_tensor_affine(values, scale, (-low / scale).round().int(), 0, 255),)


def quantize(graph: Any, pixel_values: Tensor, in_float: Sequence[str] = ()) -> Any:
    """
    Quantize the weights (per channel) and activations of a float graph to 8 bits.

    Args:
        graph: The ONNX graph.
        pixel_values: Crops `(N, 3, image_size, image_size)` that show which values activations have.
        in_float: Names of layers to leave as they are.
    """
    import onnx
    from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static
    from onnxruntime.quantization.shape_inference import quant_pre_process

    class Crops(CalibrationDataReader):
        batches = iter(pixel_values.split(CROPS_PER_RANGE))

        def get_next(self) -> dict[str, Any] | None:
            batch = next(self.batches, None)
            return None if batch is None else {PIXEL_VALUES: batch.numpy()}

    with tempfile.TemporaryDirectory() as folder:
        whole, prepared, quantized = (Path(folder, f"{name}.onnx") for name in ("whole", "prepared", "quantized"))
        onnx.save(graph, whole)
        quant_pre_process(whole, prepared, skip_symbolic_shape=True)
        nodes = onnx.load(prepared).graph.node
        # A PReLU runs in float. Its input in 8 bits would only be rounded once more.
        rounded_twice = {"OpTypesToExcludeOutputQuantization": ["Conv"]} if has_prelu(nodes) else {}
        quantize_static(
            prepared,
            quantized,
            Crops(),
            quant_format=QuantFormat.QDQ,
            op_types_to_quantize=QUANTIZED_OPS,
            nodes_to_exclude=nodes_in_float(nodes, in_float),
            per_channel=True,
            activation_type=QuantType.QUInt8,
            weight_type=QuantType.QInt8,
            extra_options={"CalibMovingAverage": True, **rounded_twice},
        )
        return onnx.load(quantized)


def has_prelu(nodes: Sequence[Any]) -> bool:
    return any(node.op_type == "PRelu" for node in nodes)


def nodes_in_float(nodes: Sequence[Any], layers: Sequence[str]) -> list[str]:
    """
    The nodes of layers, and of the convolution and the activation before each: onnxruntime takes an activation for done
    where its output is quantized, and removes it.
    """
    producers = {output: node for node in nodes for output in node.output}
    names = []
    for node in nodes:
        if any(weight == f"backbone.{layer}.weight" for weight in node.input for layer in layers):
            names.append(node.name)
            before = producers.get(node.input[0])
            while before is not None and before.op_type in ("Clip", "Conv", "Relu"):
                names.append(before.name)
                before = producers.get(before.input[0]) if before.op_type != "Conv" else None
    return names
