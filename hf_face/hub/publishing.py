"""Publishing a face model: a complete folder, checked before uploading, in one commit."""

import tempfile
from pathlib import Path

from huggingface_hub import CommitInfo, CommitOperationAdd, CommitOperationDelete, HfApi, ModelCard
from huggingface_hub.utils import validate_repo_id
from transformers import BaseImageProcessor, PreTrainedModel

from .. import models
from .branch import HubBranch
from .card_data import FaceModelCardData
from .model_folder import LOG_NAME, write_model_folder

STALE_WEIGHTS = (".safetensors", ".safetensors.index.json", "head.index.json", "pytorch_model.bin", "training_args.bin")


def push_to_hub(
    model: PreTrainedModel | str | Path,
    repo_id: str,
    *,
    card: FaceModelCardData | None = None,
    image_processor: BaseImageProcessor | None = None,
    include_head: bool = False,
    private: bool | None = None,
    token: str | None = None,
    revision: str | None = None,
    create_pr: bool = False,
    overwrite: bool = False,
    commit_message: str = "Publish face recognition model",
) -> CommitInfo:
    """
    Publish a face model with its image processor, code, card, figures and training log, in one commit. Also a method of
    every face model: `model.push_to_hub("org/name")`.

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
        private: Visibility of a new repository.
        token: Defaults to the token stored by `hf auth login`, or `HF_TOKEN`.
        revision: Branch, created if it does not exist; defaults to `main`.
        create_pr: Open a pull request instead, which requires no write access.
        overwrite: Whether to replace a repository that contains something other than a face model.
        commit_message: First line of the commit, or title of the pull request.

    Returns:
        `CommitInfo`: with `commit_url`, `oid` and, with `create_pr`, `pr_url`.

    Raises:
        FileNotFoundError: if the folder has no weights or image processor.
        ValueError: if licenses are missing, the Hub would reject the metadata, the weights do not fit the code, or the
            repository has other contents or a different visibility.
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
    with tempfile.TemporaryDirectory() as parent:
        folder = Path(parent) / repo_id.split("/")[-1]
        write_model_folder(
            model, folder, repo_id, card=card, image_processor=image_processor, include_head=include_head
        )
        return publish_folder(
            api,
            folder,
            repo_id,
            private=private,
            revision=revision,
            create_pr=create_pr,
            overwrite=overwrite,
            commit_message=commit_message,
        )


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
    folders = {name.split("/")[0] for name in new if "/" in name} | {"figures"}
    return {
        name
        for name in old
        if name.split("/")[0] in folders
        or name in code | {LOG_NAME}
        or ("/" not in name and name.endswith(STALE_WEIGHTS))
    }
