"""Uploads to the loopback Hub: large files to signed addresses of its storage, then a commit that names them."""

from __future__ import annotations

import base64
import fnmatch
import hashlib
import json
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

from loopback_cards import card_problems
from loopback_faults import Answer, Exchange, Refusal
from loopback_repositories import File, Repository, now
from loopback_routes import API, PAGE, REVISION, commit_of, part_of, route

if TYPE_CHECKING:
    from loopback_hub import Hub


@dataclass
class Signed:
    """What a signed address allows, to whom, until when (time.monotonic, s); part: of an upload in parts."""

    operation: str  # download, upload, complete
    repository: Repository
    sha256: str
    size: int
    user: str | None
    until: float
    path: str | None = None
    part: int | None = None


@route("POST", f"{API}/preupload/{REVISION}", "write")
def preupload(hub: Hub, exchange: Exchange, repository: Repository, revision: str) -> dict:
    """Which files are large, and what is there already, so that the client leaves out what did not change."""
    there, answers = commit_of(repository, revision).files, []
    attributes = there[".gitattributes"].content.decode() if ".gitattributes" in there else ""
    patterns = [line.split()[0] for line in attributes.splitlines() if "filter=lfs" in line]
    for asked in exchange.json["files"]:
        path, size = asked["path"], asked["size"]
        large = size > 10_000_000 or any(fnmatch.fnmatch(path, pattern) for pattern in patterns)
        known = {"oid": there[path].etag} if path in there else {}
        answers.append({"path": path, "uploadMode": "lfs" if large else "regular", "shouldIgnore": False} | known)
    return {"files": answers, "commitOid": commit_of(repository, revision).oid}


@route("POST", f"{PAGE}\\.git/info/lfs/objects/batch")
def large_file_batch(hub: Hub, exchange: Exchange, repository: Repository) -> dict:
    operation = exchange.json["operation"]
    hub.require(exchange, repository, "write" if operation == "upload" else "files")
    objects = []
    for asked in exchange.json["objects"]:
        sha, size = asked["oid"], asked["size"]
        allowed = {"repository": repository, "sha256": sha, "size": size, "user": exchange.user}
        there, actions = sha in repository.large_files, {}
        if operation == "download" and there:
            actions = {"download": {"href": hub.sign(operation="download", path=repository.path_of(sha), **allowed)}}
        elif operation == "download":
            objects.append(asked | {"error": {"code": 404, "message": "Object does not exist"}})
            continue
        elif not there:
            verify = f"{hub.url}/api/{repository.kind}s/{repository.name}/lfs-verify"
            actions = {"upload": upload_action(hub, allowed), "verify": {"href": verify}}
        objects.append({"oid": sha, "size": size} | ({"actions": actions} if actions else {}))
    return {"transfer": "multipart" if hub.part_bytes else "basic", "objects": objects}


