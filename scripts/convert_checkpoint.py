"""Another project's checkpoint as a model folder that `AutoModel.from_pretrained` and `pipeline` load, and back.

python scripts/convert_checkpoint.py --source auto backbone.pth my-model
python scripts/convert_checkpoint.py --set neck=gwp model.pt my-model
python scripts/convert_checkpoint.py --set architecture=convnext_nano --set 'model_args={patch_size: 2}' model.bin out
python scripts/convert_checkpoint.py --export arcface_torch my-model backbone.pth
"""

import argparse
from pathlib import Path

import yaml
from safetensors.torch import save_file
from transformers import AutoModel

from hf_face.convert import SOURCES, convert_checkpoint, export_checkpoint
from hf_face.convert.froundation import without_adapter


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkpoint", type=Path, help="file or folder to read")
    parser.add_argument("output", type=Path, help="folder to write (with --export: file)")
    parser.add_argument("--source", default="auto", choices=["auto", *SOURCES], help="project it comes from")
    parser.add_argument("--export", choices=list(SOURCES), help="instead, write this model for that project's tools")
    parser.add_argument(
        "--set", action="append", default=[], type=parse_setting, metavar="NAME=VALUE", help="an option; value is YAML"
    )
    parser.add_argument(
        "--keep_class_centers", action="store_true", help="write the class centers to class_centers.safetensors"
    )
    return parser.parse_args()


def parse_setting(text: str) -> tuple[str, object]:
    name, equals, value = text.partition("=")
    if not equals:
        raise argparse.ArgumentTypeError(f"expected NAME=VALUE, found {text!r}")
    return name, yaml.safe_load(value)


def main(arguments: argparse.Namespace) -> None:
    if arguments.export:
        export_checkpoint(AutoModel.from_pretrained(arguments.checkpoint), arguments.export, arguments.output)
        print(f"{arguments.output}: written for {arguments.export}.")
        return
    model, image_processor = convert_checkpoint(
        arguments.checkpoint,
        arguments.source,
        keep_class_centers=arguments.keep_class_centers,
        **dict(arguments.set),
    )
    model.save_pretrained(arguments.output)
    if getattr(model, "peft_config", None):  # of an adapted model that was the adapter alone
        without_adapter(model).save_pretrained(arguments.output)
    image_processor.save_pretrained(arguments.output)
    if arguments.keep_class_centers:
        save_file({"weight": model.class_centers}, arguments.output / "class_centers.safetensors")
    size = f"{model.num_parameters() / 1e6:.1f} M parameters, {model.config.embedding_size}-d embedding"
    print(f"{arguments.output}: {model.config.model_type}, {size}, {image_processor.channel_order} input.")
    print("The weights keep the license of their source, often for research only: state it when you publish them.")


if __name__ == "__main__":
    main(parse_arguments())
