"""The recipes that travel with the package, and those that somebody keeps in a file."""

import difflib
from pathlib import Path

PACKAGE = Path(__file__).parents[1]
# Beside the package in a checkout, in it where it was installed from a wheel.
FOLDER = next(folder for folder in (PACKAGE / "recipes", PACKAGE.parent / "recipes") if folder.is_dir())


def find_recipe(name: str) -> Path:
    """
    The file of a recipe: a path, or the name of one that travels with hf_face, such as `demo/orl`. Files to launch
    with are found the same way, `accelerate/multi_gpu`.

    Raises:
        FileNotFoundError: there is no such file, and no such recipe.
    """
    for path in (Path(name), FOLDER / name, FOLDER / f"{name}.yaml"):
        if path.is_file():
            return path
    known = recipe_names()
    near = difflib.get_close_matches(name.removeprefix("recipes/").removesuffix(".yaml"), known, n=1)
    hint = f"did you mean {near[0]}?" if near else f"there are {', '.join(known)}, or a YAML file of yours."
    raise FileNotFoundError(f"no such file or recipe: {name}; {hint}")


def recipe_names() -> list[str]:
    """The recipes that travel with hf_face."""
    paths = (path.relative_to(FOLDER).with_suffix("") for path in FOLDER.rglob("*.yaml"))
    return sorted(path.as_posix() for path in paths if path.parts[0] != "accelerate")