def upload_action(hub: Hub, allowed: dict) -> dict:
    """Where to PUT an object: at once, or in parts, whose number and size the client is told."""
    if not hub.part_bytes or allowed["size"] <= hub.part_bytes:
        return {"href": hub.sign(operation="upload", **allowed)}
    n_parts = -(-allowed["size"] // hub.part_bytes)
    header = {"chunk_size": str(hub.part_bytes)}
    header |= {f"{n:05}": hub.sign(operation="upload", part=n, **allowed) for n in range(1, n_parts + 1)}
    return {"href": hub.sign(operation="complete", **allowed), "header": header}


@route("POST", f"{API}/lfs-verify", "write")
def verify_large_file(hub: Hub, exchange: Exchange, repository: Repository) -> dict:
    stored = repository.large_files.get(exchange.json["oid"])
    if stored is None or len(stored) != exchange.json["size"]:
        raise Refusal(404, "Object does not exist")
    return {}


def signed(hub: Hub, exchange: Exchange, key: str, operations: tuple[str, ...]) -> Signed:
    allowed = hub.signed.get(key)
    if allowed is None or allowed.operation not in operations or allowed.until < time.monotonic():
        raise Refusal(403, "the signature is unknown, for something else, or has expired")
    exchange.user, exchange.repository = allowed.user, (allowed.repository.kind, allowed.repository.name)
    return allowed


@route("GET", "/storage/(?P<key>[^/]+)")
def download(hub: Hub, exchange: Exchange, key: str) -> Answer:
    allowed = signed(hub, exchange, key, ("download",))
    content = allowed.repository.large_files.get(allowed.sha256)
    if content is None:
        raise Refusal(404, "the object was deleted")
    return part_of(exchange, content, allowed.path, {"ETag": f'"{allowed.sha256}"', "Accept-Ranges": "bytes"})


@route("PUT", "/storage/(?P<key>[^/]+)")
def store(hub: Hub, exchange: Exchange, key: str) -> Answer:
    allowed = signed(hub, exchange, key, ("upload",))
    if allowed.part is None:
        keep(allowed, exchange.body)
    else:
        hub.parts[allowed.sha256, allowed.part] = exchange.body
    return Answer(b"", 200, {"ETag": f'"{hashlib.md5(exchange.body).hexdigest()}"'})


@route("POST", "/storage/(?P<key>[^/]+)")
def complete(hub: Hub, exchange: Exchange, key: str) -> dict:
    allowed = signed(hub, exchange, key, ("complete",))
    numbers = [part["partNumber"] for part in exchange.json["parts"]]
    keep(allowed, b"".join(hub.parts.get((allowed.sha256, n), b"") for n in numbers))
    return {}


def keep(allowed: Signed, content: bytes) -> None:
    if hashlib.sha256(content).hexdigest() != allowed.sha256:
        raise Refusal(400, "the content does not have the announced sha256")
    allowed.repository.large_files[allowed.sha256] = content
    allowed.repository.pushed[allowed.sha256] = now()


@route("POST", f"{API}/commit/{REVISION}", "information")
def make_commit(hub: Hub, exchange: Exchange, repository: Repository, revision: str) -> dict:
    """All of it, or nothing. create_pr=1 puts it under refs/pr/N, for which reading is enough."""
    pull_request = bool(exchange.query.get("create_pr"))
    hub.require(exchange, repository, "files" if pull_request else "write")
    if exchange.user is None:
        raise Refusal(401, "Invalid username or password.")
    lines = [json.loads(line) for line in exchange.body.splitlines() if line.strip()]
    header = next((line["value"] for line in lines if line["key"] == "header"), None)
    parent = commit_of(repository, revision)
    if header is None or not header.get("summary"):
        raise Refusal(400, "a commit needs a header with a summary")
    if header.get("parentCommit") not in (None, parent.oid):
        raise Refusal(412, "A commit has happened since. Please refresh and try again.")
    files = changed_files(repository, dict(parent.files), [line for line in lines if line["key"] != "header"])
    ref = next((r for r in (revision, f"refs/heads/{revision}") if r in repository.refs), None)
    if pull_request:
        ref = f"refs/pr/{1 + sum(name.startswith('refs/pr/') for name in repository.refs)}"
    if ref is None:
        raise Refusal(400, f"{revision} is not a branch")
    commit = repository.commit(ref, files, header["summary"], exchange.user, parent.oid)
    page = f"{hub.url}/{'datasets/' if repository.kind == 'dataset' else ''}{repository.name}"
    made = {"success": True, "commitOid": commit.oid, "commitUrl": f"{page}/commit/{commit.oid}", "hookOutput": ""}
    return made | ({"pullRequestUrl": f"{page}/discussions/{ref.rpartition('/')[2]}"} if pull_request else {})


def changed_files(repository: Repository, files: dict[str, File], changes: list[dict]) -> dict[str, File]:
    for change in changes:
        kind, value, path = change["key"], change["value"], change["value"]["path"]
        if kind == "file":
            files[path] = File(base64.b64decode(value["content"]), False)
        elif kind == "lfsFile":
            if value["oid"] not in repository.large_files:
                raise Refusal(400, f"{path}: its LFS object {value['oid']} was not uploaded")
            files[path] = File(repository.large_files[value["oid"]], True)
        elif kind == "deletedFile" and path in files:
            del files[path]
        elif kind == "deletedFolder" and any(name.startswith(f"{path.rstrip('/')}/") for name in files):
            files = {name: file for name, file in files.items() if not name.startswith(f"{path.rstrip('/')}/")}
        elif kind in ("deletedFile", "deletedFolder"):
            raise Refusal(404, f"A file with this name doesn't exist: {path}", "EntryNotFound")
        else:
            raise Refusal(400, f"unknown operation {kind}")
    if "README.md" in files and (problems := card_problems(files["README.md"].content.decode(errors="replace"))[0]):
        raise Refusal(400, f"the metadata of README.md is invalid: {'; '.join(problems)}")
    return files
