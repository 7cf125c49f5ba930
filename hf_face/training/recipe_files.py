"""Finding recipes, in the package or in files."""

import difflib
from pathlib import Path

PACKAGE = Path(__file__).parents[1]
# Next to the package in a checkout, inside it when installed from a wheel.
FOLDER = next(folder for folder in (PACKAGE / "recipes", PACKAGE.parent / "recipes") if folder.is_dir())


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
    near = difflib.get_close_matches(name.removeprefix("recipes/").removesuffix(".yaml"), known, n=1)
    hint = f"did you mean {near[0]}?" if near else f"expected one of {', '.join(known)}, or a YAML file."
    raise FileNotFoundError(f"no such file or recipe: {name}; {hint}")


def recipe_names() -> list[str]:
    """The recipes included in hf_face."""
    paths = (path.relative_to(FOLDER).with_suffix("") for path in FOLDER.rglob("*.yaml"))
    return sorted(path.as_posix() for path in paths if path.parts[0] != "accelerate")
