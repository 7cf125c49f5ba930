"""
Numbers that hold where nobody says otherwise, kept in `fixtures/defaults.txt`: defaults of arguments and settings, and
constants.

Recipes, published results and saved models rest on them, so changing one is a decision, which is written down by

    python tests/test_defaults.py > tests/fixtures/defaults.txt
"""

import importlib
import inspect
import pkgutil
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import hf_face

PLAIN = {bool, int, float, str}
ROOMS = ("data", "embedding", "evaluation", "heads", "models", "recognition", "training")


def leaves(value: Any) -> list:
    """The numbers and whatever else is in a value of numbers, lists and mappings."""
    parts = [*value.values()] if isinstance(value, dict) else value
    return [leaf for part in parts for leaf in leaves(part)] if isinstance(parts, list | tuple) else [value]


def numbers(values: Mapping[str, Any]) -> Iterator[str]:
    for name, value in values.items():
        found = leaves(value)
        is_not_ours = name.startswith(("__", "_is_protocol", "_can_set_"))  # Python's, and what transformers caches
        if (
            not is_not_ours
            and {type(leaf) for leaf in found} <= PLAIN
            and any(not isinstance(leaf, str) for leaf in found)
        ):
            yield f"{name} = {value!r}"


def arguments(function: Any) -> Iterator[str]:
    return numbers({p.name: p.default for p in inspect.signature(function).parameters.values()})


def defaults_in(module: Any) -> Iterator[str]:
    """One a line: `margin_head.MarginHead scale = 64.0`."""
    name = module.__name__.removeprefix("hf_face.")
    source = inspect.getsource(module)
    assigned = set(re.findall(r"^(\w+)(?:: .*)? = ", source, re.MULTILINE))  # not imported
    own = {key: value for key, value in vars(module).items() if key in assigned}
    yield from (f"{name} {number}" for number in numbers(own))
    for key, thing in vars(module).items():
        if getattr(thing, "__module__", None) != module.__name__ or key.startswith("_"):
            continue
        members = vars(thing) if inspect.isclass(thing) else {}
        yield from (f"{name}.{key} {number}" for number in numbers(members))
        for function_name, member in {"": thing, **members}.items():
            function = getattr(member, "__func__", member)
            if inspect.isfunction(function) and function.__code__.co_filename == module.__file__:
                where = ".".join(filter(None, (name, key, function_name.removeprefix("__init__"))))
                yield from (f"{where} {number}" for number in arguments(function))


def all_defaults() -> list[str]:
    found = {}  # in order, without what a module imports
    for info in pkgutil.walk_packages(hf_face.__path__, "hf_face."):
        if info.name.split(".")[1] in ROOMS:
            found |= dict.fromkeys(defaults_in(importlib.import_module(info.name)))
    return list(found)


def test_defaults_are_as_they_were(fixtures: Path):
    kept, found = (fixtures / "defaults.txt").read_text().splitlines(), all_defaults()
    changes = [f"+ {line}" for line in found if line not in kept] + [f"- {line}" for line in kept if line not in found]
    assert not changes, "If they are meant, run `python tests/test_defaults.py > tests/fixtures/defaults.txt`"


if __name__ == "__main__":
    print(*all_defaults(), sep="\n")
