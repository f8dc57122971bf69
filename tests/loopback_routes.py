"""What the loopback Hub answers: accounts, repositories, files, history, requests for access."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable
from typing import TYPE_CHECKING

import yaml
from loopback_cards import card_problems, front_matter
from loopback_faults import Answer, Exchange, Refusal
from loopback_repositories import Commit, File, Repository

if TYPE_CHECKING:
    from loopback_hub import Hub

API = r"/api/(?P<kind>model|dataset)s/(?P<name>[^/]+/[^/]+)"
PAGE = r"/(?:(?P<kind>dataset)s/)?(?P<name>[^/]+/[^/]+?)"
REVISION = r"(?P<revision>refs/\w+/\w+|[^/]+)"
ROUTES: list[tuple[str, re.Pattern, str, Callable]] = []


def route(method: str, pattern: str, level: str = "information") -> Callable[[Callable], Callable]:
    """level: what the user must be allowed in the repository that the pattern names; see Hub.require."""

    def register(handler: Callable) -> Callable:
        ROUTES.append((method, re.compile(pattern), level, handler))
        return handler

    return register


# ---- accounts and repositories


@route("GET", "/api/whoami-v2")
def whoami(hub: Hub, exchange: Exchange) -> dict:
    user = exchange.user
    if user is None:
        raise Refusal(401, "Invalid username or password.")
    orgs = [
        {"type": "org", "name": org, "roleInOrg": "admin"} for org, users in hub.organisations.items() if user in users
    ]
    return {"type": "user", "id": user, "name": user, "fullname": user.title(), "orgs": orgs, "email": f"{user}@x.test"}


@route("POST", "/api/repos/create")
def create(hub: Hub, exchange: Exchange) -> dict:
    kind, name = named(exchange)
    if not hub.may_write(exchange.user, name) or exchange.headers.get("Authorization", "")[7:] in hub.read_only:
        raise Refusal(403 if exchange.user else 401, f"You may not create a {kind} in the namespace of {name}")
    url = f"{hub.url}/{'datasets/' if kind == 'dataset' else ''}{name}"
    if (kind, name) in hub.repositories:
        return Answer({"error": f"You already created this {kind} repo", "url": url}, 409)
    private = exchange.json.get("visibility") == "private" or exchange.json.get("private") is True
    hub.create(name, kind, private, exchange.user)
    return {"url": url, "name": name, "id": name}


def named(exchange: Exchange) -> tuple[str, str]:
    """Kind and full name of the repository that the body of the request names."""
    owner = exchange.json.get("organization") or exchange.user
    exchange.repository = (exchange.json.get("type") or "model", f"{owner}/{exchange.json['name']}")
    return exchange.repository


@route("DELETE", "/api/repos/delete")
def delete(hub: Hub, exchange: Exchange) -> dict:
    repository = hub.find(exchange, *named(exchange))
    hub.require(exchange, repository, "write")
    repository.note("images", False)
    del hub.repositories[repository.kind, repository.name]
    return {}


@route("PUT", f"{API}/settings", "write")
def settings(hub: Hub, exchange: Exchange, repository: Repository) -> dict:
    wanted = exchange.json
    if wanted.get("gated", False) not in ("auto", "manual", False):
        raise Refusal(400, "gated must be auto, manual or false")
    visibility = wanted.get("visibility") or {True: "private", False: "public", None: None}[wanted.get("private")]
    if visibility not in ("public", "private", None):
        raise Refusal(400, "visibility must be public or private")
    if "gated" in wanted:
        repository.set_gated(wanted["gated"])
    if visibility:
        repository.set_private(visibility == "private")
    return {"gated": repository.gated, "private": repository.private}


@route("GET", f"{API}/auth-check", "files")
@route("GET", f"{API}/auth-check/write", "write")
def auth_check(hub: Hub, exchange: Exchange, repository: Repository) -> dict:
    return {}


@route("POST", "/api/validate-yaml")
def validate_yaml(hub: Hub, exchange: Exchange) -> Answer:
    errors, warnings = card_problems(exchange.json["content"])
    messages = {"errors": [{"message": m} for m in errors], "warnings": [{"message": m} for m in warnings]}
    return Answer(messages, 400 if errors else 200)


# ---- what is in a repository


def commit_of(repository: Repository, revision: str) -> Commit:
    try:
        return repository.at(revision)
    except KeyError:
        raise Refusal(404, f"Invalid rev id: {revision}", "RevisionNotFound") from None


@route("GET", API)
@route("GET", f"{API}/revision/{REVISION}")
def information(hub: Hub, exchange: Exchange, repository: Repository, revision: str = "main") -> dict:
    commit = commit_of(repository, revision)
    siblings = [{"rfilename": path} for path in sorted(commit.files)]
    if exchange.query.get("blobs"):
        for sibling in siblings:
            file = commit.files[sibling["rfilename"]]
            sibling |= {"size": len(file.content), "blobId": file.oid}
            sibling |= {"lfs": large_file(file) | {"sha256": file.sha256}} if file.large else {}
    try:
        card = front_matter(commit.files["README.md"].content.decode())
    except (KeyError, ValueError, yaml.YAMLError):
        card = None
    tags = card.get("tags", []) if isinstance(card, dict) else []
    return {
        "_id": repository.name,
        "id": repository.name,
        "author": repository.name.partition("/")[0],
        "sha": commit.oid,
        "private": repository.private,
        "gated": repository.gated,
        "disabled": False,
        "downloads": 0,
        "likes": 0,
        "tags": tags,
        "cardData": card,
        "siblings": siblings,
        "createdAt": repository.created,
        "lastModified": commit.date,
        "usedStorage": sum(len(content) for content in repository.large_files.values()),
    }


def large_file(file: File) -> dict:
    return {"oid": file.sha256, "size": len(file.content), "pointerSize": len(file.pointer)}


def entry(commit: Commit, path: str, expand: bool) -> dict | None:
    """A file or a folder as tree and paths-info list it; None where there is no such path."""
    if file := commit.files.get(path):
        listed = {"type": "file", "oid": file.oid, "size": len(file.content), "path": path}
        listed |= {"lfs": large_file(file)} if file.large else {}
        safe = {"status": "safe", "avScan": None, "pickleImportScan": None}
        listed |= {"securityFileStatus": safe} if expand else {}
    elif any(name.startswith(f"{path}/") for name in commit.files):
        listed = {"type": "directory", "oid": hashlib.sha1(path.encode()).hexdigest(), "size": 0, "path": path}
    else:
        return None
    last = {"id": commit.oid, "title": commit.title, "date": commit.date}
    return listed | ({"lastCommit": last} if expand else {})


def is_true(values: list[str] | None) -> bool:
    return bool(values) and values[0].lower() in ("true", "1")


@route("GET", f"{API}/tree/{REVISION}(?:/(?P<folder>.+))?")
def tree(hub: Hub, exchange: Exchange, repository: Repository, revision: str, folder: str = "") -> Answer:
    commit = commit_of(repository, revision)
    recursive, expand = (is_true(exchange.query.get(key)) for key in ("recursive", "expand"))
    start = f"{folder.rstrip('/')}/" if folder else ""
    below = [path.removeprefix(start) for path in commit.files if path.startswith(start)]
    if folder and not below:
        raise Refusal(404, f"{folder} does not exist on {revision}", "EntryNotFound")
    depth = max((path.count("/") for path in below), default=0) if recursive else 0
    names = {"/".join(path.split("/")[: level + 1]) for path in below for level in range(depth + 1)}
    entries = [entry(commit, start + name, expand) for name in sorted(names)]
    return hub.page(exchange, entries, min(50, hub.page_size) if expand else None)


@route("POST", f"{API}/paths-info/{REVISION}")
def paths_info(hub: Hub, exchange: Exchange, repository: Repository, revision: str) -> list:
    commit, expand = commit_of(repository, revision), is_true(exchange.form.get("expand"))
    entries = [entry(commit, path.rstrip("/"), expand) for path in exchange.form.get("paths", [])]
    return [listed for listed in entries if listed]


@route("GET", f"{PAGE}/resolve/{REVISION}/(?P<path>.+)", "files")
def resolve(hub: Hub, exchange: Exchange, repository: Repository, revision: str, path: str) -> Answer:
    commit = commit_of(repository, revision)
    headers = {"X-Repo-Commit": commit.oid, "Accept-Ranges": "bytes"}
    if path not in commit.files:
        raise Refusal(404, "Entry not found", "EntryNotFound", **headers)
    file = commit.files[path]
    if not file.large:
        return part_of(exchange, file.content, path, headers | {"ETag": f'"{file.oid}"'})
    if file.sha256 not in repository.large_files:
        raise Refusal(404, "Entry not found", "EntryNotFound", **headers)
    allowed = {"repository": repository, "sha256": file.sha256, "size": len(file.content), "user": exchange.user}
    headers |= {"X-Linked-Etag": f'"{file.sha256}"', "X-Linked-Size": str(len(file.content)), "ETag": f'"{file.oid}"'}
    return Answer(b"", 302, headers | {"Location": hub.sign(operation="download", path=path, **allowed)})


def part_of(exchange: Exchange, content: bytes, path: str, headers: dict[str, str]) -> Answer:
    """The range that was asked for, or the whole."""
    asked = re.fullmatch(r"bytes=(\d*)-(\d*)", exchange.headers.get("Range", ""))
    if not asked or not any(asked.groups()):
        return Answer(content, 200, headers, path)
    first, last = asked.groups()
    start = int(first) if first else max(len(content) - int(last), 0)
    end = min(int(last), len(content) - 1) if first and last else len(content) - 1
    if start > end:
        raise Refusal(416, "Range Not Satisfiable", **{"Content-Range": f"bytes */{len(content)}"})
    headers |= {"Content-Range": f"bytes {start}-{end}/{len(content)}"}
    return Answer(content[start : end + 1], 206, headers, path)


# ---- branches, tags, history


@route("GET", f"{API}/refs")
def refs(hub: Hub, exchange: Exchange, repository: Repository) -> dict:
    groups = {"branches": "refs/heads/", "tags": "refs/tags/", "converts": "refs/convert/"}
    groups |= {"pullRequests": "refs/pr/"} if exchange.query.get("include_prs") else {}
    return {
        group: [
            {"name": ref.removeprefix(prefix), "ref": ref, "targetCommit": oid}
            for ref, oid in repository.refs.items()
            if ref.startswith(prefix)
        ]
        for group, prefix in groups.items()
    }


def new_ref(repository: Repository, ref: str, revision: str) -> dict:
    if ref in repository.refs:
        raise Refusal(409, f"{ref} exists already")
    repository.refs[ref] = commit_of(repository, revision).oid
    return {}


def delete_ref(repository: Repository, ref: str) -> dict:
    if ref not in repository.refs:
        raise Refusal(404, f"Invalid rev id: {ref}", "RevisionNotFound")
    del repository.refs[ref]
    repository.note("images", repository.holds_images)
    return {}


@route("POST", f"{API}/branch/(?P<branch>[^/]+)", "write")
def create_branch(hub: Hub, exchange: Exchange, repository: Repository, branch: str) -> dict:
    if branch.startswith("refs/"):
        raise Refusal(400, "Invalid reference for a branch")
    start = exchange.json.get("startingPoint", "main") if exchange.body else "main"
    return new_ref(repository, f"refs/heads/{branch}", start)


@route("DELETE", f"{API}/branch/(?P<branch>[^/]+)", "write")
def delete_branch(hub: Hub, exchange: Exchange, repository: Repository, branch: str) -> dict:
    if branch == "main" or branch.startswith("refs/"):
        raise Refusal(403, f"{branch} cannot be deleted")
    return delete_ref(repository, f"refs/heads/{branch}")


@route("POST", f"{API}/tag/{REVISION}", "write")
def create_tag(hub: Hub, exchange: Exchange, repository: Repository, revision: str) -> dict:
    return new_ref(repository, f"refs/tags/{exchange.json['tag']}", revision)


@route("DELETE", f"{API}/tag/(?P<tag>[^/]+)", "write")
def delete_tag(hub: Hub, exchange: Exchange, repository: Repository, tag: str) -> dict:
    return delete_ref(repository, f"refs/tags/{tag}")


@route("GET", f"{API}/commits/{REVISION}")
def commits(hub: Hub, exchange: Exchange, repository: Repository, revision: str) -> Answer:
    commit, listed = commit_of(repository, revision), []
    while commit:
        shown = {"id": commit.oid, "title": commit.title, "message": "", "date": commit.date}
        listed.append(shown | {"authors": [{"user": commit.author}]})
        commit = repository.commits[commit.parent] if commit.parent else None
    return hub.page(exchange, listed)


@route("POST", f"{API}/super-squash/(?P<branch>[^/]+)", "write")
def super_squash(hub: Hub, exchange: Exchange, repository: Repository, branch: str) -> dict:
    """One commit without a parent. What another branch, a tag or a pull request leads to stays readable."""
    ref = f"refs/heads/{branch}"
    if ref not in repository.refs:
        raise Refusal(404, f"Invalid rev id: {branch}", "RevisionNotFound")
    files = repository.commits[repository.refs[ref]].files
    repository.commit(ref, files, exchange.json.get("message", ""), exchange.user)
    return {}


@route("GET", f"{API}/lfs-files", "write")
def large_files(hub: Hub, exchange: Exchange, repository: Repository) -> Answer:
    listed = [
        {
            "oid": hashlib.sha1(sha.encode()).hexdigest()[:24],
            "fileOid": sha,
            "filename": repository.path_of(sha),
            "pushedAt": repository.pushed[sha],
            "ref": "refs/heads/main",
            "size": len(content),
        }
        for sha, content in repository.large_files.items()
    ]
    return hub.page(exchange, listed)


@route("POST", f"{API}/lfs-files/batch", "write")
def delete_large_files(hub: Hub, exchange: Exchange, repository: Repository) -> dict:
    shas = set(exchange.json["deletions"]["sha"])
    if exchange.json["deletions"].get("rewriteHistory"):
        repository.forget_large_files(shas)
    else:
        for sha in shas:
            repository.large_files.pop(sha, None)
    return {}


# ---- requests for access


@route("POST", f"{PAGE}/ask-access")
def ask_access(hub: Hub, exchange: Exchange, repository: Repository) -> Answer:
    if exchange.user is None:
        raise Refusal(401, "Invalid username or password.")
    if not repository.gated:
        raise Refusal(400, "This repository is not gated")
    if exchange.user not in repository.requests:
        fields = {key: values[0] for key, values in exchange.form.items()}
        repository.set_access(exchange.user, "accepted" if repository.gated == "auto" else "pending", fields)
    return Answer(b"", 303, {"Location": exchange.path.removesuffix("/ask-access")})


@route("GET", f"{API}/user-access-request/(?P<status>pending|accepted|rejected)", "write")
def access_requests(hub: Hub, exchange: Exchange, repository: Repository, status: str) -> Answer:
    if not repository.gated:
        raise Refusal(400, "This repository is not gated")
    listed = [
        {
            "requestId": request.request_id,
            "status": status,
            "timestamp": request.timestamp,
            "user": {
                "user": request.user,
                "fullname": request.user.title(),
                "email": None if request.fields is None else f"{request.user}@x.test",
            },
        }
        | ({"fields": request.fields} if request.fields else {})
        for request in repository.requests.values()
        if request.status == status
    ]
    return hub.page(exchange, listed)


@route("POST", f"{API}/user-access-request/handle", "write")
def handle_access_request(hub: Hub, exchange: Exchange, repository: Repository) -> dict:
    wanted = exchange.json
    if not repository.gated:
        raise Refusal(400, "This repository is not gated")
    if wanted["status"] not in ("accepted", "rejected", "pending") or len(wanted.get("rejectionReason", "")) > 200:
        raise Refusal(400, "the status is unknown, or the reason has more than 200 characters")
    asked = [
        r
        for r in repository.requests.values()
        if wanted.get("user") == r.user or wanted.get("requestId") == r.request_id
    ]
    if not asked or asked[0].status == wanted["status"]:
        raise Refusal(404, "No access request, or it is in this list already")
    repository.set_access(asked[0].user, wanted["status"])
    return {}


@route("POST", f"{API}/user-access-request/grant", "write")
def grant_access(hub: Hub, exchange: Exchange, repository: Repository) -> dict:
    user = exchange.json["user"]
    if not repository.gated:
        raise Refusal(400, "This repository is not gated")
    if user not in hub.accounts.values():
        raise Refusal(404, f"there is no user {user}")
    if user in repository.requests and repository.requests[user].status == "accepted":
        raise Refusal(400, f"{user} has access already")
    repository.set_access(user, "accepted")
    return {}
