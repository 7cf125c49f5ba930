"""Registries of the classes that recipes refer to by name: margins, backbone families, protocols and others.

A decorator registers a class under a name, with its citation and options:

    from hf_face.registry import margins

    @margins.register("cosface", citation="@inproceedings{cosface, ...}")
    class CosFaceMargin(Margin):
        ...

Code outside this package does the same in a module listed under a recipe's `plugins:`. The tables in the documentation
and the citations in model cards are generated from the registries.
"""

import difflib
import importlib
import inspect
import pkgutil
import re
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

Spec = str | Mapping[str, Mapping[str, Any] | None]


@dataclass(frozen=True)
class Entry:
    """
    A registered class.

    Args:
        name (`str`): Its name in recipes.
        target (`Callable`): The class, or a function that builds the object.
        citations (`tuple[str, ...]`): BibTeX entries of the papers it implements.
        presets (`dict[str, Any]`): Options fixed by this name, for a class with several names.
    """

    name: str
    target: Callable[..., Any]
    citations: tuple[str, ...] = ()
    presets: Mapping[str, Any] = field(default_factory=dict)

    @property
    def summary(self) -> str:
        """First paragraph of the class's docstring."""
        return inspect.cleandoc(self.target.__doc__ or "").split("\n\n")[0].replace("\n", " ")

    def build(self, **options) -> Any:
        """Build the object with these options.

        Raises:
            ValueError: for an unknown option.
        """
        options = {**self.presets, **options}
        try:
            inspect.signature(self.target).bind(**options)
        except TypeError as error:
            known = ", ".join(inspect.signature(self.target).parameters) or "none"
            raise ValueError(f"{self.name!r}: {error}; its options are: {known}") from None
        return self.target(**options)


class Registry(Mapping[str, Entry]):
    """
    Classes of one kind, keyed by their names in recipes.

    Args:
        kind (`str`): The kind, for error messages.
        home (`str`): The module of this package that registers the built-in classes on import.
    """

    def __init__(self, kind: str, home: str):
        self.kind = kind
        self._home = home
        self._entries: dict[str, Entry] = {}

    def register(self, name: str, /, *, citation: str | Sequence[str] = (), **presets) -> Callable:
        """
        Decorator that registers a class under a name. A class can have several names.

        Args:
            name (`str`): Its name in recipes.
            citation (`str` or sequence of `str`, *optional*): BibTeX entries of the papers it implements.
            presets: Options fixed by this name.

        Raises:
            ValueError: if another class is already registered under this name.
        """

        def add(target: Callable) -> Callable:
            known = self._entries.get(name)
            if known is not None and is_remote_code(target):
                return target  # a copy that travels with published weights; the class itself is here
            if known is not None and known.target.__qualname__ != target.__qualname__:
                raise ValueError(
                    f"The {self.kind} {name!r} is already registered as {known.target.__qualname__}; choose another "
                    "name."
                )
            citations = (citation,) if isinstance(citation, str) else tuple(citation)
            self._entries[name] = Entry(name, target, citations, presets)
            return target

        return add

    def __getitem__(self, name: str) -> Entry:
        self._import_home()
        if name not in self._entries:
            longer = [known for known in self._entries if known.startswith(name)]
            near = longer or difflib.get_close_matches(name, self._entries, n=1)
            hint = f"Did you mean {near[0]!r}?" if near else f"Available: {', '.join(self._entries)}."
            raise UnknownNameError(f"No {self.kind} is called {name!r}. {hint}")
        return self._entries[name]

    def __iter__(self) -> Iterator[str]:
        self._import_home()
        return iter(self._entries)

    def __len__(self) -> int:
        self._import_home()
        return len(self._entries)

    def build(self, spec: Spec, **context) -> Any:
        """
        Build the object that a recipe specifies as `name` or `{name: {option: value}}`.

        Args:
            spec: The name, alone or with options.
            context: Options that do not come from the recipe.

        Raises:
            ValueError: for an unknown name or option.
        """
        name, options = parse_spec(spec, self.kind)
        return self[name].build(**context, **options)

    def entry_of(self, instance: object) -> Entry | None:
        """The entry of an object's class; the first one if the class has several names."""
        return next((entry for entry in self.values() if entry.target is type(instance)), None)

    def _import_home(self) -> None:
        importlib.import_module(self._home)


def is_remote_code(target: Callable) -> bool:
    """Whether a class comes from a file that transformers loaded with `trust_remote_code`."""
    return target.__module__.startswith("transformers_modules.")


class UnknownNameError(KeyError, ValueError):
    """Raised for a name under which no class is registered."""

    def __str__(self) -> str:  # KeyError would show the message quoted
        return self.args[0]


def parse_spec(spec: Spec, kind: str) -> tuple[str, dict[str, Any]]:
    """Split `name` or `{name: {option: value}}` into name and options."""
    if isinstance(spec, str):
        return spec, {}
    if isinstance(spec, Mapping) and len(spec) == 1:
        ((name, options),) = spec.items()
        if options is None or isinstance(options, Mapping):
            return name, dict(options or {})
    raise ValueError(f"Expected the {kind} as a name or as {{name: {{option: value}}}}, found {spec!r}.")


def load_plugins(modules: Sequence[str]) -> None:
    """
    Import modules that register their own classes.

    Raises:
        ValueError: if a module cannot be found.
    """
    for module in modules:
        try:
            importlib.import_module(module)
        except ModuleNotFoundError as error:
            if error.name is None or not module.startswith(error.name):
                raise  # the plugin exists, but one of its own imports is missing
            raise ValueError(
                f"The plugin {module!r} cannot be imported: {error}. Install it, or add its folder to PYTHONPATH."
            ) from error


def import_modules(package: str) -> None:
    """Import every module of a package that is being imported, so that their classes register themselves."""
    for module in pkgutil.iter_modules(sys.modules[package].__path__):
        importlib.import_module(f"{package}.{module.name}")


def citation_key(bibtex: str) -> str:
    """The key of a BibTeX entry: "arcface" for "@inproceedings{arcface, ...}"."""
    match = re.match(r"@\w+\s*\{\s*([^,\s]+)", bibtex.strip())
    if match is None:
        raise ValueError(f"Not a BibTeX entry: {bibtex[:60]!r}")
    return match[1]


def known_citations() -> dict[str, str]:
    """All registered BibTeX entries, by key."""
    entries = (bibtex for registry in REGISTRIES for entry in registry.values() for bibtex in entry.citations)
    return {citation_key(bibtex): bibtex.strip() for bibtex in entries}


margins = Registry("margin", "hf_face.heads.margins")
families = Registry("backbone family", "hf_face.models.families")
protocols = Registry("protocol", "hf_face.evaluation")
methods = Registry("training method", "hf_face.training.methods")
sources = Registry("checkpoint source", "hf_face.convert")
augmentations = Registry("augmentation", "hf_face.data.augmentation")

REGISTRIES = (margins, families, protocols, methods, sources, augmentations)
