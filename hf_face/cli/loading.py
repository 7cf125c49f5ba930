"""Whether there is what somebody named, asked before anything slow begins."""

import re
from pathlib import Path

from huggingface_hub import snapshot_download
from huggingface_hub.errors import GatedRepoError, LocalEntryNotFoundError, RepositoryNotFoundError
from transformers.utils import CONFIG_NAME


def check_model(name: str) -> None:
    """
    Raises:
        FileNotFoundError: if nothing is called `name`, on this machine or on the Hub, or the folder is not a model's.
        ValueError: if it is a file.
    """
    path = Path(name)
    if path.is_file() and (path.parent / CONFIG_NAME).is_file():
        raise ValueError(f"{name} is a file, and a model is a folder: give {path.parent}.")
    if path.is_file():
        raise ValueError(f"{name} is a file, and a model is a folder: make one, hf-face convert {name} my-model")
    if path.is_dir() and not (path / CONFIG_NAME).is_file():
        raise FileNotFoundError(f"{name} has no {CONFIG_NAME}: it is not a model folder.")
    check_exists(name, "model")


def check_data(*names: str) -> None:
    """
    Raises:
        FileNotFoundError: if something is neither a path nor a dataset on the Hub, nor `orl`.
    """
    for name in names:
        if name != "orl":
            check_exists(name, "dataset")


def check_exists(name: str, repo_type: str) -> None:
    """
    Raises:
        FileNotFoundError: if there is no such path, and the Hub has no such repository, or could not be asked.
        GatedRepoError: if the repository is there, and access has to be asked for.
    """
    if Path(name).exists():
        return
    if not re.fullmatch(r"[\w.-]+/[\w.-]+", name):
        raise FileNotFoundError(f"no such file or folder: {name}")
    try:
        snapshot_download(name, repo_type=repo_type, allow_patterns=[CONFIG_NAME])
    except GatedRepoError:
        raise
    except RepositoryNotFoundError as error:
        raise FileNotFoundError(
            f"no such file or folder: {name}\n"
            f"Nor has the Hub a {repo_type} of this name; a private one asks for `hf auth login`."
        ) from error
    except LocalEntryNotFoundError as error:
        raise FileNotFoundError(
            f"no such file or folder: {name}\nThe Hub could not be asked for a {repo_type} of this name."
        ) from error
