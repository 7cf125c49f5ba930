"""What the local Hub remembers: users, repositories, commits, large files, and which requests are to fail."""

import hashlib
import re
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import yaml

LARGE_SUFFIXES = {".safetensors", ".bin", ".pt", ".parquet", ".arrow", ".png", ".jpg", ".npy", ".rec"}
LICENSES = {"apache-2.0", "mit", "cc-by-4.0", "cc-by-nc-4.0", "unknown", "other"}  # those the tests use
ANSWER_LOST = 0  # a fault's status: the request is carried out, and then the connection breaks
REPO_ID = re.compile(r"[\w.-]+/[\w.-]+|[\w.-]+")


class HubError(Exception):
    """An answer other than 2xx: status, what the Hub says, and its `X-Error-Code`."""

    def __init__(self, status: int, message: str, code: str | None = None, **body):
        super().__init__(message)
        self.status, self.message, self.code = status, message, code
        self.body = {"error": message, **body}


@dataclass
class User:
    name: str
    orgs: tuple[str, ...] = ()

    def may_write(self, namespace: str) -> bool:
        return namespace == self.name or namespace in self.orgs


@dataclass(frozen=True)
class File:
    """A file of a commit: `oid` is the git blob id, or the sha256 of a large file."""

    oid: str
    size: int
    large: bool


@dataclass
class Commit:
    oid: str
    title: str
    files: dict[str, File]
    parent: str | None
    description: str = ""


@dataclass
class Repo:
    type: str
    id: str
    private: bool = False
    refs: dict[str, str] = field(default_factory=dict)  # "main", "refs/pr/1", ... -> commit
    commits: dict[str, Commit] = field(default_factory=dict)
    pull_requests: list[str] = field(default_factory=list)  # titles
    uploaded: set[str] = field(default_factory=set)  # large files this repository has

    @property
    def namespace(self) -> str:
        return self.id.split("/")[0]

    def commit(self, revision: str) -> Commit:
        oid = self.refs.get(revision, revision)
        if oid not in self.commits:
            raise HubError(404, f"Invalid rev id: {revision}", "RevisionNotFound")
        return self.commits[oid]

    def add_commit(self, ref: str, title: str, files: dict[str, File], parent: str | None) -> Commit:
        listing = repr((parent, title, len(self.commits), sorted(files.items())))
        commit = Commit(hashlib.sha1(listing.encode()).hexdigest(), title, files, parent)
        self.commits[commit.oid] = commit
        self.refs[ref] = commit.oid
        return commit

    def history(self, revision: str) -> list[Commit]:
        """Newest first."""
        commits = [self.commit(revision)]
        while commits[-1].parent:
            commits.append(self.commits[commits[-1].parent])
        return commits


@dataclass
class Fault:
    """The next `times` requests that match get `status`; with None or `ANSWER_LOST` the connection is cut."""

    method: str
    path: str  # a regular expression
    status: int | None
    times: int


@dataclass
class Request:
    method: str
    path: str
    received: int = 0  # bytes of body
    status: int | None = None
    range: str | None = None


