"""One dataset repository on the Hub: its settings, its files, and whether strangers are refused.

The Hub's client cannot create a repository that is gated, and it creates public repositories for models unless told
otherwise. Here every call says `repo_type="dataset"`, and every setting is read back after it was made.
"""

import functools
import inspect
import re
import time
from collections.abc import Callable
from pathlib import Path

import httpx2
import huggingface_hub
from huggingface_hub import CommitOperationAdd, CommitOperationDelete, DatasetInfo, HfApi, RepoFile, hf_hub_url
from huggingface_hub.errors import (
    GatedRepoError,
    HfHubHTTPError,
    LocalTokenNotFoundError,
    OfflineModeIsEnabled,
    RepositoryNotFoundError,
)
from huggingface_hub.utils import build_hf_headers, get_session, get_token, hf_raise_for_status
from huggingface_hub.utils.sha import git_hash

from harness.errors import InputError, OutsideError, one_line
from harness.files import sha256_of
from publishing.repository_visibility import Audience

HUB_ERRORS = (HfHubHTTPError, OfflineModeIsEnabled, LocalTokenNotFoundError, OSError, httpx2.HTTPError)
HIDING_ATTEMPTS, HIDING_PAUSE_S = 5, 2.0
COMMIT = re.compile("[0-9a-f]{40}")


class HubError(OutsideError):
    """The Hub did not do what it was asked to; the message is one line. Exit code 1."""


def explained(error: Exception, token: str | None = None) -> str:
    """The message of an error of the client, in one line. The token and the query of an address (after ?), which may
    hold a signature, are removed."""
    text = re.sub(r"\?[^\s'\")]*| For more information check: \S+", "", one_line(error))
    return text.replace(token, "***") if token else text


