"""Publishing a face model: a complete folder, checked before anything is sent, then one commit."""

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

    The folder is written and checked on this machine first: weights, code and card belong together, and the Hub will
    take the metadata. Only then a repository or branch is created. A push that fails on the way removes what it created
    and leaves the rest at the commit it was at; large files that arrived there are not sent again by the next.

    Args:
        model: A backbone, a training model (its backbone is published), or a folder with either of them. LoRA adapters
            are merged.
        repo_id: `org/name`, or `name` for a repository of one's own.
        card: What the card says; default what is in the folder's `model_card.json`. A model in memory has such a folder
            as long as its weights are those it was loaded with.
        image_processor: Default the one in that folder.
        include_head: Also publish the training model's margin head, `head.index.json` and the files that it lists.
        private: For a repository that does not exist yet.
        token: Default the one that `hf auth login` stored, or `HF_TOKEN`.
        revision: Branch, created if it does not exist; default `main`.
        create_pr: Open a pull request instead, which needs no write access.
        overwrite: Replace all of a repository that holds something else than a face model.
        commit_message: First line of the commit, title of the pull request.

    Returns:
        `CommitInfo`: its `commit_url`, `oid` and, with `create_pr`, `pr_url`.

    Raises:
        FileNotFoundError: a folder without weights or image processor.
        ValueError: no licenses stated, metadata the Hub refuses, weights that do not fit the code, or a repository
            with other content or of the other visibility.
        huggingface_hub.errors.LocalTokenNotFoundError: nobody is logged in.
        huggingface_hub.errors.HfHubHTTPError: wrong token (401) or no permission (403).

    Example:
    ```python
    >>> from hf_face.hub import FaceModelCardData, TrainingData, push_to_hub

    >>> card = FaceModelCardData(license="mit", training_data=[TrainingData("ORL faces", "free for research")])
    >>> push_to_hub("runs/vit_tiny_arcface", "org/vit_tiny_arcface", card=card)
    ```
    """
    if create_pr and revision:
        raise ValueError(f"A pull request is made to main: give create_pr=True or revision={revision!r}, not both.")
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
    `user/name` for a `name` of one's own. Asks the Hub who is logged in, so that nobody waits for a folder to be
    written that cannot be sent.
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
    """Send what `write_model_folder` wrote; arguments and errors as for [`push_to_hub`]."""
    ModelCard.load(folder / "README.md").validate()
    branch = HubBranch(api, repo_id, revision)
    branch.check(private, overwrite)
    with branch.put_back_on_error():
        branch.make(private)
        # Not upload_folder: it may split a folder over several commits.
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
    """Add every file of `folder`, and take away what the repository must not keep beside them."""
    files = {path.relative_to(folder).as_posix(): path for path in sorted(folder.rglob("*")) if path.is_file()}
    old = branch.files - files.keys() - {".gitattributes"}
    stale = old if overwrite else stale_files(old, set(files), branch)
    additions = [CommitOperationAdd(path_in_repo=name, path_or_fileobj=path) for name, path in files.items()]
    return additions + [CommitOperationDelete(path_in_repo=name) for name in sorted(stale)]


def stale_files(old: set[str], new: set[str], branch: HubBranch) -> set[str]:
    """
    What an earlier push left that is not right beside the new one: weights, code, log, and the rest of the folders that
    both have. Files that publishing does not write stay.
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
