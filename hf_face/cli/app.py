"""
Open a page to compare photographs, search a gallery and group photographs, or publish it as a Space.

The page runs on this machine, and by default only this machine can open it. It needs Gradio:
pip install 'hf_face[app]'.

Example:
    hf-face app
    hf-face app --model outputs/demo --gallery my_gallery
    hf-face app --model org/model --gallery org/gallery --push org/faces
"""

from collections.abc import Sequence
from dataclasses import dataclass, field

from huggingface_hub.utils import validate_repo_id

from .loading import check_model
from .parser import CommandParser


@dataclass
class AppArguments:
    model: str | None = field(
        default=None, metadata={"help": "Model folder or Hub name; by default SFace, which the extra demo installs."}
    )
    gallery: str | None = field(default=None, metadata={"help": "Gallery to search: a folder or a Hub name."})
    host: str = field(default="127.0.0.1", metadata={"help": "Address to listen on; 0.0.0.0 opens it to the network."})
    port: int | None = field(default=None, metadata={"help": "Port to listen on; the first free one from 7860."})
    push: str | None = field(
        default=None, metadata={"help": "org/name: publish the page as a Space, in place of opening it."}
    )
    private: bool | None = field(default=None, metadata={"help": "Make a new Space private."})

    def __post_init__(self):
        if self.push is not None:
            validate_repo_id(self.push)


def main(argv: Sequence[str]) -> None:
    (args,) = CommandParser(AppArguments, __doc__).parse_args_into_dataclasses(argv)
    if args.model is not None:
        check_model(args.model)

    from ..app import FaceApp, build_page, push_app

    if args.push is not None:
        print(push_app(args.push, args.model, args.gallery, private=args.private).commit_url)
        return
    page = build_page(FaceApp(args.model, args.gallery))
    page.launch(server_name=args.host, server_port=args.port, share=False, show_error=True)
