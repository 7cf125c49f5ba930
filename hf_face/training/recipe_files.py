"""Finding and reading recipes, in the package or in files, with those that they extend."""

import difflib
from collections.abc import Sequence
from importlib.resources import files
from pathlib import Path
from typing import Any

from ..user_input import parse_yaml

PACKAGE = Path(str(files("hf_face")))
# Next to the package in a checkout, inside it when installed from a wheel.
FOLDER = next(folder for folder in (PACKAGE / "recipes", PACKAGE.parent / "recipes") if folder.is_dir())
EXTENDS = "extends"

Fields = dict[str, Any]


def find_recipe(name: str) -> Path:
    """
    Find the file of a recipe: a path, or the name of one included in hf_face, such as `demo/orl`. Launch configurations
    are found the same way, such as `accelerate/multi_gpu`.

    Raises:
        FileNotFoundError: if there is no such file or recipe.
    """
    for path in (Path(name), FOLDER / name, FOLDER / f"{name}.yaml"):
        if path.is_file():
            return path
    known = recipe_names()
    near = difflib.get_close_matches(name.removeprefix("recipes/").removesuffix(".yaml"), known)
    hint = f"did you mean {near[0]}?" if near else "`hf-face recipes` lists those of hf_face; or name a YAML file."
    raise FileNotFoundError(f"no such file or recipe: {name}; {hint}")


def recipe_names() -> list[str]:
    """The recipes included in hf_face, without the parts that they share, whose names start with an underscore."""
    paths = (path.relative_to(FOLDER).with_suffix("") for path in FOLDER.rglob("*.yaml"))
    return sorted(
        path.as_posix()
        for path in paths
        if path.parts[0] != "accelerate" and not any(part.startswith("_") for part in path.parts)
    )


def read_recipe(path: Path) -> Fields:
    """
    Read the fields of a recipe, with those of the recipes that it extends.

    Raises:
        FileNotFoundError: if it extends a recipe that does not exist.
        ValueError: if it extends itself, or a file is not a mapping.
    """
    return merge([fields for _, fields in read_layers(path)])


def read_layers(path: Path, within: Sequence[Path] = ()) -> list[tuple[Path, Fields]]:
    """
    Read the files of a recipe, each with its own fields: those that it `extends` in their order, and itself last.

    Args:
        path: the recipe.
        within: the recipes that extend it, the outermost first.

    Raises:
        FileNotFoundError: if it extends a recipe that does not exist.
        ValueError: if it extends itself, or a file is not a mapping.
    """
    chain = [*within, path]
    if any(path.samefile(other) for other in within):
        raise ValueError(f"{path} extends itself: {' -> '.join(each.name for each in chain)}.")
    with path.open(encoding="utf-8") as file:
        fields = parse_yaml(file)
    if not isinstance(fields, dict):
        raise ValueError(f"{path} must have one field per line, `name: value`.")
    bases = fields.pop(EXTENDS, [])
    bases = [bases] if isinstance(bases, str) else bases
    if not isinstance(bases, list) or not all(isinstance(base, str) for base in bases):
        raise ValueError(f"{path}: {EXTENDS} must be the name of a recipe or a list of names, found {bases!r}.")
    inherited = [layer for base in bases for layer in read_layers(find_base(base, path), chain)]
    return [*inherited, (path, fields)]


def find_base(name: str, path: Path) -> Path:
    """
    Find a recipe that the one at `path` extends: a file relative to it, or a recipe of hf_face.

    Raises:
        FileNotFoundError: if there is neither.
    """
    places = (path.parent, FOLDER)
    for base in (place / f"{name}{suffix}" for place in places for suffix in ("", ".yaml")):
        if base.is_file():
            return base
    known = [file.relative_to(place).as_posix() for place in places for file in place.rglob("*.yaml")]
    near = difflib.get_close_matches(name, known)
    hint = f" Did you mean {near[0]!r}?" if near else ""
    raise FileNotFoundError(
        f"{path} extends {name!r}, which is neither a file relative to {path.parent} nor a recipe of hf_face.{hint}"
    )


def merge(layers: Sequence[Fields]) -> Fields:
    """Merge the fields of several recipes. Later ones win; mappings in them are merged in turn, lists replaced."""
    merged: Fields = {}
    for fields in layers:
        for name, value in fields.items():
            both = isinstance(value, dict) and isinstance(merged.get(name), dict)
            merged[name] = merge([merged[name], value]) if both else value
    return merged
