"""A Hub on this machine: the endpoints `huggingface_hub` calls to create, fill and read repositories.

Used through `HF_ENDPOINT` by the real clients, without internet and without a mock in them:

    with HubServer(folder) as hub:
        HfApi(endpoint=hub.url, token=hub.token).create_repo("alice/model")

`hub.store` shows what arrived, and `hub.store.fail(...)` lets requests fail.
"""

import hashlib
import json
import re
import shutil
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import parse_qs, unquote, urlsplit

from hub_store import ANSWER_LOST, LARGE_SUFFIXES, Commit, File, HubError, HubStore, Repo, Request, User, card_errors

PREFIXES = {"": "model", "datasets/": "dataset", "spaces/": "space"}
REPO = r"(?P<id>[^/]+(?:/[^/]+)?)"
ROUTES: list[tuple[str, re.Pattern, str]] = []
DATE = "2026-01-01T00:00:00.000Z"


class HubServer:
    def __init__(self, folder: Path):
        self.token = "hf_alice"
        users = {"hf_alice": User("alice", orgs=("org",)), "hf_bob": User("bob")}
        self.store = HubStore(folder, users)
        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.server.daemon_threads = True
        self.url = self.server.url = f"http://127.0.0.1:{self.server.server_port}"
        self.server.store = self.store

    def __enter__(self) -> "HubServer":
        threading.Thread(target=self.server.serve_forever, daemon=True).start()
        return self

    def __exit__(self, *error) -> None:
        self.server.shutdown()
        self.server.server_close()


def route(method: str, path: str):
    """Answer `method` of a path that matches; the groups of the pattern become the function's arguments."""

    def register(function):
        ROUTES.append((method, re.compile(path), function.__name__))
        return function

    return register


