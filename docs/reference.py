"""
What mkdocs does to pages and docstrings.

On pages, `<!-- api: hf_face.heads -->` becomes the reference of that package's public names, `<!-- table: margins -->`
the table of a registry, and links to files outside of docs/ lead to the page that shows them, or become plain text. In
docstrings, types are written as transformers writes them and [`Name`] is a reference.
"""

import ast
import importlib
import inspect
import re
from types import ModuleType
from typing import Any

from griffe import Attribute, Extension, GriffeError, Module, Object

from hf_face import registry

API = re.compile(r"<!-- api: (\S+) -->")
TABLE = re.compile(r"<!-- table: (\w+) -->")
OUTSIDE = re.compile(r"\[([^\]]+)\]\(\.\./([^)\s]+)\)")
PAGES = {"benchmarks/README.md": "benchmarks.md"}

ARGUMENT = re.compile(r"^(\s+\*{0,2}\w+(?:, \w+)*) \((.*`.*)\):", flags=re.MULTILINE)
EXAMPLE = re.compile(r"^(\s*)Example:\n\s*```python", flags=re.MULTILINE)
REFERENCE = re.compile(r"\[`(~?)([\w.]+)`\](?!\[|\()")


# Pages


def on_page_markdown(markdown: str, **kwargs) -> str:
    markdown = API.sub(lambda match: api(match[1]), markdown)
    markdown = TABLE.sub(lambda match: table(match[1]), markdown)
    return OUTSIDE.sub(lambda match: link(*match.groups()), markdown)


def api(package: str) -> str:
    module = importlib.import_module(package)
    names = [name for name in public_names(module) if callable(getattr(module, name))]
    entries = [f"::: {package}.{name}{options(module, name)}" for name in sorted(names, key=str.lower)]
    return "\n\n".join([plain(inspect.getdoc(module) or ""), *entries])


def options(module: ModuleType, name: str) -> str:
    """Lists with a class what it inherits from bases of its package that no page shows."""
    public = [getattr(module, each) for each in public_names(module)]
    bases = inspect.getmro(getattr(module, name))[1:] if inspect.isclass(getattr(module, name)) else ()
    shown = {base for heir in bases if heir in public for base in inspect.getmro(heir)}
    hidden = [base for base in bases if base.__module__.startswith(module.__name__) and base not in shown]
    members = [member for base in hidden for member, value in vars(base).items() if is_documented(member, value)]
    return f"\n    options:\n      inherited_members: {members}" if members else ""


def is_documented(member: str, value: Any) -> bool:
    can_be = inspect.isroutine(value) or isinstance(value, property)
    return can_be and not member.startswith("_") and bool(value.__doc__)


def public_names(module: ModuleType) -> list[str]:
    """`__all__`, or what the package's own files define."""
    own = [name for name, value in vars(module).items() if str(getattr(value, "__module__", "")).startswith("hf_face")]
    return list(getattr(module, "__all__", None) or [name for name in own if not name.startswith("_")])


def table(name: str) -> str:
    """The names of a registry, those of one class together, and what the class says of itself."""
    names: dict[str, list[str]] = {}
    for entry in getattr(registry, name).values():
        names.setdefault(plain(entry.summary), []).append(f"`{entry.name}`")
    rows = [f"| {', '.join(each)} | {summary} |" for summary, each in names.items()]
    return "\n".join(["| name | |", "|---|---|", *rows])


def plain(summary: str) -> str:
    """A docstring's text as it can stand on a page or in a cell of a table."""
    return REFERENCE.sub(lambda match: f"`{match[2]}`", summary).replace("|", "\\|")


def link(text: str, path: str) -> str:
    return f"[{text}]({PAGES[path]})" if path in PAGES else text


# Docstrings


class Docstrings(Extension):
    """Prepares the docstrings for griffe's Google parser."""

    def on_package(self, *, pkg: Module, **kwargs) -> None:
        self.visit(pkg)

    def visit(self, thing: Object) -> None:
        if thing.docstring is not None:
            thing.docstring.value = translate(thing.docstring.value + helps_of(thing), thing)
        for member in thing.members.values():
            if not member.is_alias:
                self.visit(member)


def helps_of(thing: Object) -> str:
    """The arguments of a dataclass whose fields have a help: `field(metadata={"help": "..."})`."""
    fields = {name: member for name, member in thing.members.items() if isinstance(member, Attribute)}
    helps = [f"    {name}: {text}" for name, field in fields.items() if (text := help_of(field))]
    return "\n".join(["\n\nArgs:", *helps]) if helps else ""


def help_of(field: Attribute) -> str | None:
    for node in ast.walk(ast.parse(str(field.value or None))):
        if isinstance(node, ast.Dict):
            for key, value in zip(node.keys, node.values, strict=True):
                if isinstance(value, ast.Constant) and isinstance(key, ast.Constant) and key.value == "help":
                    return value.value
    return None


def translate(text: str, thing: Object) -> str:
    text = ARGUMENT.sub(lambda match: f"{match[1]} ({plain_type(match[2])}):", text)
    text = EXAMPLE.sub(r"\1**Example**\n\n\1```python", text)
    return REFERENCE.sub(lambda match: reference(match[2], thing, short=bool(match[1])), text)


def plain_type(text: str) -> str:
    """`str` or `Path`, *optional* is str | Path."""
    text = re.sub(r",? ?\*optional\*.*|[\[\]](?=`)|(?<=`)[\[\]]", "", text)
    return re.sub(r"`", "", re.sub(r"`,? or `", " | ", text))


def reference(name: str, thing: Object, short: bool) -> str:
    """A link if the name means something here that has a place on the site; otherwise the name."""
    shown = name.split(".")[-1] if short else name
    try:
        path = name if name.startswith("hf_face.") else thing.resolve(name)
    except GriffeError:
        return f"`{shown}`"
    package, room, *inner = path.split(".")
    if package != "hf_face" or not inner:
        return f"`{shown}`"
    names = public_names(importlib.import_module(f"hf_face.{room}"))
    return f"[`{shown}`][{path}]" if set(inner) & set(names) else f"`{shown}`"
