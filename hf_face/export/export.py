"""ONNX files of a face model, checked on real faces before they are written."""

import copy
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset
from transformers import PreTrainedModel
from transformers.utils import CONFIG_NAME, IMAGE_PROCESSOR_NAME

from ..data import VerificationPairs
from ..files import read_json
from ..hub.model_folder import bare_backbone
from ..hub.onnx_files import ONNX_FOLDER, WEIGHTS_KEY, weights_digest
from ..models import FaceImageProcessor, FusableMixin
from ..registry import families
from ..user_input import check_output_folder
from .checks import ExportedFile, Reference
from .crops import choose_crops, pixels_of
from .graph import backbone_graph, preprocessing_graph, with_preprocessing
from .quantization import quantize, sensitive_layers
from .runtime import import_onnxruntime

# As transformers.js names them, by its `dtype`: "fp32", "fp16", "q8".
SUFFIXES = {"fp32": "", "fp16": "_fp16", "int8": "_quantized"}
PRECISIONS = tuple(SUFFIXES)
# transformers.js cannot take these for the files above; `model_file_name="model_from_pixels"` loads them.
STEM, STEM_WITH_PREPROCESSING = "model", "model_from_pixels"
NUM_CALIBRATION_CROPS, NUM_CHECKED_CROPS = 256, 128


def export_onnx(
    model: PreTrainedModel,
    image_processor: FaceImageProcessor,
    folder: str | Path,
    crops: Dataset,
    precisions: Sequence[str] = ("fp32",),
    preprocessing: bool = False,
    pairs: VerificationPairs | None = None,
) -> list[ExportedFile]:
    """
    Export a face model to ONNX, where transformers.js and the Hub look for it: `onnx/model.onnx` (fp32),
    `onnx/model_fp16.onnx` and `onnx/model_quantized.onnx` (int8), beside `config.json` and `preprocessor_config.json`,
    which are written if they are missing. [`push_to_hub`] publishes the files beside the weights of their folder.

    The input is `pixel_values` `(batch, 3, image_size, image_size)`, float32 from the image processor, and the outputs
    are `pooler_output` `(batch, embedding_size)`, of unit length, and `norm` `(batch, 1)`, as those of the model; any
    batch size. Each file is first run by onnxruntime on real crops: fp32 differs from the model by at most 1e-4, fp16
    has a cosine similarity of at least 0.999, int8 of at least 0.995 on average. With `pairs`, the verification
    accuracy may fall by at most half a percentage point. If a file fails, none is written.

    Args:
        model: A face model; of a training model, its backbone.
        image_processor: The model's image processor.
        folder: Folder to write to, usually the model's own.
        crops: Aligned crops (column `image`) like those that the model will see, see [`hf_face.data.load_images`]. Up
            to 256 random ones calibrate int8, and up to 128 others are for the check.
        precisions: Some of `"fp32"`, `"fp16"` and `"int8"`.
        preprocessing: Whether to also write `onnx/model_from_pixels*.onnx`, which do what the image processor does:
            their input is `pixels` `(batch, height, width, 3)`, uint8 RGB of any size, as decoders return images.
        pairs: Verification pairs to compare the accuracy on.

    Returns:
        `list[ExportedFile]`: The files with the figures of their checks.

    Raises:
        ImportError: if onnx, onnxruntime or onnxscript is not installed.
        ValueError: if a precision is unknown, the file would exceed the 2 GB of ONNX, or a check fails.

    Example:
    ```python
    >>> from hf_face.data import load_images
    >>> from hf_face.export import export_onnx

    >>> export_onnx(model, image_processor, "my-model", load_images("crops"), ["fp32", "int8"])  # doctest: +SKIP
    ```
    """
    import_onnxruntime()
    check_arguments(crops, precisions, folder)
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    original = bare_backbone(model)
    check_settings(original, folder)
    digest = weights_digest(original)
    backbone = copy.deepcopy(original).cpu().float().eval()
    calibration, checked = choose_crops(crops, [NUM_CALIBRATION_CROPS, NUM_CHECKED_CROPS])
    reference = Reference(backbone, image_processor, checked, pairs)
    if isinstance(backbone, FusableMixin):
        backbone.fuse()
    with tempfile.TemporaryDirectory(prefix=".export-", dir=folder) as unfinished:
        files = []
        for name, precision, graph in graphs(backbone, image_processor, calibration, precisions, preprocessing):
            path = save(graph, Path(unfinished, name), digest)
            files.append(reference.compare(path, precision))
            files[-1].check()
        write_settings(original, image_processor, folder, Path(unfinished))
        return [put_in_place(file, folder / ONNX_FOLDER) for file in files]


def check_arguments(crops: Dataset, precisions: Sequence[str], folder: str | Path) -> None:
    if unknown := [precision for precision in precisions if precision not in SUFFIXES]:
        raise ValueError(f"There is no precision {unknown[0]!r}, only {', '.join(PRECISIONS)}.")
    if not len(crops):
        raise ValueError("there are no crops to calibrate on and to check the files with")
    check_output_folder(folder)


def graphs(
    backbone: PreTrainedModel,
    image_processor: FaceImageProcessor,
    calibration: Dataset,
    precisions: Sequence[str],
    preprocessing: bool,
) -> Iterator[tuple[str, str, Any]]:
    """The file name, precision and graph of each file."""
    first = preprocessing_graph(image_processor) if preprocessing else None
    for precision in precisions:
        graph = backbone_graph(backbone, torch.float16 if precision == "fp16" else torch.float32)
        if precision == "int8":
            pixel_values = pixels_of(calibration, image_processor)
            graph = quantize(graph, pixel_values, sensitive_layers(backbone, pixel_values))
        yield f"{STEM}{SUFFIXES[precision]}.onnx", precision, graph
        if first is not None:
            yield f"{STEM_WITH_PREPROCESSING}{SUFFIXES[precision]}.onnx", precision, with_preprocessing(first, graph)


def save(graph: Any, path: Path, digest: str) -> Path:
    import onnx

    onnx.helper.set_model_props(graph, {WEIGHTS_KEY: digest})
    onnx.save(graph, path)
    return path


def check_settings(backbone: PreTrainedModel, folder: Path) -> None:
    """
    Raises:
        ValueError: if the folder is that of another model.
    """
    if (folder / CONFIG_NAME).is_file():
        found = read_json(folder / CONFIG_NAME)
        found = found.get("backbone_config", found) if found.get("model_type") not in families else found
        ours = backbone.config.to_dict()
        if any(found.get(name, ours[name]) != ours[name] for name in ("model_type", "embedding_size", "image_size")):
            raise ValueError(f"{folder} is the folder of another model, says its {CONFIG_NAME}: name another one.")


def write_settings(
    backbone: PreTrainedModel, image_processor: FaceImageProcessor, folder: Path, unfinished: Path
) -> None:
    """Write what transformers.js reads beside the ONNX files, unless it is there."""
    for settings, name in ((backbone.config, CONFIG_NAME), (image_processor, IMAGE_PROCESSOR_NAME)):
        if not (folder / name).is_file():
            settings.save_pretrained(unfinished / name)
            for file in (unfinished / name).iterdir():
                file.replace(folder / file.name)


def put_in_place(file: ExportedFile, folder: Path) -> ExportedFile:
    folder.mkdir(exist_ok=True)
    return replace(file, path=file.path.replace(folder / file.path.name))
