"""
Convert another project's checkpoint to a model folder, or a model folder to another project's checkpoint.

{sources}

Example:
    hf-face convert backbone.pth my-model
    hf-face convert --source magface --keep_class_centers magface.pth my-model
    hf-face convert --set unfuse=true w600k_r50.onnx my-model
    hf-face convert --set architecture=convnext_nano --set 'model_args={patch_size: 2}' model.bin my-model
    hf-face convert --export arcface_torch my-model backbone.pth
"""

from argparse import ArgumentParser, ArgumentTypeError
from collections.abc import Sequence
from pathlib import Path

import yaml

from ..user_input import check_output_file, check_output_folder, parse_yaml
from .parser import CommandParser


def main(argv: Sequence[str]) -> None:
    args = parse(argv)
    if args.export:
        check_output_file(args.output)
    else:
        check_output_folder(args.output)

    from ..convert import convert_to_folder, export_checkpoint
    from ..models import FaceConfig

    if args.export:
        export_checkpoint(args.checkpoint, args.export, args.output)
        print(f"{args.output}: written for {args.export}.")
        return
    model, image_processor = convert_to_folder(
        args.checkpoint, args.output, args.source, keep_class_centers=args.keep_class_centers, **dict(args.set)
    )
    config = model.config
    answer = f"{config.embedding_size}-d embedding" if isinstance(config, FaceConfig) else "finds and aligns a face"
    size = f"{model.num_parameters() / 1e6:.1f} M parameters"
    print(f"{args.output}: {config.model_type}, {size}, {answer}, {image_processor.channel_order} input.")
    print("The weights keep the license of their source, often research only: state it when publishing them.")


def parse(argv: Sequence[str]):
    from ..registry import load_plugins, sources

    plugins = ArgumentParser(add_help=False)
    plugins.add_argument("--plugins", action="append", default=[])
    load_plugins(plugins.parse_known_args(argv)[0].plugins)  # before listing their sources
    listed = "\n".join(["Sources:", *(f"  {name:<20}{source.summary}" for name, source in sorted(sources.items()))])
    parser = CommandParser((), __doc__.replace("{sources}", listed), usage="%(prog)s [--option value ...] FROM TO")
    parser.add_argument("checkpoint", type=Path, help="File or folder to read.")
    parser.add_argument("output", type=Path, help="Folder to write (with --export: file).")
    parser.add_argument("--source", default="auto", help="Project of the checkpoint; auto recognizes it.")
    parser.add_argument("--export", metavar="SOURCE", help="Convert a model folder to this project's format instead.")
    parser.add_argument(
        "--set",
        action="append",
        default=[],
        type=setting,
        metavar="NAME=VALUE",
        help="Option of the source, or field of the model's configuration; the value is YAML.",
    )
    parser.add_argument(
        "--keep_class_centers",
        action="store_true",
        help="Also save the class centers, for a recipe's `head_from:`.",
    )
    parser.add_argument("--plugins", action="append", metavar="MODULE", help="Module with your own sources.")
    return parser.parse_args(argv)


def setting(text: str) -> tuple[str, object]:
    name, equals, value = text.partition("=")
    if not name or not equals:
        raise ArgumentTypeError(f"expected NAME=VALUE, found {text!r}")
    try:
        return name, parse_yaml(value)
    except yaml.YAMLError:
        raise ArgumentTypeError(f"the value of {name} is not YAML: {value!r}") from None
