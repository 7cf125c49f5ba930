"""
Registers hf_face with transformers' Auto classes and pipelines.

Our classes are registered when an Auto class first looks up a class, not when the Auto class's module is loaded. This
keeps torch and timm out of `import hf_face`, and no import is in progress at that time: transformers' own modules
import its Auto classes while they load, and our models import those modules.
"""

import importlib
from collections import UserDict
from collections.abc import Sequence
from functools import partial
from types import ModuleType

from .lazy import after_import

# Module of transformers.models.auto -> its mapping to which we add classes.
MAPPINGS = {
    "configuration_auto": "CONFIG_MAPPING",
    "modeling_auto": "MODEL_MAPPING",
    "image_processing_auto": "IMAGE_PROCESSOR_MAPPING",
    "video_processing_auto": "VIDEO_PROCESSOR_MAPPING",
}


class RegisteredClasses(UserDict):
    """
    The classes registered with an Auto class, or the tasks of pipelines. Imports modules that register more of them
    before the first lookup.

    Args:
        registered (`dict`): The classes or tasks registered so far.
        homes (`Sequence[str]`): The modules to import.
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
    """Make the Auto classes import these modules, each of which registers classes, on the first lookup."""
    for module, name in MAPPINGS.items():
        after_import(f"transformers.models.auto.{module}", partial(_replace_registered, name, homes))


def register_pipelines_at_first_look(*homes: str) -> None:
    """Make `pipeline` import these modules, each of which registers tasks, when it first looks for a task."""
    after_import("transformers.pipelines", partial(_replace_tasks, homes))


def _replace_tasks(homes: Sequence[str], module: ModuleType) -> None:
    registry = module.PIPELINE_REGISTRY
    registry.supported_tasks = RegisteredClasses(registry.supported_tasks, homes)


def _replace_registered(name: str, homes: Sequence[str], module: ModuleType) -> None:
    mapping = getattr(module, name)
    mapping._extra_content = RegisteredClasses(mapping._extra_content, homes)
