"""What people type: YAML, and checks of names, outputs and counts before anything slow starts."""

import difflib
import os
import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, TextIO

import yaml

HUB_NAME = re.compile(r"\w[\w.-]*/\w[\w.-]*")  # org/name
FILE_SUFFIXES = (
    *(".bin", ".csv", ".gz", ".json", ".npz", ".onnx", ".parquet", ".pt", ".pth", ".rec", ".safetensors", ".tar"),
    *(".tgz", ".txt", ".yaml", ".yml", ".zip"),
)


class YamlLoader(yaml.SafeLoader):
    """YAML as safe as PyYAML's, but with the numbers of YAML 1.2: `4e-1` is text in YAML 1.1."""


YamlLoader.add_implicit_resolver(
    "tag:yaml.org,2002:float",
    re.compile(r"[-+]?(?:[0-9]+(?:\.[0-9]*)?|\.[0-9]+)[eE][-+]?[0-9]+"),
    list("-+.0123456789"),
)


def parse_yaml(text: str | TextIO) -> Any:
    """Parse YAML of a person, from text or a file; errors have the file's name."""
    return yaml.load(text, YamlLoader)


def may_be_on_hub(name: str | Path) -> bool:
    """
    Whether a name that does not exist here may be `org/name` on the Hub, and not a mistyped path: it has no suffix of a
    file, and there is no `org` here.
    """
    text = str(name)
    is_path = has_file_suffix(text) or Path(text).parent.exists()
    return HUB_NAME.fullmatch(text) is not None and not is_path


def has_file_suffix(name: str | Path) -> bool:
    """Whether a name is that of a file of a known format, rather than of a folder."""
    return str(name).lower().endswith(FILE_SUFFIXES)


def check_exists(name: str | Path) -> None:
    """
    Raises:
        FileNotFoundError: if `name` is not an existing file or folder and cannot be on the Hub.
    """
    if not Path(name).exists() and not may_be_on_hub(name):
        raise FileNotFoundError(no_such_file(name))


def no_such_file(name: str | Path) -> str:
    """The message for a missing file or folder, with the existing name that is most similar."""
    missing = Path(name)
    while not missing.parent.exists():
        missing = missing.parent
    known = os.listdir(missing.parent) if missing.parent.is_dir() else []
    near = difflib.get_close_matches(missing.name, known, n=1)
    hint = f". Did you mean {str(missing.with_name(near[0]))!r}?" if near else ""
    return f"no such file or folder: {name}{hint}"


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """ " Did you mean 'train'?", or empty if no known name is similar."""
    near = difflib.get_close_matches(name, known, n=1)
    return f" Did you mean {near[0]!r}?" if near else ""


def check_path(path: str | Path) -> None:
    """
    Raises:
        FileNotFoundError: if the file or folder does not exist.
    """
    if not Path(path).exists():
        raise FileNotFoundError(no_such_file(path))


def check_folder(path: str | Path) -> None:
    """
    Raises:
        FileNotFoundError: if the folder does not exist.
        NotADirectoryError: if it is a file.
    """
    check_path(path)
    if not Path(path).is_dir():
        raise NotADirectoryError(f"{path} is a file, but a folder is needed")


def check_output_file(path: str | Path, suffixes: Sequence[str] = ()) -> None:
    """
    Raises:
        ValueError: if the file cannot be written: it is a folder, has none of the suffixes, or its folder is a file or
            not writable.
    """
    path = Path(path)
    if path.is_dir():
        raise ValueError(f"{path} is a folder: name a file to write in it")
    if suffixes and path.suffix.lower() not in suffixes:
        raise ValueError(f"{path} must end in {' or '.join(suffixes)}, the format that is written")
    _check_writable(path, path.parent)


def check_output_folder(path: str | Path) -> None:
    """
    Raises:
        ValueError: if the folder cannot be made or written to.
    """
    _check_writable(Path(path), Path(path))


def check_new_folder(path: str | Path) -> None:
    """
    Raises:
        ValueError: if the folder is not empty or cannot be written.
    """
    check_output_folder(path)
    if Path(path).exists() and any(Path(path).iterdir()):
        raise ValueError(f"{path} is not empty: name a new folder to write to")


def check_outside(output: str | Path, source: str | Path) -> None:
    """
    Raises:
        ValueError: if an output folder lies in the folder that is read, where the next run would read it, too.
    """
    if Path(output).resolve().is_relative_to(Path(source).resolve()):
        raise ValueError(
            f"the output folder {output} lies in {source}, where the next run would take it for images. Write to a "
            "folder outside it"
        )


def _check_writable(path: Path, folder: Path) -> None:
    existing = folder.absolute()
    while not existing.exists():
        existing = existing.parent
    if not existing.is_dir():
        raise ValueError(f"{path} cannot be written to: {existing} is a file, not a folder")
    if not os.access(existing, os.W_OK):
        raise ValueError(f"{path} cannot be written to: no permission to write to {existing}")


def check_at_least(least: int, **counts: int | None) -> None:
    """
    Raises:
        ValueError: if a count is below `least`; the message has its name.
    """
    for name, count in counts.items():
        if count is not None and count < least:
            raise ValueError(f"{name} must be at least {least}, found {count}")
