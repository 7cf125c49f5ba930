"""
Convert another project's checkpoint to a model folder for `AutoModel.from_pretrained` and `pipeline`, or back.

    python scripts/convert_checkpoint.py backbone.pth my-model
    python scripts/convert_checkpoint.py --source magface --keep_class_centers magface.pth my-model
    python scripts/convert_checkpoint.py --set neck=gwp model.pt my-model
    python scripts/convert_checkpoint.py --set architecture=convnext_nano --set 'model_args={patch_size: 2}' in.bin out
    python scripts/convert_checkpoint.py --export arcface_torch my-model backbone.pth
"""

import argparse
from pathlib import Path

import yaml

from hf_face.convert import SOURCES, convert_to_folder, export_checkpoint
from hf_face.registry import load_plugins


def parse_arguments() -> argparse.Namespace:
    plugins = argparse.ArgumentParser(add_help=False)
    plugins.add_argument(
        "--plugins", action="append", default=[], metavar="MODULE", help="module with your own sources"
    )
    load_plugins(plugins.parse_known_args()[0].plugins)  # before listing their sources
    parser = argparse.ArgumentParser(
        description=__doc__, epilog=list_sources(), parents=[plugins], formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("checkpoint", type=Path, help="file or folder to read")
    parser.add_argument("output", type=Path, help="folder to write (with --export: file)")
    parser.add_argument(
        "--source", default="auto", metavar="SOURCE", help="project of the checkpoint; recognized by default"
    )
    parser.add_argument("--export", metavar="SOURCE", help="convert a model folder to this project's format instead")
    parser.add_argument(
        "--set",
        action="append",
        default=[],
        type=parse_setting,
        metavar="NAME=VALUE",
        help="set an option; the value is YAML",
    )
    parser.add_argument(
        "--keep_class_centers",
        action="store_true",
        help="also save the class centers, for a recipe's `head_from:`",
    )
    return parser.parse_args()


def list_sources() -> str:
    return "\n".join(["sources:", *(f"  {name:<20}{source.summary}" for name, source in sorted(SOURCES.items()))])


def parse_setting(text: str) -> tuple[str, object]:
    name, equals, value = text.partition("=")
    if not equals:
        raise argparse.ArgumentTypeError(f"expected NAME=VALUE, found {text!r}")
    return name, yaml.safe_load(value)


def main(arguments: argparse.Namespace) -> None:
    if arguments.export:
        export_checkpoint(arguments.checkpoint, arguments.export, arguments.output)
        print(f"{arguments.output}: written for {arguments.export}.")
        return
    model, image_processor = convert_to_folder(
        arguments.checkpoint,
        arguments.output,
        arguments.source,
        keep_class_centers=arguments.keep_class_centers,
        **dict(arguments.set),
    )
    size = f"{model.num_parameters() / 1e6:.1f} M parameters, {model.config.embedding_size}-d embedding"
    print(f"{arguments.output}: {model.config.model_type}, {size}, {image_processor.channel_order} input.")
    print("The weights keep the license of their source, often research only: state it when publishing them.")


if __name__ == "__main__":
    main(parse_arguments())
