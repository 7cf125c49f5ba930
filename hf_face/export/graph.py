"""Face models as ONNX graphs."""

import copy
import logging
from contextlib import contextmanager
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.image_utils import PILImageResampling

from ..data.normalize import BatchNormalize
from ..models import FaceImageProcessor

OUTPUTS = ["pooler_output", "norm"]
PIXELS, PIXEL_VALUES = "pixels", "pixel_values"


class Preprocessing(nn.Module):
    """What the image processor does, for uint8 RGB images of any one size as decoders return them."""

    def __init__(self, image_processor: FaceImageProcessor):
        super().__init__()
        if image_processor.resample != PILImageResampling.BILINEAR:
            raise ValueError(
                f"The file can resize bilinearly only, but the image processor says {image_processor.resample}."
            )
        self.size = (image_processor.size["height"], image_processor.size["width"])  # type: ignore[index]
        self.normalize = BatchNormalize.from_image_processor(image_processor)

    def forward(self, pixels: Tensor) -> Tensor:
        """Images (B, height, width, 3) to `pixel_values` (B, 3, image_size, image_size)."""
        planes = pixels.permute(0, 3, 1, 2).float()
        resized = F.interpolate(planes, self.size, mode="bilinear", antialias=True).round()  # to gray levels
        return self.normalize(resized)


class Embedding(nn.Module):
    """A backbone that returns its embedding and norm alone."""

    def __init__(self, backbone: PreTrainedModel):
        super().__init__()
        self.backbone = backbone

    def forward(self, pixel_values: Tensor) -> tuple[Tensor, Tensor]:
        output = self.backbone(pixel_values=pixel_values)
        return output.pooler_output, output.norm


def backbone_graph(backbone: PreTrainedModel, dtype: torch.dtype = torch.float32) -> Any:
    """
    The ONNX graph from `pixel_values` (batch, 3, image_size, image_size), float32, to `pooler_output` and `norm`,
    float32, with weights of type `dtype`.

    Raises:
        ValueError: if the file would be larger than ONNX allows.
    """
    if dtype != backbone.dtype:
        backbone = copy.deepcopy(backbone).to(dtype)  # type: ignore[arg-type]  # transformers' wrapper hides what `to` takes
    check_size(backbone)
    size, channels = backbone.config.image_size, backbone.config.num_channels
    example = torch.zeros(2, channels, size, size)  # torch takes a batch of one for fixed
    return to_onnx(Embedding(backbone).eval(), example, PIXEL_VALUES, OUTPUTS, {0: "batch"})


def preprocessing_graph(image_processor: FaceImageProcessor) -> Any:
    """The ONNX graph from `pixels` (batch, height, width, 3), uint8 RGB, to `pixel_values`."""
    example = torch.zeros(2, 128, 120, 3, dtype=torch.uint8)
    axes = {0: "batch", 1: "height", 2: "width"}
    return to_onnx(Preprocessing(image_processor).eval(), example, PIXELS, [PIXEL_VALUES], axes)


def with_preprocessing(preprocessing: Any, graph: Any) -> Any:
    """The two graphs in one, from `pixels` to the embedding."""
    from onnx import compose

    preprocessing = compose.add_prefix(preprocessing, "preprocessing/", rename_inputs=False, rename_outputs=False)
    del graph.opset_import[1:]
    return compose.merge_models(preprocessing, graph, [(PIXEL_VALUES, PIXEL_VALUES)])


def to_onnx(module: nn.Module, example: Tensor, name: str, outputs: list[str], axes: dict[int, str]) -> Any:
    with quiet_exporter():
        program = torch.onnx.export(
            module,
            (example,),
            dynamo=True,
            dynamic_shapes=({axis: torch.export.Dim(label) for axis, label in axes.items()},),
            input_names=[name],
            output_names=outputs,
            verbose=False,
        )
    graph = program.model_proto
    del graph.metadata_props[:]  # paths of this machine, among others
    return graph


def check_size(backbone: PreTrainedModel) -> None:
    size = sum(weight.numel() * weight.element_size() for weight in backbone.state_dict().values())
    if size > 2**31 - 2**24:
        raise ValueError(
            f"The weights take {size / 2**30:.1f} GB as {str(backbone.dtype).removeprefix('torch.')}, but an ONNX file "
            "holds at most 2 GB. Export another precision."
        )


@contextmanager
def quiet_exporter():
    """Without the exporter's remarks on each of its own steps."""
    logger = logging.getLogger("onnxscript")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(level)
