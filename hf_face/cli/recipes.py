"""
List the recipes included in hf_face, or print the path of one of them.

Example:
    hf-face recipes
    hf-face recipes timm_face/vit_tiny_arcface
    cp $(hf-face recipes demo/orl) mine.yaml
"""

from collections.abc import Sequence

from .parser import CommandParser


def main(argv: Sequence[str]) -> None:
    parser = CommandParser((), __doc__, usage="%(prog)s [NAME]")
    parser.add_argument("name", nargs="?", help="A recipe or a launch configuration, such as accelerate/multi_gpu.")
    args = parser.parse_args(argv)

    from ..training.recipe_files import find_recipe, recipe_names

    print(find_recipe(args.name) if args.name else "\n".join(recipe_names()))
