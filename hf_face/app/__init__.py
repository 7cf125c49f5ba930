"""A page to try face recognition on: two photographs, a gallery, a pile of photographs."""

from importlib.util import find_spec

if find_spec("gradio") is None:
    raise ImportError("The app requires Gradio: pip install 'hf_face[app]'.")

from .answers import FaceApp
from .layout import build_page
from .space import push_app

__all__ = ["FaceApp", "build_page", "push_app"]
