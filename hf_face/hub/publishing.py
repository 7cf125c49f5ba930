"""Publishing a face model: a complete folder, checked before uploading, in one commit."""

from collections.abc import Callable
from inspect import signature
from pathlib import Path
from typing import Any

from huggingface_hub import CommitInfo, CommitOperationAdd, CommitOperationDelete, HfApi, ModelCard
from huggingface_hub.utils import validate_repo_id
from transformers import BaseImageProcessor, PreTrainedModel

from .. import models
from ..writing import scratch_folder
from .branch import HubBranch
from .card_data import FaceModelCardData
from .model_folder import (
    LOG_NAME,
    NO_CARD,
    bare_backbone,
    check_card_data,
    complete_from,
    folder_of,
    write_model_folder,
)
from .onnx_files import ONNX_FOLDER

OF_BOTH = {"max_shard_size", "token"}  # arguments of `save_pretrained` that `push_to_hub` takes too
STALE_WEIGHTS = (".safetensors", ".safetensors.index.json", "head.index.json", "pytorch_model.bin", "training_args.bin")


def push_to_hub(
    model: PreTrainedModel | str | Path,
    repo_id: str,
    *,
    card: FaceModelCardData | None = None,
    image_processor: BaseImageProcessor | None = None,
    include_head: bool = False,
    endpoint: bool = False,
    private: bool | None = None,
    token: str | bool | None = None,
    revision: str | None = None,
    create_pr: bool = False,
    overwrite: bool = False,
    commit_message: str | None = None,
    commit_description: str | None = None,
    max_shard_size: int | str = "50GB",
    tags: list[str] | None = None,
) -> CommitInfo:
    """
    Publish a face model with its image processor, code, card, figures, training log and the ONNX files of its folder,
    in one commit. Also a method of every face model: `model.push_to_hub("org/name")` and, after saving it,
    `save_pretrained(folder, push_to_hub=True)`.

    First, the folder is written and checked locally: weights, code and card have to match, and the metadata has to be
    valid on the Hub. Only then, the repository or branch is created. A failed push removes what it created and leaves
    existing branches unchanged; large files that already arrived are not uploaded again on a retry.

    Args:
        model: A backbone, a training model (to publish its backbone), or a folder with either of them. LoRA adapters
            are merged.
        repo_id: `org/name`, or `name` for your own namespace.
        card: Data of the card. Defaults to the `model_card.json` in the model's folder, which a model in memory has if
            its weights have not changed since loading.
        image_processor: Defaults to the one in that folder.
        include_head: Whether to publish the training model's margin head too, `head.index.json` and the listed files.
        endpoint: Whether to publish what Inference Endpoints run, `handler.py` and its `requirements.txt`.
        private: Visibility of a new repository.
        token: Defaults to the token stored by `hf auth login`, or `HF_TOKEN`.
        revision: Branch, created if it does not exist; defaults to `main`.
        create_pr: Open a pull request instead, which requires no write access.
        overwrite: Whether to replace a repository that contains something other than a face model.
        commit_message, commit_description: Title and text of the commit or pull request.
        max_shard_size: Largest size of a file of weights; larger ones are split.
        tags: Further tags of the card.

    Returns:
        `CommitInfo`: with `commit_url`, `oid` and, with `create_pr`, `pr_url`.

    Raises:
        FileNotFoundError: if the folder has no weights or image processor.
        ValueError: if licenses are missing, the Hub would reject the metadata, the weights do not fit the code, or the
            repository contains something other than a face model or has a different visibility.
        huggingface_hub.errors.LocalTokenNotFoundError: if not logged in.
        huggingface_hub.errors.HfHubHTTPError: if the token is invalid (401) or lacks permission (403).

    Example:
    ```python
    >>> from hf_face.hub import FaceModelCardData, TrainingData, push_to_hub

    >>> card = FaceModelCardData(license="mit", training_data=[TrainingData("ORL faces", "free for research")])
    >>> push_to_hub("runs/vit_tiny_arcface", "org/vit_tiny_arcface", card=card)
    ```
    """
    if create_pr and revision:
        raise ValueError(
            f"Pull requests are opened against main: pass create_pr=True or revision={revision!r}, not both."
        )
    api = HfApi(token=token, library_name="hf_face")
    repo_id = full_name(api, repo_id)
    with scratch_folder() as parent:
        folder = parent / repo_id.split("/")[-1]
        write_model_folder(
            model,
            folder,
            repo_id,
            card=card,
            image_processor=image_processor,
            include_head=include_head,
            endpoint=endpoint,
            max_shard_size=max_shard_size,
            tags=tags,
        )
        return publish_folder(
            api,
            folder,
            repo_id,
            private=private,
            revision=revision,
            create_pr=create_pr,
            overwrite=overwrite,
            commit_message=commit_message or "Publish face recognition model",
            commit_description=commit_description,
        )


