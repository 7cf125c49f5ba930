"""Datasets, metrics and other Spaces on the Hub."""

import re
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pyarrow
import pyarrow.parquet
from huggingface_hub import (
    CommitInfo,
    CommitOperationAdd,
    CommitOperationDelete,
    DatasetCard,
    HfApi,
    RepoCard,
    SpaceCard,
)
from huggingface_hub.utils import DEFAULT_IGNORE_PATTERNS, filter_repo_objects

from ..data import VerificationPairs
from ..files import file_inside
from .model_card import LICENSES
from .publishing import full_name

LEFT_OVER = {".unfinished", ".pyc"}  # from interrupted conversions; from Python
SHARD_NUMBER = re.compile(r"-\d+-of-\d+\.parquet")


def push_dataset(
    data: str | Path | VerificationPairs,
    repo_id: str,
    *,
    license: str | None = None,
    private: bool | None = None,
    token: str | None = None,
    commit_message: str = "Publish dataset",
) -> CommitInfo:
    """
    Publish verification pairs, or a folder of Parquet files with its card as written by `scripts/convert_dataset.py`,
    in one commit. Retrying an interrupted push does not upload files again that already arrived.

    Args:
        data: The pairs, or a folder of Parquet files and `README.md`.
        repo_id: `org/name`, or `name` for your own namespace.
        license: License of the data, one of the Hub's identifiers, which is written into the card. Optional if the card
            has a license.
        private: Visibility of a new repository.
        token: Defaults to the token stored by `hf auth login`, or `HF_TOKEN`.
        commit_message: Title of the commit.

    Returns:
        `CommitInfo`: with `commit_url` and `oid`.

    Raises:
        FileNotFoundError: if there is no card or no Parquet file.
        ValueError: if there is no license, or a Parquet file is incomplete.
        huggingface_hub.errors.LocalTokenNotFoundError: if not logged in.
        huggingface_hub.errors.HfHubHTTPError: if the token is invalid (401) or lacks permission (403).
    """
    if isinstance(data, VerificationPairs):
        with TemporaryDirectory() as folder:
            return push_dataset(
                data.to_parquet(folder),
                repo_id,
                license=license,
                private=private,
                token=token,
                commit_message=commit_message,
            )
    folder = Path(data)
    card = _load_card(folder, DatasetCard)
    shards = sorted(folder.rglob("*.parquet"))
    if not shards:
        raise FileNotFoundError(f"{folder} has no Parquet files.")
    for shard in shards:
        try:
            pyarrow.parquet.read_metadata(shard)
        except pyarrow.ArrowInvalid as error:
            raise ValueError(f"{shard} is not a complete Parquet file: {error}") from error
    card.data.license = license or card.data.license
    check_license(card.data.license)
    card.save(folder / "README.md")
    return _push_folder(folder, repo_id, card, token, private, commit_message)


def check_license(license: str | None) -> None:
    """
    Raises:
        ValueError: if `license` is not one of the Hub's identifiers.
    """
    if license not in LICENSES:
        raise ValueError(
            "State the license of the data with one of the Hub's identifiers such as license='cc-by-4.0', 'other' or "
            f"'unknown'; found {license!r}."
        )


def push_metric(
    folder: str | Path,
    repo_id: str,
    *,
    private: bool | None = None,
    token: str | None = None,
    commit_message: str = "Publish metric",
) -> CommitInfo:
    """
    Publish an `evaluate` metric as a Space, which can be loaded with `evaluate.load(repo_id)`.

    Args:
        folder: Folder of the metric's module, with the same name, `app.py`, `requirements.txt` and `README.md`.
        repo_id: `org/name`, with the name of the module.
        private, token, commit_message: As for [`push_dataset`].

    Raises:
        FileNotFoundError: if one of these files is missing.
        ValueError: if the name differs from the module's, so that `evaluate` would not find it.
    """
    folder = Path(folder).resolve()
    for name in (f"{folder.name}.py", "requirements.txt"):
        if not (folder / name).is_file():
            raise FileNotFoundError(f"{folder} has no {name}, which a metric's Space requires.")
    if repo_id.split("/")[-1] != folder.name:
        raise ValueError(
            f"evaluate looks for a module with the name of the Space: push to '.../{folder.name}', not {repo_id!r}."
        )
    return push_space(folder, repo_id, private=private, token=token, commit_message=commit_message)


def push_space(
    folder: str | Path,
    repo_id: str,
    *,
    private: bool | None = None,
    token: str | None = None,
    commit_message: str = "Publish Space",
) -> CommitInfo:
    """
    Publish a folder as a Space, in one commit.

    Args:
        folder: The Space's files. `README.md` is its card, with `sdk` and `app_file`, the file it starts from.
        repo_id: `org/name`, or `name` for your own namespace.
        private, token, commit_message: As for [`push_dataset`].

    Raises:
        FileNotFoundError: if the folder has no card, or not the file that the card names.
    """
    folder = Path(folder)
    card = _load_card(folder, SpaceCard)
    app_file = card.data.app_file or "app.py"
    if not (folder / app_file).is_file():
        raise FileNotFoundError(f"{folder} has no {app_file}: name the file it starts from in README.md, as app_file.")
    return _push_folder(folder, repo_id, card, token, private, commit_message)


def _load_card(folder: Path, card_class: type[RepoCard]) -> Any:
    if not (folder / "README.md").is_file():
        raise FileNotFoundError(f"{folder} has no README.md, the card of the {card_class.repo_type}.")
    return card_class.load(folder / "README.md")


def _push_folder(
    folder: Path, repo_id: str, card: Any, token: str | None, private: bool | None, commit_message: str
) -> CommitInfo:
    """Push a folder. Unlike for models, a new repository is kept on errors, to not upload files again on a retry."""
    names = [path.relative_to(folder).as_posix() for path in sorted(folder.rglob("*")) if path.is_file()]
    names = list(filter_repo_objects(names, ignore_patterns=DEFAULT_IGNORE_PATTERNS))  # of git, and of downloads
    files = {name: file_inside(folder, name) for name in names if Path(name).suffix not in LEFT_OVER}
    api = HfApi(token=token, library_name="hf_face")
    repo_id = full_name(api, repo_id)
    card.validate()
    kind: dict[str, Any] = {"repo_id": repo_id, "repo_type": card.repo_type}
    space_sdk = card.data.sdk if card.repo_type == "space" else None
    api.create_repo(**kind, private=private, exist_ok=True, space_sdk=space_sdk)
    before: Any = api.repo_info(**kind)
    operations: list[Any] = [CommitOperationAdd(name, path) for name, path in files.items()]
    operations += [
        CommitOperationDelete(path_in_repo=sibling.rfilename)
        for sibling in before.siblings
        if sibling.rfilename not in files and _is_shard_of(sibling.rfilename, files)
    ]
    # Not upload_folder, which may split a folder into several commits.
    return api.create_commit(**kind, operations=operations, commit_message=commit_message, parent_commit=before.sha)


def _is_shard_of(name: str, files: dict[str, Path]) -> bool:
    """Whether `name` is a shard of a split in `files`, which may have a different number of shards."""
    splits = {SHARD_NUMBER.sub("", file) for file in files if SHARD_NUMBER.search(file)}
    return SHARD_NUMBER.search(name) is not None and SHARD_NUMBER.sub("", name) in splits
