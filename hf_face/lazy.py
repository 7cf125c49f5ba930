"""Keeps `import hf_face` light: names that are imported on first use, and callbacks that wait for another import."""

import ast
import importlib
import importlib.abc
import pkgutil
import re
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from types import ModuleType


def lazy_names(package: str, homes: Mapping[str, str]) -> tuple[Callable, Callable, list[str]]:
    """
    Return `__getattr__`, `__dir__` and `__all__` for a package that imports its names on first use.

    Args:
        package (`str`): The package's `__name__`.
        homes (`Mapping[str, str]`): The module that defines each name.
    """
    module = sys.modules[package]
    submodules = {found.name for found in pkgutil.iter_modules(module.__path__)}

    def __getattr__(name: str):
        if name in homes:
            value = getattr(importlib.import_module(f".{homes[name]}", package), name)
            setattr(module, name, value)
            return value
        if name in submodules:
            return importlib.import_module(f".{name}", package)
        raise AttributeError(f"module {package!r} has no attribute {name!r}")

    def __dir__():
        return sorted({*vars(module), *homes, *submodules})

    return __getattr__, __dir__, list(homes)


def names_of_files(package: str) -> dict[str, str]:
    """Map the names in the `__all__` of a package's files to their modules, without importing any file."""
    homes: dict[str, str] = {}
    for file in sorted(Path(sys.modules[package].__path__[0]).glob("*.py")):
        if listed := re.search(r"^__all__ = (\[.*?\])", file.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL):
            homes |= dict.fromkeys(ast.literal_eval(listed[1]), file.stem)
    return homes


def after_import(name: str, callback: Callable[[ModuleType], None]) -> None:
    """
    Call back with a module once it is loaded: immediately if it already is, otherwise at the end of its import.

    Args:
        name (`str`): Full name of the module.
        callback (`Callable`): Takes the module. It must not import anything: modules that import this one are only
            partially initialized.
    """
    _FINDER.callbacks.setdefault(name, []).append(callback)
    if name in sys.modules:
        callback(importlib.import_module(name))  # waits for a thread that is still importing it


class _CallingFinder(importlib.abc.MetaPathFinder):
    """Finds modules with registered callbacks through Python's other finders, and calls back when they are loaded."""

    def __init__(self):
        self.callbacks: dict[str, list[Callable[[ModuleType], None]]] = {}

    def find_spec(self, fullname, path, target=None):
        if fullname not in self.callbacks:
            return None
        specs = (finder.find_spec(fullname, path, target) for finder in sys.meta_path if finder is not self)
        spec = next(filter(None, specs), None)
        if spec is not None:
            load = spec.loader.exec_module

            def load_and_call(module: ModuleType) -> None:
                load(module)
                for callback in self.callbacks[fullname]:
                    callback(module)

            spec.loader.exec_module = load_and_call  # type: ignore[method-assign]
        return spec


_FINDER = _CallingFinder()
sys.meta_path.insert(0, _FINDER)
