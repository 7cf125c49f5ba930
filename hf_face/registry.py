"""Everything that recipes call by a name: margins, backbone families, protocols, methods, sources, augmentations.

A class enters its registry by a decorator that stands at the class, with its name, its citation and its options:

    from hf_face.registry import margins

    @margins.register("cosface", citation="@inproceedings{cosface, ...}")
    class CosFaceMargin(Margin):
        ...

Code outside this package does the same, in a module that a recipe lists under `plugins:`. Tables in the documentation
and the citations of model cards are made from the registries.
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
        name (`str`): What recipes call it.
        target (`Callable`): The class, or a function that builds the object.
        citations (`tuple[str, ...]`): BibTeX entries of what it implements.
        presets (`dict[str, Any]`): Options that this name fixes, where one class has several names.
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
        """The object with these options.

        Raises:
            ValueError: for an option that it does not have.
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
    Classes of one kind by the names that recipes use.

    Args:
        kind (`str`): What they are, for error messages.
        home (`str`): The module of this package that registers its own classes when it is imported.
    """

    def __init__(self, kind: str, home: str):
        self.kind = kind
        self._home = home
        self._entries: dict[str, Entry] = {}

    def register(self, name: str, /, *, citation: str | Sequence[str] = (), **presets) -> Callable:
        """
        Decorator that gives a class a name; several may stand above one class.

        Args:
            name (`str`): What recipes call it.
            citation (`str` or sequence of `str`, *optional*): BibTeX entries of what it implements.
            presets: Options that this name fixes.

        Raises:
            ValueError: if another class has this name.
        """

        def add(target: Callable) -> Callable:
            known = self._entries.get(name)
            if known is not None and known.target.__qualname__ != target.__qualname__:
                raise ValueError(
                    f"The {self.kind} {name!r} is {known.target.__qualname__} already; choose another name."
                )
            citations = (citation,) if isinstance(citation, str) else tuple(citation)
            self._entries[name] = Entry(name, target, citations, presets)
            return target

        return add

    def __getitem__(self, name: str) -> Entry:
        self._import_home()
        if name not in self._entries:
            near = difflib.get_close_matches(name, self._entries, n=1)
            hint = f"Did you mean {near[0]!r}?" if near else f"There are: {', '.join(self._entries)}."
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
        The object that a recipe describes as `name` or `{name: {option: value}}`.

        Args:
            spec: The name, alone or with options.
            context: Options that do not come from the recipe.

        Raises:
            ValueError: for a name that is not known, or an option that the class does not have.
        """
        name, options = parse_spec(spec, self.kind)
        return self[name].build(**context, **options)

    def entry_of(self, instance: object) -> Entry | None:
        """The entry of an object's class, the first one where the class has several names."""
        return next((entry for entry in self.values() if entry.target is type(instance)), None)

    def _import_home(self) -> None:
        importlib.import_module(self._home)


class UnknownNameError(KeyError, ValueError):
    """A name that no class is registered under."""

    def __str__(self) -> str:  # KeyError would show the message quoted
        return self.args[0]


def parse_spec(spec: Spec, kind: str) -> tuple[str, dict[str, Any]]:
    """Name and options of `name` or `{name: {option: value}}`."""
    if isinstance(spec, str):
        return spec, {}
    if isinstance(spec, Mapping) and len(spec) == 1:
        ((name, options),) = spec.items()
        if options is None or isinstance(options, Mapping):
            return name, dict(options or {})
    raise ValueError(f"Expected the {kind} as a name or as {{name: {{option: value}}}}, found {spec!r}.")


def load_plugins(modules: Sequence[str]) -> None:
    """
    Import modules that register classes of their own.

    Raises:
        ValueError: if a module cannot be found.
    """
    for module in modules:
        try:
            importlib.import_module(module)
        except ModuleNotFoundError as error:
            if error.name is None or not module.startswith(error.name):
                raise  # the plugin itself lacks something
            raise ValueError(
                f"The plugin {module!r} cannot be imported: {error}. Install it, or put its folder on PYTHONPATH."
            ) from error


def import_modules(package: str) -> None:
    """Import every module of a package that is being imported, so that their classes register themselves."""
    for module in pkgutil.iter_modules(sys.modules[package].__path__):
        importlib.import_module(f"{package}.{module.name}")


def citation_key(bibtex: str) -> str:
    """The key of a BibTeX entry: "arcface" of "@inproceedings{arcface, ...}"."""
    match = re.match(r"@\w+\s*\{\s*([^,\s]+)", bibtex.strip())
    if match is None:
        raise ValueError(f"Not a BibTeX entry: {bibtex[:60]!r}")
    return match[1]


def known_citations() -> dict[str, str]:
    """Every registered BibTeX entry by its key."""
    entries = (bibtex for registry in REGISTRIES for entry in registry.values() for bibtex in entry.citations)
    return {citation_key(bibtex): bibtex.strip() for bibtex in entries}


margins = Registry("margin", "hf_face.heads.margins")
families = Registry("backbone family", "hf_face.models.families")
protocols = Registry("protocol", "hf_face.evaluation")
methods = Registry("training method", "hf_face.training.methods")
sources = Registry("checkpoint source", "hf_face.convert")
augmentations = Registry("augmentation", "hf_face.data.augmentation")

REGISTRIES = (margins, families, protocols, methods, sources, augmentations)
