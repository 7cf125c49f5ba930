"""Data sets and metrics on the Hub."""

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

from ..data import VerificationPairs
from .model_card import LICENSES
from .publishing import full_name

LEFT_OVER = {".unfinished", ".pyc"}  # of a conversion that was interrupted; of Python
SHARD_NUMBER = re.compile(r"-\d+-of-\d+\.parquet")


def push_dataset(
    data: str | Path | VerificationPairs,
    repo_id: str,
    *,
    license: str | None = None,
    private: bool | None = None,
    token: str | None = None,
    commit_message: str = "Publish data set",
) -> CommitInfo:
    """
    Publish verification pairs, or a folder of Parquet files with its card as `scripts/convert_dataset.py` writes it, in
    one commit. A push that was interrupted goes on where it stopped: what arrived is not sent again.

    Args:
        data: The pairs, or the folder: Parquet files and `README.md`.
        license: License or terms of the data, one of the Hub's identifiers; written into the card. May be left out if
            the card states one.

    Raises:
        FileNotFoundError: no card or no Parquet file.
        ValueError: no license, or a Parquet file that is not complete.
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
        ValueError: the license of a data set is not stated, or not with one of the Hub's identifiers.
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
    Publish a metric of `evaluate` as a Space, to be loaded with `evaluate.load(repo_id)`.

    Args:
        folder: The metric's module, named as the folder, `app.py`, `requirements.txt` and `README.md`.
        repo_id: `org/name`, where the name is the module's.

    Raises:
        FileNotFoundError: one of these files is missing.
        ValueError: a name other than the module's, by which `evaluate` would not find it.
    """
    folder = Path(folder).resolve()
    card = _load_card(folder, SpaceCard)
    for name in (f"{folder.name}.py", "app.py", "requirements.txt"):
        if not (folder / name).is_file():
            raise FileNotFoundError(f"{folder} has no {name}, which a metric's Space needs.")
    if repo_id.split("/")[-1] != folder.name:
        raise ValueError(
            f"evaluate looks for a module of the Space's name: push to '.../{folder.name}', not {repo_id!r}."
        )
    return _push_folder(folder, repo_id, card, token, private, commit_message)


def _load_card(folder: Path, card_class: type[RepoCard]) -> Any:
    if not (folder / "README.md").is_file():
        raise FileNotFoundError(f"{folder} has no README.md, the card of the {card_class.repo_type}.")
    return card_class.load(folder / "README.md")


def _push_folder(
    folder: Path, repo_id: str, card: Any, token: str | None, private: bool | None, commit_message: str
) -> CommitInfo:
    """Unlike a model's, a new repository stays when its push fails: what arrived need not be sent again."""
    api = HfApi(token=token, library_name="hf_face")
    repo_id = full_name(api, repo_id)
    card.validate()
    kind: dict[str, Any] = {"repo_id": repo_id, "repo_type": card.repo_type}
    space_sdk = card.data.sdk if card.repo_type == "space" else None
    api.create_repo(**kind, private=private, exist_ok=True, space_sdk=space_sdk)
    before: Any = api.repo_info(**kind)
    files = {path.relative_to(folder).as_posix(): path for path in sorted(folder.rglob("*")) if path.is_file()}
    files = {name: path for name, path in files.items() if path.suffix not in LEFT_OVER}
    operations: list[Any] = [CommitOperationAdd(name, path) for name, path in files.items()]
    operations += [
        CommitOperationDelete(path_in_repo=sibling.rfilename)
        for sibling in before.siblings
        if sibling.rfilename not in files and _is_shard_of(sibling.rfilename, files)
    ]
    return api.create_commit(
        **kind, operations=operations, commit_message=commit_message, parent_commit=before.sha
    )  # not upload_folder, which may split a folder over several commits


def _is_shard_of(name: str, files: dict[str, Path]) -> bool:
    """Whether it is a shard of a split that `files` hold in another number of shards."""
    splits = {SHARD_NUMBER.sub("", file) for file in files if SHARD_NUMBER.search(file)}
    return SHARD_NUMBER.search(name) is not None and SHARD_NUMBER.sub("", name) in splits