def save_and_push(
    save: Callable[..., None],
    model: PreTrainedModel,
    save_directory: str | Path,
    *,
    repo_id: str | None = None,
    card: FaceModelCardData | None = None,
    image_processor: BaseImageProcessor | None = None,
    **kwargs: Any,
) -> CommitInfo:
    """
    `model.save_pretrained(save_directory, push_to_hub=True)`: save with `save`, and publish what was saved.

    Args:
        repo_id: Defaults to the folder's name, in your own namespace.
        card, image_processor: As for [`push_to_hub`]; nothing is saved without a card.
        kwargs: Further arguments of `save_pretrained` and [`push_to_hub`].
    """
    source = folder_of(model) if kwargs.get("state_dict") is None else None  # before it is saved over
    card, image_processor = complete_from(source, card, image_processor)
    if card is None:
        raise ValueError(NO_CARD)
    check_card_data(card, bare_backbone(model).config)
    of_save = signature(PreTrainedModel.save_pretrained).parameters.keys()
    save(model, save_directory, **{name: value for name, value in kwargs.items() if name in of_save})
    options = {name: value for name, value in kwargs.items() if name not in of_save - OF_BOTH}
    repo_id = repo_id or Path(save_directory).absolute().name
    return push_to_hub(save_directory, repo_id, card=card, image_processor=image_processor, **options)


def full_name(api: HfApi, repo_id: str) -> str:
    """
    Add the user's namespace to a bare `name`. Checks the login, to fail before writing a folder that cannot be
    uploaded.
    """
    validate_repo_id(repo_id)
    user = api.whoami()["name"]
    return repo_id if "/" in repo_id else f"{user}/{repo_id}"


def publish_folder(
    api: HfApi,
    folder: Path,
    repo_id: str,
    *,
    commit_message: str,
    commit_description: str | None = None,
    private: bool | None = None,
    revision: str | None = None,
    create_pr: bool = False,
    overwrite: bool = False,
) -> CommitInfo:
    """Publish a folder written by `write_model_folder`; arguments and errors as for [`push_to_hub`]."""
    ModelCard.load(folder / "README.md").validate()
    branch = HubBranch(api, repo_id, revision)
    branch.check(private, overwrite)
    with branch.put_back_on_error():
        branch.make(private)
        # Not upload_folder, which may split a folder into several commits.
        return api.create_commit(
            repo_id,
            commit_operations(folder, branch, overwrite),
            commit_message=commit_message,
            commit_description=commit_description,
            revision=branch.name,
            create_pr=create_pr,
            parent_commit=branch.start.sha,
        )


def commit_operations(
    folder: Path, branch: HubBranch, overwrite: bool
) -> list[CommitOperationAdd | CommitOperationDelete]:
    """Add all files of `folder` and delete files of earlier pushes that no longer belong there."""
    files = {path.relative_to(folder).as_posix(): path for path in sorted(folder.rglob("*")) if path.is_file()}
    old = branch.files - files.keys() - {".gitattributes"}
    stale = old if overwrite else stale_files(old, set(files), branch)
    additions = [CommitOperationAdd(path_in_repo=name, path_or_fileobj=path) for name, path in files.items()]
    return additions + [CommitOperationDelete(path_in_repo=name) for name in sorted(stale)]


def stale_files(old: set[str], new: set[str], branch: HubBranch) -> set[str]:
    """
    Files of an earlier push that do not belong to the new one: weights, code, log, and other files in shared folders.
    Files that publishing does not write are kept.
    """
    auto_map = branch.read_json("config.json").get("auto_map", {})
    code = {f"{reference.split('.')[0]}.py" for reference in auto_map.values()}
    code |= {path.name for path in Path(models.__file__).parent.glob("*.py")}
    folders = {name.split("/")[0] for name in new if "/" in name} | {"figures", ONNX_FOLDER}
    return {
        name
        for name in old
        if name.split("/")[0] in folders
        or name in code | {LOG_NAME}
        or ("/" not in name and name.endswith(STALE_WEIGHTS))
    }
