"""
Export a face model to ONNX, for where Python does not run.

The files are where transformers.js looks for them: onnx/model.onnx, onnx/model_fp16.onnx and onnx/model_quantized.onnx,
beside config.json and preprocessor_config.json. Each is compared with the model on real crops before it is written. In
the model's own folder, the default, they are published with it by `hf-face push`.

With --preprocessing, there are also onnx/model_from_pixels*.onnx, which take uint8 RGB images (batch, height, width, 3)
as decoders return them, and resize and normalize them themselves.

Example:
    hf-face export --model outputs/demo
    hf-face export --model my-model --crops crops --precision fp32 fp16 int8 --preprocessing
    hf-face export --model org/r50 --output_dir exported --crops crops --precision int8 --pairs lfw.bin
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from ..user_input import check_output_folder
from .loading import check_data, check_model
from .parser import CommandParser

PRECISIONS = ("fp32", "fp16", "int8")  # of hf_face.export, which takes long to import


@dataclass
class ExportArguments:
    model: str = field(metadata={"help": "Folder or Hub name of a face model."})
    output_dir: str | None = field(
        default=None, metadata={"help": "Folder to write to; the model's own by default, if it is one."}
    )
    crops: str | None = field(
        default=None,
        metadata={
            "help": "Aligned crops to calibrate int8 on and to check the files with, like those that the model will "
            "see: a folder, Parquet files, a dataset; the ORL faces by default, which do not calibrate int8."
        },
    )
    precision: list[str] = field(
        default_factory=lambda: ["fp32"],
        metadata={"help": "One or more of fp32, fp16 and int8.", "choices": PRECISIONS},
    )
    preprocessing: bool = field(default=False, metadata={"help": "Also write files that take images as uint8."})
    pairs: str | None = field(
        default=None, metadata={"help": "Verification pairs, on which the accuracy must not fall by half a point."}
    )
    images: str | None = field(default=None, metadata={"help": "Images of the pairs, if they are elsewhere."})
    trust_remote_code: bool = field(
        default=False, metadata={"help": "Run the Python code in the model folder; only for authors you trust."}
    )

    def __post_init__(self):
        if "int8" in self.precision and self.crops is None:
            raise ValueError("int8 is calibrated on real crops, like those that the model will see: set --crops")
        if self.output_dir is None and not Path(self.model).is_dir():
            raise ValueError(f"{self.model} is not a folder: name one to write to with --output_dir")


def main(argv: Sequence[str]) -> None:
    (args,) = CommandParser(ExportArguments, __doc__).parse_args_into_dataclasses(argv)
    check_model(args.model)
    check_data(args.crops)
    output_dir = args.output_dir or args.model
    check_output_folder(output_dir)

    from transformers import AutoModel

    from ..data import load_images, load_verification_pairs
    from ..export import export_onnx
    from ..models.loading import load_image_processor

    files = export_onnx(
        AutoModel.from_pretrained(args.model, trust_remote_code=args.trust_remote_code),
        load_image_processor(args.model, args.trust_remote_code),
        output_dir,
        load_images(args.crops or "orl"),
        args.precision,
        args.preprocessing,
        load_verification_pairs(args.pairs, args.images) if args.pairs else None,
    )
    for file in files:
        print(file)
