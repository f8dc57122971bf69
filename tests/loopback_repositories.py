"""What the loopback Hub stores: repositories with their history, requests for access, all that happened to them."""

import hashlib
import json
import secrets
from collections.abc import Collection
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import cached_property

IMAGE_FILES = (".parquet", ".arrow", ".png", ".jpg", ".jpeg", ".webp", ".zip", ".tar")
LARGE_FILES = ("*.parquet", "*.arrow", "*.png", "*.jpg", "*.jpeg", "*.webp", "*.zip", "*.tar", "*.safetensors", "*.pt")
GITATTRIBUTES = "".join(f"{pattern} filter=lfs diff=lfs merge=lfs -text\n" for pattern in LARGE_FILES).encode()


def now() -> str:
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%S.%f")[:-3] + "Z"


@dataclass(frozen=True)
class File:
    """One file of a revision; `large`: stored by its sha256 (Git LFS), with a pointer in git."""

    content: bytes
    large: bool

    @cached_property
    def sha256(self) -> str:
        return hashlib.sha256(self.content).hexdigest()

    @cached_property
    def pointer(self) -> bytes:
        return (
            f"version https://git-lfs.github.com/spec/v1\noid sha256:{self.sha256}\nsize {len(self.content)}\n".encode()
        )

    @cached_property
    def oid(self) -> str:
        """As git would name the blob."""
        blob = self.pointer if self.large else self.content
        return hashlib.sha1(b"blob %d\0" % len(blob) + blob).hexdigest()

    @property
    def etag(self) -> str:
        return self.sha256 if self.large else self.oid


@dataclass(frozen=True)
class Commit:
    oid: str
    parent: str | None
    title: str
    author: str
    date: str
    files: dict[str, File]


@dataclass
class AccessRequest:
    user: str
    status: str  # pending, accepted, rejected
    fields: dict[str, str] | None  # answers to the form; None: granted without having asked
    request_id: str = field(default_factory=lambda: secrets.token_hex(12))
    timestamp: str = field(default_factory=now)


@dataclass
class Event:
    """What happened to a repository: `what` is created, private, gated, images, or access of a user."""

    repository: tuple[str, str]
    what: str
    value: object
    user: str | None = None


class Repository:
    """kind: dataset or model; refs: full names (refs/heads/main, refs/tags/v1, refs/pr/1) -> commit."""

    def __init__(self, kind: str, name: str, private: bool, author: str, events: list[Event]):
        self.kind, self.name, self.events, self.created = kind, name, events, now()
        self.commits: dict[str, Commit] = {}
        self.refs: dict[str, str] = {}
        self.large_files: dict[str, bytes] = {}  # sha256 -> content, also without a commit that names it
        self.pushed: dict[str, str] = {}
        self.requests: dict[str, AccessRequest] = {}
        self.gated: str | bool = False
        self.note("created", True)
        self.set_private(private)
        self.commit("refs/heads/main", {".gitattributes": File(GITATTRIBUTES, False)}, "initial commit", author)

    def note(self, what: str, value: object, user: str | None = None) -> None:
        self.events.append(Event((self.kind, self.name), what, value, user))

    def set_private(self, private: bool) -> None:
        self.private = private
        self.note("private", private)

    def set_gated(self, gated: str | bool) -> None:
        self.gated = gated
        self.note("gated", gated)

    def set_access(self, user: str, status: str, fields: dict[str, str] | None = None) -> None:
        self.requests.setdefault(user, AccessRequest(user, status, fields)).status = status
        self.note("access", status, user)

    def commit(self, ref: str, files: dict[str, File], title: str, author: str, parent: str | None = None) -> Commit:
        content = json.dumps([ref, parent, title, secrets.token_hex(8), {p: f.oid for p, f in files.items()}])
        commit = Commit(hashlib.sha1(content.encode()).hexdigest(), parent, title, author, now(), files)
        self.commits[commit.oid], self.refs[ref] = commit, commit.oid
        self.note("images", self.holds_images)
        return commit

    def reachable(self) -> dict[str, Commit]:
        """Commits that some branch, tag or pull request leads to; the others can no longer be read."""
        found, ends = {}, list(self.refs.values())
        while ends:
            commit = self.commits[ends.pop()]
            if commit.oid not in found:
                found[commit.oid] = commit
                ends += [commit.parent] if commit.parent else []
        return found

    def at(self, revision: str) -> Commit:
        """The commit that a branch, a tag, a ref or a commit's name means; KeyError where there is none."""
        for ref in (f"refs/heads/{revision}", f"refs/tags/{revision}", revision):
            if ref in self.refs:
                return self.commits[self.refs[ref]]
        return self.reachable()[revision]

    def forget_large_files(self, shas: Collection[str]) -> None:
        """Delete the objects, and rewrite history without the files that point to them."""
        for sha in shas:
            self.large_files.pop(sha, None)
        renamed: dict[str | None, str | None] = {None: None}
        for commit in list(self.commits.values()):  # parents come first
            files = {path: file for path, file in commit.files.items() if not (file.large and file.sha256 in shas)}
            oid, parent = commit.oid, renamed[commit.parent]
            if len(files) < len(commit.files) or parent != commit.parent:
                oid = hashlib.sha1(f"{commit.oid} rewritten".encode()).hexdigest()
                self.commits[oid] = Commit(oid, parent, commit.title, commit.author, commit.date, files)
            renamed[commit.oid] = oid
        self.refs = {ref: renamed[oid] for ref, oid in self.refs.items()}
        self.note("images", self.holds_images)

    def path_of(self, sha256: str) -> str:
        """A path, of whatever commit, under which an object lay."""
        found = (p for c in self.commits.values() for p, f in c.files.items() if f.large and f.sha256 == sha256)
        return next(found, f"lfs/{sha256}")

    def delete_pull_request(self, number: int) -> None:
        """The button of the closed pull request's page, for which the client has no method."""
        del self.refs[f"refs/pr/{number}"]
        self.note("images", self.holds_images)

    @property
    def files(self) -> dict[str, bytes]:
        """Path -> content, on main."""
        return {path: file.content for path, file in self.at("main").files.items()}

    @property
    def revisions(self) -> list[str]:
        """Commits of main, newest first."""
        commit, chain = self.at("main"), []
        while commit:
            chain.append(commit.oid)
            commit = self.commits[commit.parent] if commit.parent else None
        return chain

    @property
    def holds_images(self) -> bool:
        return any(path.endswith(IMAGE_FILES) for commit in self.reachable().values() for path in commit.files)

    @property
    def exposed(self) -> bool:
        """Anybody can read an image."""
        return not self.private and not self.gated and self.holds_images

    @property
    def was_exposed(self) -> bool:
        """There was a moment at which anybody could read an image; by the events, not by what is stored now."""
        return any(is_open(state) for state in histories(self.events).get((self.kind, self.name), []))


def histories(events: list[Event]) -> dict[tuple[str, str], list[dict]]:
    """Of each repository, its state after each of its events: private, gated, images, access {user: status}."""
    states: dict[tuple[str, str], list[dict]] = {}
    for event in events:
        past = states.setdefault(event.repository, [])
        if event.what == "created":
            state = {"private": True, "gated": False, "images": False, "access": {}}
        elif event.what == "access":
            state = past[-1] | {"access": past[-1]["access"] | {event.user: event.value}}
        else:
            state = past[-1] | {event.what: event.value}
        past.append(state)
    return states


def is_open(state: dict) -> bool:
    return state["images"] and not state["private"] and not state["gated"]
