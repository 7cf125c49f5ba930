"""Data sets and metrics on the Hub."""

from pathlib import Path

import pyarrow
import pyarrow.parquet
from huggingface_hub import CommitInfo, DatasetCard, HfApi, RepoCard, SpaceCard

from .model_card import LICENSES


def push_dataset(
    folder: str | Path,
    repo_id: str,
    *,
    license: str | None = None,
    private: bool | None = None,
    token: str | None = None,
    commit_message: str = "Publish data set",
) -> CommitInfo:
    """
    Publish a folder of Parquet files with its card, as `scripts/convert_dataset.py` and `VerificationPairs.to_parquet`
    write it. A push that was interrupted goes on where it stopped: what arrived is not sent again.

    Args:
        folder: Parquet files and `README.md`.
        license: Licence or terms of the data, one of the Hub's identifiers; written into the card. May be left out if
            the card states one.

    Raises:
        FileNotFoundError: no card or no Parquet file.
        ValueError: no licence, or a Parquet file that is not complete.
    """
    folder = Path(folder)
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
    if card.data.license not in LICENSES:
        raise ValueError(
            "State the licence of the data with one of the Hub's identifiers such as license='cc-by-4.0' or 'unknown'; "
            f"found {card.data.license!r}."
        )
    card.save(folder / "README.md")
    return _push_folder(folder, repo_id, card, token, private, commit_message)


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


def _load_card(folder: Path, card_class: type[RepoCard]) -> RepoCard:
    if not (folder / "README.md").is_file():
        raise FileNotFoundError(f"{folder} has no README.md, the card of the {card_class.repo_type}.")
    return card_class.load(folder / "README.md")


def _push_folder(
    folder: Path, repo_id: str, card: RepoCard, token: str | None, private: bool | None, commit_message: str
) -> CommitInfo:
    api = HfApi(token=token, library_name="hf_face")
    api.whoami()
    card.validate()
    space_sdk = card.data.sdk if card.repo_type == "space" else None
    repo = api.create_repo(repo_id, repo_type=card.repo_type, private=private, exist_ok=True, space_sdk=space_sdk)
    return api.upload_folder(
        repo_id=repo.repo_id,
        repo_type=card.repo_type,
        folder_path=folder,
        commit_message=commit_message,
        ignore_patterns=["__pycache__/*", "*.pyc"],
    )
