"""The app as a Space on the Hub."""

from pathlib import Path
from tempfile import TemporaryDirectory

import gradio
from huggingface_hub import CommitInfo, SpaceCard, SpaceCardData

from ..hub import push_space

APP = """\
from hf_face.app import FaceApp, build_page

build_page(FaceApp(model={model!r}, gallery={gallery!r})).launch()
"""
REQUIREMENTS = """\
# Where this version is not on the package index: the name of a wheel beside this file, or hf_face @ git+https://...
hf_face[app,demo,detection,gallery,onnx]
"""
README = """\
---
{card}
---

# Faces in photographs

Are two photographs of one person? Who is it? Which photographs show the same people? An app of hf_face.

Photographs are sent to this Space, and deleted there after a few minutes. Face recognition identifies people: ask for
their consent, and mind the law on biometric data where you are.
"""


def push_app(
    repo_id: str, model: str | None = None, gallery: str | None = None, *, private: bool | None = None
) -> CommitInfo:
    """
    Publish the app as a Space, in one commit.

    Args:
        repo_id: `org/name`, or `name` for your own namespace.
        model: name of a model on the Hub; by default the one that [`FaceApp`] takes.
        gallery: name of a gallery on the Hub.
        private: whether a new Space is private.

    Raises:
        ValueError: if the model or the gallery is a folder on this machine, which the Space could not read.
    """
    for kind, name in (("model", model), ("gallery", gallery)):
        if name is not None and Path(name).exists():
            raise ValueError(f"The {kind} {name} is on this machine, where a Space cannot read it: push it first.")
    with TemporaryDirectory() as folder:
        for name, text in space_files(model, gallery).items():
            Path(folder, name).write_text(text, encoding="utf-8")
        return push_space(folder, repo_id, private=private, commit_message="Publish app")


def space_files(model: str | None = None, gallery: str | None = None) -> dict[str, str]:
    """The Space's files and their contents."""
    card = SpaceCardData(
        title="Faces in photographs",
        sdk="gradio",
        sdk_version=gradio.__version__,
        python_version="3.11",
        app_file="app.py",
        license="apache-2.0",
        models=None if model is None else [model],
        datasets=None if gallery is None else [gallery],
        emoji="🙂",
        colorFrom="blue",
        colorTo="yellow",
    )
    return {
        "app.py": APP.format(model=model, gallery=gallery),
        "requirements.txt": REQUIREMENTS,
        "README.md": str(SpaceCard(README.format(card=card))),
    }
