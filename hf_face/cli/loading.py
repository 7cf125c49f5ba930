"""Checks that models and data exist, before anything slow starts."""

from argparse import ArgumentParser, Namespace
from pathlib import Path
from typing import Any

from huggingface_hub import snapshot_download
from huggingface_hub.errors import GatedRepoError, LocalEntryNotFoundError, RepositoryNotFoundError
from transformers.utils import CONFIG_NAME

from ..files import check_own_files, check_weights
from ..user_input import check_exists, no_such_file


def check_model(name: str) -> None:
    """
    Raises:
        FileNotFoundError: if `name` does not exist locally or on the Hub, or is not a model folder.
        ValueError: if it is a file, its settings or weights are damaged, or it refers to files elsewhere.
    """
    path = Path(name)
    if path.is_file() and (path.parent / CONFIG_NAME).is_file():
        raise ValueError(f"{name} is a file, but a model is a folder: pass {path.parent}.")
    if path.is_file():
        raise ValueError(
            f"{name} is a file, but a model is a folder: convert it with `hf-face convert {name} my-model`."
        )
    if path.is_dir() and not (path / CONFIG_NAME).is_file():
        raise FileNotFoundError(f"{name} has no {CONFIG_NAME}: it is not a model folder.")
    if path.is_dir():
        check_own_files(path)
        for weights in path.glob("*.safetensors"):
            check_weights(weights)
    check_exists_or_on_hub(name, "model")


def check_data(*names: str | None) -> None:
    """
    Check data by their names, of which None are optional ones that were not given.

    Raises:
        FileNotFoundError: if a name is neither a path, a dataset on the Hub nor `orl`.
    """
    for name in names:
        if name is not None and name != "orl":
            check_exists_or_on_hub(name, "dataset")


def check_exists_or_on_hub(name: str, repo_type: str) -> None:
    """
    Raises:
        FileNotFoundError: if the path does not exist, and the Hub has no such repository or cannot be reached.
        GatedRepoError: if access to the repository has to be requested.
    """
    check_exists(name)
    if Path(name).exists():
        return
    try:
        snapshot_download(name, repo_type=repo_type, allow_patterns=[CONFIG_NAME])
    except GatedRepoError:  # a RepositoryNotFoundError that says where to request access
        raise
    except RepositoryNotFoundError as error:
        raise FileNotFoundError(
            f"{no_such_file(name)}\n"
            f"There is no such {repo_type} on the Hub either; a private one requires `hf auth login`."
        ) from error
    except LocalEntryNotFoundError as error:
        raise FileNotFoundError(
            f"{no_such_file(name)}\nThe Hub could not be reached to look for such a {repo_type}."
        ) from error


def load_face_pipeline(args: Namespace, task: str = "face-embedding") -> Any:
    """The pipeline of `--model`, which is checked first, or of the default one."""
    if args.model is not None:
        check_model(args.model)

    from transformers import pipeline

    from ..pipelines import default_model

    return pipeline(  # type: ignore[call-overload]  # lists the tasks of transformers only
        task, model=args.model or str(default_model()), trust_remote_code=args.trust_remote_code
    )


def add_pipeline_options(parser: ArgumentParser) -> None:
    """What commands that take photographs share."""
    parser.add_argument("--json", action="store_true", help="Print the answer as JSON.")
    parser.add_argument(
        "--trust_remote_code",
        action="store_true",
        help="Run the Python code in the model folder; only for authors you trust.",
    )
