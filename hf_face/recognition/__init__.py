"""The training model: a backbone with its margin head."""

from typing import TYPE_CHECKING

from ..lazy import lazy_names, names_of_files

if TYPE_CHECKING:
    from .configuration_face_recognition import *
    from .modeling_face_recognition import *
else:
    __getattr__, __dir__, __all__ = lazy_names(__name__, names_of_files(__name__))
