"""
Crop the faces of photographs, aligned, for training and evaluation.

Takes the largest face of each photograph in a folder and writes it to the same place in another folder. Photographs
without a face, and those with several, are listed.

Example:
    hf-face crop photographs --output crops
"""

import sys
from collections.abc import Sequence

from ..user_input import check_at_least, check_folder
from .parser import CommandParser


def main(argv: Sequence[str]) -> None:
    parser = CommandParser((), __doc__, usage="%(prog)s [--option value ...] PHOTOGRAPHS --output FOLDER")
    parser.add_argument("photographs", help="Folder of photographs, such as one with a folder for each person.")
    parser.add_argument("--output", required=True, help="New folder for the crops.")
    parser.add_argument("--image_size", type=int, default=112, help="Height and width of the crops.")
    args = parser.parse_args(argv)
    check_folder(args.photographs)
    check_at_least(1, image_size=args.image_size)

    from ..pipelines import crop_folder

    made = crop_folder(args.photographs, args.output, args.image_size)
    for name in made.without_face:
        print(f"{name}: no face was found", file=sys.stderr)
    for name in made.with_several:
        print(f"{name}: several faces were found, and the largest was cropped", file=sys.stderr)
    print(f"{args.output} has {len(made.crops)} crops; no face was found in {len(made.without_face)} photographs.")
