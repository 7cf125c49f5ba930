"""The branch to publish to: checked, created if necessary, and restored on errors."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from huggingface_hub import HfApi
from huggingface_hub.errors import HTTPError, RepositoryNotFoundError, RevisionNotFoundError  # HTTPError is httpx's

from .model_folder import is_face_model

# Files that any repository may contain.
NEUTRAL_FILES = {".gitattributes", "README.md", "LICENSE", "LICENSE.md", "LICENSE.txt"}


class HubBranch:
    """
    A branch of a model repository in its state before a push.

    Args:
        api (`HfApi`): The client.
        repo_id (`str`): `org/name`.
        name (`str`, *optional*): The branch, `main` by default.

    Attributes:
        start (`ModelInfo`, *optional*): The parent commit: that of the branch, or of `main` if the branch does not
            exist; None if the repository does not exist.
    """

    def __init__(self, api: HfApi, repo_id: str, name: str | None = None):
        self.api, self.repo_id, self.name = api, repo_id, name or "main"
        self.exists = True
        self.made_repository = self.made_branch = False
        try:
            self.start = api.model_info(repo_id, revision=self.name)
        except RevisionNotFoundError:
            self.start, self.exists = api.model_info(repo_id), False
        except RepositoryNotFoundError:
            self.start, self.exists = None, False

    @property
    def files(self) -> set[str]:
        """The names of all files at the parent commit."""
        return {sibling.rfilename for sibling in self.start.siblings}

    def read_json(self, name: str) -> dict[str, Any]:
        """Read a JSON file at the root of the branch; empty if it does not exist."""
        if name not in self.files:
            return {}
        path = self.api.hf_hub_download(self.repo_id, name, revision=self.start.sha)
        return json.loads(Path(path).read_text(encoding="utf-8"))

    def check(self, private: bool | None, overwrite: bool) -> None:
        """
        Raises:
            ValueError: if `private` contradicts the repository's visibility, or it contains something other than a face
                model and `overwrite` is not set.
        """
        if self.start is None:
            return
        if private is not None and private != self.start.private:
            raise ValueError(
                f"The repository {self.repo_id} is {'private' if self.start.private else 'public'}, which a push does "
                f"not change: remove private={private}, or change it in the repository's settings."
            )
        if not overwrite:
            self._check_content()

    def _check_content(self) -> None:
        names = self.files - NEUTRAL_FILES
        if not names:
            return
        what = f"files that do not belong to a model ({', '.join(sorted(names)[:3])})"
        if "config.json" in names:
            model_type = self.read_json("config.json").get("model_type")
            if is_face_model(model_type):
                return
            what = f"a model of type {model_type!r}"
        raise ValueError(
            f"The repository {self.repo_id} contains {what}, not a face model. Choose another name, or pass "
            "overwrite=True to replace its contents."
        )

    def make(self, private: bool | None) -> None:
        """Create the repository or branch if it does not exist."""
        if self.start is None:
            self.api.create_repo(self.repo_id, private=private)
            self.made_repository = True
            self.start = self.api.model_info(self.repo_id)
            self.exists = self.name == "main"
        if not self.exists:
            self.api.create_branch(self.repo_id, branch=self.name, revision=self.start.sha)
            self.made_branch = True

    @contextmanager
    def put_back_on_error(self) -> Iterator[None]:
        """On errors, remove what `make` created and add the state of the repository to the error."""
        try:
            yield
        except BaseException as error:
            error.add_note(self._put_back())
            raise

    def _put_back(self) -> str:
        if self.start is None:
            return f"Nothing was published: the repository {self.repo_id} does not exist."
        try:
            branches = self.api.list_repo_refs(self.repo_id).branches
            now = next((branch.target_commit for branch in branches if branch.name == self.name), self.start.sha)
            if now != self.start.sha:
                return (
                    f"{self.name} of {self.repo_id} has moved from {self.start.sha} to {now}, by this push, if its "
                    "response was lost, or by another one. Check it before pushing again."
                )
            if self.made_repository:
                self.api.delete_repo(self.repo_id)
                return f"Nothing was published: {self.repo_id}, created for this push, was removed."
            if self.made_branch:
                self.api.delete_branch(self.repo_id, branch=self.name)
        except HTTPError as error:
            return (
                f"{self.repo_id} was at {self.start.sha}; its current state could not be determined, or what was "
                f"created for this push could not be removed: {error}"
            )
        return f"Nothing was published: {self.repo_id} is still at {self.start.sha}. The push can be retried."
