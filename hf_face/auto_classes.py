"""
What transformers' Auto classes know of hf_face.

Our classes enter when an Auto class is first asked for one that it does not know from elsewhere, not when its module
is loaded. That keeps torch and timm out of `import hf_face`. It is also the only time when no import is half done:
transformers' own modules import its Auto classes on their way, and our models import those modules.
"""

import importlib
from collections import UserDict
from collections.abc import Sequence
from functools import partial
from types import ModuleType

from .lazy import after_import

# Module of transformers.models.auto -> its mapping that we have classes in.
MAPPINGS = {
    "configuration_auto": "CONFIG_MAPPING",
    "modeling_auto": "MODEL_MAPPING",
    "image_processing_auto": "IMAGE_PROCESSOR_MAPPING",
    "video_processing_auto": "VIDEO_PROCESSOR_MAPPING",
}


class RegisteredClasses(UserDict):
    """
    What was registered with an Auto class. Imports some modules, which register their classes, before anybody looks.

    Args:
        registered (`dict`): What was registered so far.
        homes (`Sequence[str]`): The modules.
    """

    def __init__(self, registered: dict, homes: Sequence[str]):
        self._registered, self._homes = registered, homes

    @property
    def data(self) -> dict:
        for home in self._homes:
            importlib.import_module(home)
        return self._registered

    def __setitem__(self, key, value):
        self._registered[key] = value


def register_at_first_look(*homes: str) -> None:
    """Lets the Auto classes import these modules, each of which registers classes, when somebody looks one up."""
    for module, mapping in MAPPINGS.items():
        after_import(f"transformers.models.auto.{module}", partial(_replace_registered, mapping, homes))


def _replace_registered(mapping: str, homes: Sequence[str], module: ModuleType) -> None:
    mapping = getattr(module, mapping)
    mapping._extra_content = RegisteredClasses(mapping._extra_content, homes)