class Repository:
    """A dataset repository, named ORG/NAME.

    token: of an account that may write to it; None: the client's own token (from HF_TOKEN or hf auth login)."""

    def __init__(self, name: str, token: str | None = None):
        self.name = name
        self.token = token or get_token()
        self.api = HfApi(token=self.token or False)  # explicitly: a user may have switched off the client's default
        self.url = f"{huggingface_hub.constants.ENDPOINT}/datasets/{name}"

    def call(self, method: str, *args: object, **kwargs: object) -> object:
        """The result of HfApi's method for this repository; a list if the method answers page by page.

        Raises HubError if the client cannot read the Hub's answer."""
        try:
            answer = getattr(self.api, method)(self.name, *args, repo_type="dataset", **kwargs)
            return list(answer) if inspect.isgenerator(answer) else answer
        except HUB_ERRORS:
            raise
        except (TypeError, ValueError, LookupError, AttributeError) as error:
            raise HubError(
                f"{self.name}: the Hub's answer to {method} makes no sense ({type(error).__name__})"
            ) from error

    def state(self) -> DatasetInfo | None:
        """The settings as the Hub reports them now; None if this account sees no such repository."""
        try:
            return self.call("repo_info")
        except GatedRepoError as error:
            reason = "is somebody else's, and gated"
            raise InputError(f"{self.name}: {reason}; use a token that may write to it, or name another") from error
        except RepositoryNotFoundError:
            return None

    def create(self) -> DatasetInfo:
        """Creates a private repository and returns its settings."""
        self.call("create_repo", private=True, exist_ok=True)
        state = self.state()
        if state is None:
            raise HubError(f"{self.name}: was created, but the Hub does not show it; run the same command again")
        return state

    def must_be_writable(self) -> None:
        """Raise InputError unless the token may write to the repository."""
        try:
            self.call("auth_check", write=True)
        except HfHubHTTPError as error:
            if error.response.status_code not in (401, 403, 404):
                raise
            raise InputError(
                f"{self.name}: this token may not write to it; use one that may, or another name"
            ) from error

    def must_be_for(self, audience: Audience) -> str | None:
        """The repository's current commit. Raises HubError unless it has exactly this audience."""
        state = self.state()
        if state is None:
            raise HubError(f"{self.name}: the Hub shows no such repository any more; nothing more was sent")
        if not audience.is_that_of(state):
            wanted = f"private {audience.private} and gated {audience.gate.value}"
            reported = f"private {state.private} and gated {state.gated}"
            raise HubError(f"{self.name}: should be {wanted}, but the Hub says {reported}")
        return state.sha

    def hide(self) -> None:
        """Makes the repository private and checks that it is. Tried several times, since photographs may lie open."""
        reason = "the Hub still says that it is public"
        for attempt in range(HIDING_ATTEMPTS):
            try:
                self.call("update_repo_settings", private=True)
                if self.call("repo_info").private is True:
                    return
            except (*HUB_ERRORS, HubError) as error:
                reason = explained(error, self.token)
            time.sleep(HIDING_PAUSE_S * (attempt + 1 < HIDING_ATTEMPTS))
        raise HubError(f"{self.name}: COULD NOT BE MADE PRIVATE ({reason}); do it by hand now: {self.url}/settings")

    def strangers_must_be_refused(self, paths: list[str]) -> None:
        """Asks for the repository and for each of these files as somebody without an account would.

        Raises HubError unless each request is refused by the gate: for any other answer or error."""
        self._must_be_gated("the repository", functools.partial(self.call, "auth_check", token=False))
        for path in paths:
            self._must_be_gated(path, functools.partial(self._ask_as_stranger, path))

    def _must_be_gated(self, requested: str, ask: Callable[[], object]) -> None:
        try:
            ask()
            outcome = "was served"
        except GatedRepoError:
            return
        except HUB_ERRORS as error:
            outcome = f"was refused for another reason ({type(error).__name__})"
        raise HubError(f"{self.name}: asked for without an account, {requested} {outcome}, not by the gate")

    def _ask_as_stranger(self, path: str) -> None:
        headers = build_hf_headers(token=False) | {"Range": "bytes=0-0"}
        address = hf_hub_url(self.name, path, repo_type="dataset")
        with get_session().stream("GET", address, headers=headers, follow_redirects=False) as response:
            if response.status_code >= 400:  # a redirect to the content is no error, and counts as served
                response.read()
            hf_raise_for_status(response)

    def read(self, path: str) -> bytes:
        """The content of a small file at main, read past all caches."""
        address = hf_hub_url(self.name, path, repo_type="dataset")
        response = get_session().get(address, headers=build_hf_headers(token=self.token), follow_redirects=True)
        hf_raise_for_status(response)
        return response.content

    def files(self) -> dict[str, str]:
        """Path -> digest of each file at main: SHA-256 (64 digits) of a large one, git's digest (40) of a small one."""
        entries = self.call("list_repo_tree", recursive=True)
        files = [entry for entry in entries if isinstance(entry, RepoFile)]
        return {file.path: file.lfs.sha256 if file.lfs else file.blob_id for file in files}

    def commit(self, changed: dict[str, Path], gone: list[str], parent: str | None, message: str) -> None:
        """Uploads and deletes in one commit, so that readers see either the old files or the new ones.

        changed: path in the repository -> file here; gone: paths to delete; parent: the commit with which the files
        were compared; the Hub refuses the new commit if another one was made meanwhile. Files that were uploaded before
        an interruption are not sent again."""
        operations = [CommitOperationAdd(name, str(file)) for name, file in changed.items()]
        operations += [CommitOperationDelete(name, is_folder=False) for name in gone]
        parent = parent if parent and COMMIT.fullmatch(parent) else None
        if operations:
            self.call("create_commit", operations, commit_message=message, parent_commit=parent)

    def forget_history(self) -> list[str]:
        """Deletes everything but the newest commit of main: other branches, tags, old commits and their large files.

        Returns what remains to be done by hand, one line each."""
        left = []
        refs = self.call("list_repo_refs", include_pull_requests=True)
        for branch in [ref.name for ref in refs.branches if ref.name != "main"]:
            self.call("delete_branch", branch=branch)
        for tag in [ref.name for ref in refs.tags]:
            self.call("delete_tag", tag=tag)
        for ref in refs.converts:
            left.append(f"{ref.ref} is the dataset viewer's copy; see that it is made anew: {self.url}/tree/{ref.name}")
        if refs.pull_requests:
            left.append(f"{len(refs.pull_requests)} pull requests may hold old files; delete their refs: {self.url}")
        self.call("super_squash_history", commit_message="Earlier versions withdrawn")
        kept = set(self.files().values())
        old = [file for file in self.call("list_lfs_files") if file.file_oid not in kept]
        self.call("permanently_delete_lfs_files", old)
        return left

    def is_gone(self, path: str, commit: str | None) -> bool:
        """Whether a file of an old commit can no longer be downloaded, even with this token."""
        address = hf_hub_url(self.name, path, repo_type="dataset", revision=commit)
        headers = build_hf_headers(token=self.token) | {"Range": "bytes=0-0"}
        with get_session().stream("GET", address, headers=headers, follow_redirects=True) as response:
            return response.status_code in (404, 410)


def is_same(digest: str | None, file: Path | None) -> bool:
    """Whether a local file has the content of which this is the Hub's digest (see Repository.files)."""
    if digest is None or file is None:
        return False
    return digest == (sha256_of(file) if len(digest) == 64 else git_hash(file.read_bytes()))
