"""
Crop the faces of photographs, aligned, for training and evaluation.

Takes the largest face of each photograph of a folder and writes it to the same place in another folder. Photographs
without a face, and those with several, are listed.

Example:
    hf-face crop --photographs photographs --output_dir crops
"""

import sys
from collections.abc import Sequence
from dataclasses import dataclass, field

from ..user_input import check_at_least, check_folder
from .parser import CommandParser


@dataclass
class CropArguments:
    photographs: str = field(metadata={"help": "Folder of photographs, such as one with a folder for each person."})
    output_dir: str = field(metadata={"help": "New folder to write the crops to."})
    image_size: int = field(default=112, metadata={"help": "Height and width of the crops."})

    def __post_init__(self):
        check_at_least(1, image_size=self.image_size)


def main(argv: Sequence[str]) -> None:
    (args,) = CommandParser(CropArguments, __doc__).parse_args_into_dataclasses(argv)
    check_folder(args.photographs)

    from ..pipelines import crop_folder

    made = crop_folder(args.photographs, args.output_dir, args.image_size)
    for what, names in (
        ("no face found", made.without_face),
        ("several faces, of which the largest was cropped", made.with_several),
    ):
        for name in names:
            print(f"{name}: {what}", file=sys.stderr)
    print(f"{len(made.crops)} crops in {args.output_dir}; no face in {len(made.without_face)} photographs")