class HubStore:
    def __init__(self, folder: Path, users: dict[str, User]):
        self.folder, self.users = folder, users
        self.lock = threading.RLock()
        self.repos: dict[tuple[str, str], Repo] = {}
        self.requests: list[Request] = []
        self.faults: list[Fault] = []

    # what tests do

    def fail(self, method: str, path: str, status: int | None, times: int = 1) -> None:
        """
        Let the next `times` requests of `method` whose path matches `path` fail: with `status`; None: cut in the middle
        of their body; `ANSWER_LOST`: carried out, but their sender does not hear of it.
        """
        self.faults.append(Fault(method, path, status, times))

    def uploads(self) -> list[Request]:
        """The large files that were really sent."""
        return [request for request in self.requests if request.method == "PUT"]

    def read(self, repo_id: str, path: str, revision: str = "main", repo_type: str = "model") -> bytes:
        return self.blob(self.repos[repo_type, repo_id].commit(revision).files[path].oid).read_bytes()

    # what the server does

    def take_fault(self, method: str, path: str) -> Fault | None:
        with self.lock:
            for fault in self.faults:
                if fault.times and fault.method == method and re.search(fault.path, path):
                    fault.times -= 1
                    return fault
        return None

    def blob(self, oid: str) -> Path:
        return self.folder / oid

    def keep(self, content: bytes) -> File:
        """Store a regular file under its git blob id."""
        oid = hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()
        self.blob(oid).write_bytes(content)
        return File(oid, len(content), large=False)

    def create(self, type: str, id: str, private: bool) -> Repo:
        repo = self.repos[type, id] = Repo(type, id, private)
        repo.add_commit("main", "initial commit", {".gitattributes": self.keep(b"*.bin filter=lfs\n")}, None)
        return repo

    def find(self, type: str, id: str, user: User | None, write: bool = False) -> Repo:
        repo = self.repos.get((type, id))
        if repo is None or (repo.private and (user is None or not user.may_write(repo.namespace))):
            raise HubError(401 if user is None else 404, "Repository not found", "RepoNotFound")
        if write and user is None:
            raise HubError(401, "Invalid username or password.")
        return repo

    def write_ref(self, repo: Repo, user: User, ref: str, create_pr: bool, title: str) -> str:
        """The ref a commit goes to, or 403; opening a pull request needs no write access."""
        if create_pr:
            repo.pull_requests.append(title)
            pull_request = f"refs/pr/{len(repo.pull_requests)}"
            repo.refs[pull_request] = repo.refs[ref]
            return pull_request
        if not ref.startswith("refs/pr/"):
            self.check_may_write(repo, user)
        return ref

    def check_may_write(self, repo: Repo, user: User) -> None:
        if not user.may_write(repo.namespace):
            raise HubError(403, f"you don't have write access to {repo.id} as {user.name}")

    def commit(self, repo: Repo, ref: str, header: dict, operations: list[tuple[str, dict]]) -> Commit:
        """All operations or none: the ref moves only after every one of them was understood."""
        from base64 import b64decode

        parent = repo.commit(ref)
        if header.get("parentCommit", parent.oid) != parent.oid:
            raise HubError(412, "A commit has happened since. Please refresh and try again.")
        files = dict(parent.files)
        for kind, value in operations:
            path = value["path"]
            if kind == "file":
                files[path] = self.keep(b64decode(value["content"]))
            elif kind == "lfsFile":
                if value["oid"] not in repo.uploaded:
                    raise HubError(400, f"LFS pointer {path} points to a file that was not uploaded")
                files[path] = File(value["oid"], self.blob(value["oid"]).stat().st_size, large=True)
            elif kind == "deletedFile":
                if path not in files:
                    raise HubError(404, f"A file with this name doesn't exist: {path}", "EntryNotFound")
                del files[path]
            elif kind == "deletedFolder":
                files = {name: file for name, file in files.items() if not name.startswith(path)}
            else:
                raise HubError(400, f"unknown operation {kind}")
        commit = repo.add_commit(ref, header["summary"], files, parent.oid)
        commit.description = header.get("description", "")
        return commit


def card_errors(content: str, repo_type: str) -> list[str]:
    """What the Hub holds against a README's metadata, in its own words where they are known."""
    match = re.match(r"---\n(.*?)\n---\n", content, flags=re.DOTALL)
    metadata = yaml.safe_load(match[1]) if match else {}
    errors: list[str] = []

    def check(good: bool, message: str) -> None:
        if not good:
            errors.append(message)

    def each(key: str, valid: Callable[[str], object], what: str) -> None:
        values = metadata.get(key, [])
        for value in values if isinstance(values, list) else [values]:
            check(isinstance(value, str) and bool(valid(value)), f'"{key}" with value "{value}" is not valid. {what}')

    each("license", LICENSES.__contains__, f"Must be one of {sorted(LICENSES)}")
    each("base_model", REPO_ID.fullmatch, "Use a model id from https://hf.co/models.")
    each("datasets", REPO_ID.fullmatch, "If possible, use a dataset id from https://hf.co/datasets.")
    each("tags", lambda tag: len(tag) < 100, "Tags are short strings.")
    each("pipeline_tag", re.compile(r"[a-z-]+").fullmatch, "Use a task from https://hf.co/tasks.")
    each("license_name", re.compile(r"[a-z0-9.-]+").fullmatch, "Lowercase letters, digits, '.' and '-'.")
    if repo_type == "space":
        check(metadata.get("sdk") in ("gradio", "docker", "static"), '"sdk" is required')
    for i, entry in enumerate(metadata.get("model-index", [])):
        check(isinstance(entry.get("name"), str), f'"model-index[{i}].name" is required')
        for j, result in enumerate(entry.get("results", [])):
            place = f"model-index[{i}].results[{j}]"
            check(result.get("task", {}).get("type"), f'"{place}.task.type" is required')
            check(result.get("dataset", {}).get("type"), f'"{place}.dataset.type" is required')
            check(result.get("dataset", {}).get("name"), f'"{place}.dataset.name" is required')
            check(result.get("metrics"), f'"{place}.metrics" is required')
            for metric in result.get("metrics", []):
                value = metric.get("value")
                check(metric.get("type"), f'"{place}.metrics.type" is required')
                check(isinstance(value, int | float | str) and value == value, f'"{place}.metrics.value" is not valid')
    return errors
