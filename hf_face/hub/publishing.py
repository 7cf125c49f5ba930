"""Publishing a face model: a complete folder, checked before anything is sent, then one commit."""

import json
import tempfile
from contextlib import contextmanager
from pathlib import Path

from huggingface_hub import CommitInfo, CommitOperationAdd, CommitOperationDelete, HfApi, ModelCard
from huggingface_hub.hf_api import ModelInfo
from transformers import BaseImageProcessor, PreTrainedModel

from .card_data import FaceModelCardData
from .model_card import is_repo_id
from .model_folder import MODEL_TYPES, write_model_folder

# What any repository may hold without holding a model, and what an earlier push may have left that is not right beside
# a new one.
NEUTRAL_FILES = {".gitattributes", "README.md", "LICENSE", "LICENSE.md", "LICENSE.txt"}
STALE_SUFFIXES = (".py", ".safetensors", ".safetensors.index.json", "pytorch_model.bin", "training_args.bin")


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
    Publish a face model with its image processor, code, card, figures and training log, in one commit.

    The folder is written and checked on this machine first: weights, code and card belong together, and the Hub will
    take the metadata. Only then a repository is created. A push that fails on the way leaves the repository at the
    commit it was at, and large files that arrived are not sent again by the next.

    Args:
        model: A backbone, a training model (its backbone is published), or a folder with either of them.
        repo_id: `org/name`.
        card: What the card says; for a folder, what is in its `model_card.json` if not given.
        image_processor: For a folder, the one in it if not given.
        include_head: Also publish the training model's margin head, `head.state_dict()`, as `head.safetensors`.
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
        ValueError: no licences stated, metadata the Hub refuses, weights that do not fit the code, or a repository
            with other content.
        huggingface_hub.errors.LocalTokenNotFoundError: nobody is logged in.
        huggingface_hub.errors.HfHubHTTPError: wrong token (401) or no permission (403).

    Example:
    ```python
    >>> from hf_face.hub import FaceModelCardData, TrainingData, push_to_hub

    >>> card = FaceModelCardData(license="mit", training_data=[TrainingData("ORL faces", "free for research")])
    >>> push_to_hub("runs/vit_tiny_arcface", "org/vit_tiny_arcface", card=card)
    ```
    """
    if not is_repo_id(repo_id):
        raise ValueError(f"repo_id {repo_id!r} is not a Hub name such as 'org/name'.")
    if create_pr and revision:
        raise ValueError(f"A pull request is made to main: give create_pr=True or revision={revision!r}, not both.")
    with tempfile.TemporaryDirectory() as parent:
        folder = Path(parent) / repo_id.split("/")[-1]
        write_model_folder(
            model, folder, repo_id, card=card, image_processor=image_processor, include_head=include_head
        )
        api = HfApi(token=token, library_name="hf_face")
        api.whoami()
        ModelCard.load(folder / "README.md").validate()
        repo_id = api.create_repo(repo_id, private=private, exist_ok=True).repo_id
        if revision:
            api.create_branch(repo_id, branch=revision, exist_ok=True)
        before = api.model_info(repo_id, revision=revision)
        if not overwrite:
            check_content(api, before)
        with nothing_published_on_error(before):
            # Not upload_folder: it may split a folder over several commits.
            return api.create_commit(
                repo_id,
                commit_operations(folder, before, overwrite),
                commit_message=commit_message,
                revision=revision,
                create_pr=create_pr,
                parent_commit=before.sha,
            )


def commit_operations(
    folder: Path, before: ModelInfo, overwrite: bool
) -> list[CommitOperationAdd | CommitOperationDelete]:
    """Add every file of `folder`, and take away what the repository must not keep beside them."""
    files = {path.relative_to(folder).as_posix(): path for path in sorted(folder.rglob("*")) if path.is_file()}
    old = {sibling.rfilename for sibling in before.siblings} - files.keys() - {".gitattributes"}
    stale = {name for name in old if overwrite or ("/" not in name and name.endswith(STALE_SUFFIXES))}
    additions = [CommitOperationAdd(path_in_repo=name, path_or_fileobj=path) for name, path in files.items()]
    return additions + [CommitOperationDelete(path_in_repo=name) for name in sorted(stale)]


def check_content(api: HfApi, before: ModelInfo) -> None:
    """Refuse to mix a face model with something else."""
    names = {sibling.rfilename for sibling in before.siblings} - NEUTRAL_FILES
    if not names:
        return
    what = f"files that are not a model's ({', '.join(sorted(names)[:3])})"
    if "config.json" in names:
        config = json.loads(Path(api.hf_hub_download(before.id, "config.json", revision=before.sha)).read_text())
        if config.get("model_type") in MODEL_TYPES:
            return
        what = f"a model of type {config.get('model_type')!r}"
    raise ValueError(
        f"The repository {before.id} holds {what}, not a face model. Choose another name, or give overwrite=True to "
        "replace all of it."
    )


@contextmanager
def nothing_published_on_error(before: ModelInfo):
    """Say, with whatever went wrong, in which state the repository is."""
    try:
        yield
    except Exception as error:
        error.add_note(f"Nothing was published: {before.id} is still at {before.sha}. The same call can be made again.")
        raise