def api(path: str) -> str:
    return rf"/api/(?P<type>model|dataset|space)s/{REPO}{path}"


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True  # which would keep a body back until the client has acknowledged the headers

    def do(self) -> None:
        url = urlsplit(self.path)
        self.query = {key: values[0] for key, values in parse_qs(url.query).items()}
        self.request_log = Request(self.command, url.path, range=self.headers.get("Range"))
        self.hub.requests.append(self.request_log)
        self.commit_header: str | None = None
        try:
            fault = self.hub.take_fault(self.command, url.path)
            self.cut = fault is not None and fault.status is None
            self.lost = fault is not None and fault.status == ANSWER_LOST
            if self.cut and self.command != "GET":
                self.rfile.read(1)  # the body has begun to arrive
                self.close_connection = True
                return
            if fault and not self.cut and not self.lost:
                self.body()
                raise HubError(fault.status, "the local Hub was told to fail")
            self.user = self.authenticate()
            for method, pattern, name in ROUTES:
                match = pattern.fullmatch(url.path)
                if match and (method == self.command or (method, self.command) == ("GET", "HEAD")):
                    return getattr(self, name)(**{key: unquote(value) for key, value in match.groupdict().items()})
            raise HubError(404, f"the local Hub does not know {self.command} {url.path}")
        except HubError as error:
            self.body()
            headers = {
                "X-Error-Code": error.code,
                "X-Error-Message": error.message,
                "X-Repo-Commit": self.commit_header,
            }
            self.answer(json.dumps(error.body).encode(), error.status, headers)

    do_GET = do_HEAD = do_POST = do_PUT = do_DELETE = do

    @property
    def hub(self) -> HubStore:
        return self.server.store

    def log_message(self, *arguments) -> None:
        """Keep the tests' output clean; `store.requests` has it all."""

    def authenticate(self) -> User | None:
        token = self.headers.get("Authorization", "").removeprefix("Bearer ")
        if token and token not in self.hub.users:
            self.body()
            raise HubError(401, "Invalid credentials in Authorization header")
        return self.hub.users.get(token)

    def chunks(self):
        """The request's body, piece by piece, sent with a length or chunked; once read it is empty."""
        if self.headers.get("Transfer-Encoding") == "chunked":
            while size := int(self.rfile.readline(), 16):
                yield self.rfile.read(size)
                self.rfile.readline()
            self.rfile.readline()
            del self.headers["Transfer-Encoding"]
        left = int(self.headers.get("Content-Length") or 0)
        del self.headers["Content-Length"]
        while left > 0:
            piece = self.rfile.read(min(left, 1 << 20))
            if not piece:
                raise ConnectionResetError("the client went away in the middle of a body")
            left -= len(piece)
            yield piece

    def body(self) -> bytes:
        content = b"".join(self.chunks())
        self.request_log.received += len(content)
        return content

    def answer(self, content: bytes, status: int = 200, headers: dict | None = None) -> None:
        self.request_log.status = status
        if self.lost:
            self.close_connection = True
            return
        self.send_response(status)
        defaults = {"Content-Length": len(content), "Content-Type": "application/json"}
        for key, value in {**defaults, **(headers or {})}.items():
            if value is not None:
                self.send_header(key, str(value))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content[: len(content) // 2] if self.cut else content)
        self.close_connection |= self.cut

    def json(self, content) -> None:
        self.answer(json.dumps(content).encode())

    def repo(self, type: str, id: str, write: bool = False) -> Repo:
        return self.hub.find(type, id, self.user, write)

    # users and repositories

    @route("GET", "/api/whoami-v2")
    def whoami(self) -> None:
        if self.user is None:
            raise HubError(401, "Invalid username or password.")
        orgs = [{"type": "org", "name": name, "roleInOrg": "write"} for name in self.user.orgs]
        self.json({"type": "user", "name": self.user.name, "orgs": orgs, "auth": {"type": "access_token"}})

    @route("POST", "/api/repos/create")
    def create(self) -> None:
        wanted = json.loads(self.body())
        if self.user is None:
            raise HubError(401, "Invalid username or password.")
        namespace = wanted.get("organization") or self.user.name
        type, id = wanted.get("type", "model"), f"{namespace}/{wanted['name']}"
        url = f"{self.server.url}/{next(prefix for prefix, name in PREFIXES.items() if name == type)}{id}"
        if not self.user.may_write(namespace):
            raise HubError(403, f"You don't have the rights to create a {type} under the namespace {namespace}")
        if (type, id) in self.hub.repos:
            raise HubError(409, "You already created this repo", url=url)
        self.hub.create(type, id, private=wanted.get("visibility") == "private" or bool(wanted.get("private")))
        self.json({"url": url, "name": id})

    @route("DELETE", "/api/repos/delete")
    def delete(self) -> None:
        wanted = json.loads(self.body())
        repo = self.repo(wanted.get("type", "model"), f"{wanted['organization']}/{wanted['name']}", write=True)
        self.hub.check_may_write(repo, self.user)
        del self.hub.repos[repo.type, repo.id]
        self.json({})

    @route("POST", "/api/validate-yaml")
    def validate(self) -> None:
        wanted = json.loads(self.body())
        if errors := card_errors(wanted["content"], wanted["repoType"]):
            raise HubError(400, "; ".join(errors), errors=[{"message": error} for error in errors], warnings=[])
        self.json({"errors": [], "warnings": []})

    @route("GET", api(""))
    @route("GET", api("/revision/(?P<revision>[^/]+)"))
    def info(self, type: str, id: str, revision: str = "main") -> None:
        repo = self.repo(type, id)
        commit = repo.commit(revision)
        siblings = [
            {"rfilename": path, "size": file.size, "blobId": file.oid, **lfs(file)}
            for path, file in commit.files.items()
        ]
        self.json(
            {"_id": id, "id": id, "sha": commit.oid, "private": repo.private, "siblings": siblings, "tags": []}
            | {"author": repo.namespace, "lastModified": DATE, "disabled": False, "gated": False, "downloads": 0}
        )

    @route("GET", api("/refs"))
    def refs(self, type: str, id: str) -> None:
        refs = self.repo(type, id).refs
        branches = [
            {"name": name, "ref": f"refs/heads/{name}", "targetCommit": oid}
            for name, oid in refs.items()
            if not name.startswith("refs/pr/")
        ]
        prs = [{"name": n, "ref": n, "targetCommit": oid} for n, oid in refs.items() if n.startswith("refs/pr/")]
        self.json({"branches": branches, "tags": [], "converts": [], "pullRequests": prs})

    @route("POST", api("/branch/(?P<branch>[^/]+)"))
    def branch(self, type: str, id: str, branch: str) -> None:
        start = json.loads(self.body() or b"{}").get("startingPoint", "main")
        repo = self.repo(type, id, write=True)
        self.hub.write_ref(repo, self.user, branch, create_pr=False, title="")
        if branch in repo.refs:
            raise HubError(409, f"Reference already exists: {branch}")
        repo.refs[branch] = repo.commit(start).oid
        self.json({})

    @route("DELETE", api("/branch/(?P<branch>[^/]+)"))
    def delete_branch(self, type: str, id: str, branch: str) -> None:
        repo = self.repo(type, id, write=True)
        self.hub.check_may_write(repo, self.user)
        del repo.refs[branch]
        self.json({})

    @route("GET", api("/commits/(?P<revision>[^/]+)"))
    def commits(self, type: str, id: str, revision: str) -> None:
        history = self.repo(type, id).history(revision)
        self.json([{"id": c.oid, "title": c.title, "message": "", "authors": [], "date": DATE} for c in history])

    @route("GET", api("/discussions"))
    def discussions(self, type: str, id: str) -> None:
        self.json({"discussions": [], "count": 0, "start": 0})

    # files: what is there

    @route("GET", api("/tree/(?P<revision>[^/]+)"))
    @route("GET", api("/tree/(?P<revision>[^/]+)/(?P<folder>.+)"))
    def tree(self, type: str, id: str, revision: str, folder: str = "") -> None:
        commit = self.repo(type, id).commit(revision)
        entries = [
            entry
            for entry in tree_entries(commit)
            if entry["path"].startswith(f"{folder}/" if folder else "")
            and (
                self.query.get("recursive", "").lower() == "true" or "/" not in entry["path"][len(folder) :].strip("/")
            )
        ]
        if folder and not entries:
            raise HubError(404, f"{folder} does not exist on {revision}", "EntryNotFound")
        self.json(entries)

    @route("POST", api("/paths-info/(?P<revision>[^/]+)"))
    def paths_info(self, type: str, id: str, revision: str) -> None:
        paths = parse_qs(self.body().decode()).get("paths", [])
        self.json([entry for entry in tree_entries(self.repo(type, id).commit(revision)) if entry["path"] in paths])

    @route("GET", rf"/(?P<prefix>datasets/|spaces/|){REPO}/resolve/(?P<revision>[^/]+)/(?P<path>.+)")
    def resolve(self, prefix: str, id: str, revision: str, path: str) -> None:
        commit = self.repo(PREFIXES[prefix], id).commit(revision)
        self.commit_header = commit.oid
        file = commit.files.get(path)
        if file is None:
            raise HubError(404, f"{path} does not exist on {revision}", "EntryNotFound")
        headers = {"X-Repo-Commit": commit.oid, "ETag": f'"{file.oid}"', "Accept-Ranges": "bytes"}
        if file.large:  # the Hub redirects to its storage, which is another host
            storage = f"http://localhost:{self.server.server_port}/storage/{file.oid}"
            headers |= {"X-Linked-Etag": f'"{file.oid}"', "X-Linked-Size": file.size, "Location": storage}
            return self.answer(b"", 302, headers)
        self.send_file(file.oid, headers)

    @route("GET", "/storage/(?P<oid>[0-9a-f]{64})")
    def storage(self, oid: str) -> None:
        self.send_file(oid, {"ETag": f'"{oid}"', "Accept-Ranges": "bytes"})

    def send_file(self, oid: str, headers: dict) -> None:
        content = self.hub.blob(oid).read_bytes()
        headers |= {"Content-Type": "application/octet-stream"}
        if match := re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range", "")):
            start, end = int(match[1]), min(int(match[2] or len(content)), len(content) - 1)
            headers |= {"Content-Range": f"bytes {start}-{end}/{len(content)}"}
            return self.answer(content[start : end + 1], 206, headers)
        self.answer(content, 200, headers)

    # files: putting them there

    @route("POST", api("/preupload/(?P<revision>[^/]+)"))
    def preupload(self, type: str, id: str, revision: str) -> None:
        wanted = json.loads(self.body())["files"]
        repo = self.repo(type, id, write=True)
        if "create_pr" not in self.query:
            self.hub.write_ref(repo, self.user, revision, create_pr=False, title="")
        there = repo.commit(revision).files
        files = [
            {
                "path": file["path"],
                "uploadMode": "lfs" if Path(file["path"]).suffix in LARGE_SUFFIXES else "regular",
                "shouldIgnore": False,
                "oid": there[file["path"]].oid if file["path"] in there else None,
            }
            for file in wanted
        ]
        self.json({"files": files, "commitOid": repo.commit(revision).oid})

    @route("POST", rf"/(?P<prefix>datasets/|spaces/|){REPO}\.git/info/lfs/objects/batch")
    def lfs_batch(self, prefix: str, id: str) -> None:
        objects = json.loads(self.body())["objects"]
        repo = self.repo(PREFIXES[prefix], id, write=True)
        for entry in objects:
            if entry["oid"] not in repo.uploaded:
                entry["actions"] = {"upload": {"href": f"{self.server.url}/upload/{repo.type}/{id}/{entry['oid']}"}}
        self.json({"transfer": "basic", "objects": objects})

    @route("PUT", rf"/upload/(?P<type>\w+)/{REPO}/(?P<oid>[0-9a-f]{{64}})")
    def upload(self, type: str, id: str, oid: str) -> None:
        """A large file appears under its name only when all of it has come and its checksum is right."""
        part = self.hub.blob(f"{oid}.{threading.get_ident()}.part")
        digest = hashlib.sha256()
        with part.open("wb") as file:
            for piece in self.chunks():
                self.request_log.received += len(piece)
                digest.update(piece)
                file.write(piece)
        if digest.hexdigest() != oid:
            raise HubError(400, "the content does not have the checksum it was announced with")
        shutil.move(part, self.hub.blob(oid))
        self.hub.repos[type, id].uploaded.add(oid)
        self.json({})

    @route("POST", api("/commit/(?P<revision>[^/]+)"))
    def commit(self, type: str, id: str, revision: str) -> None:
        lines = [json.loads(line) for line in self.body().splitlines()]
        header, operations = lines[0]["value"], [(line["key"], line["value"]) for line in lines[1:]]
        with self.hub.lock:
            repo = self.repo(type, id, write=True)
            repo.commit(revision)
            ref = self.hub.write_ref(repo, self.user, revision, "create_pr" in self.query, header["summary"])
            commit = self.hub.commit(repo, ref, header, operations)
        url = f"{self.server.url}/{next(prefix for prefix, name in PREFIXES.items() if name == type)}{id}"
        answer = {"success": True, "commitOid": commit.oid, "commitUrl": f"{url}/commit/{commit.oid}"}
        if ref.startswith("refs/pr/"):
            answer["pullRequestUrl"] = f"{url}/discussions/{ref.split('/')[-1]}"
        self.json(answer)


def lfs(file: File) -> dict:
    return {"lfs": {"oid": file.oid, "sha256": file.oid, "size": file.size, "pointerSize": 134}} if file.large else {}


def tree_entries(commit: Commit) -> list[dict]:
    """Every file and folder of a commit, as the tree endpoint lists them."""
    folders = {str(parent) for path in commit.files for parent in Path(path).parents} - {"."}
    last = {"lastCommit": {"id": commit.oid, "title": commit.title, "date": DATE}}
    entries = [{"type": "directory", "path": path, "oid": "0" * 40, "size": 0, **last} for path in sorted(folders)]
    return entries + [
        {"type": "file", "path": path, "oid": file.oid, "size": file.size, **lfs(file), **last}
        for path, file in sorted(commit.files.items())
    ]
