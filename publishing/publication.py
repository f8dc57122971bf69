"""A dataset's folder and its repository on the Hub brought into line; at no moment do photographs lie open there."""

import sys
from pathlib import Path

from huggingface_hub import DatasetInfo

from curation import withdrawn_list
from harness.errors import InputError
from publishing import publishable
from publishing.hub_repository import HubError, Repository, is_same
from publishing.publishable import REAL_CONFIGS, Contents


def refusal(repository: Repository, state: DatasetInfo | None, contents: Contents, ungated: bool) -> str | None:
    """Why images of this kind must not go to a repository as it is now."""
    if state is None:
        return None
    remote = repository.files()
    if contents.is_synthetic and (state.gated or any(name.split("/")[0] in REAL_CONFIGS for name in remote)):
        return "holds or is meant for photographs; name another for synthetic images"
    if not contents.is_synthetic and not state.private and not state.gated and not ungated:
        return "is public and not gated, so that everybody could download photographs; make it private, or name another"
    if publishable.shards_in(remote) and not _is_same_dataset(repository, remote, contents):
        return "holds another dataset; name another repository"
    return None


def _is_same_dataset(repository: Repository, remote: dict[str, str], contents: Contents) -> bool:
    """Whether they share a kind of data, and the conditions of the one are among those of the other."""
    if not {name.split("/")[0] for name in publishable.shards_in(remote)} & set(contents.configs):
        return False
    theirs = publishable.class_names(_remote_header(repository, remote))
    ours = publishable.class_names(_header(contents))
    return bool(theirs) == bool(ours) and (theirs <= ours or ours <= theirs)


def _header(contents: Contents) -> dict:
    return publishable.header_of(contents.files["README.md"].read_text(encoding="utf-8"))


def _remote_header(repository: Repository, remote: dict[str, str]) -> dict:
    card = repository.read("README.md").decode("utf-8", errors="replace") if "README.md" in remote else ""
    return publishable.header_of(card)


def prepare(repository: Repository, contents: Contents, ungated: bool = False) -> tuple[bool, str | bool]:
    """Make the repository fit to take the images, before any is sent; returns what `private` and `gated` are now.

    Raises InputError where it must not take them, HubError where photographs were found lying open (and were hidden),
    or where people were let in whom nobody approved."""
    state = repository.state()
    if state is not None:
        repository.must_be_writable()
        _hide_open_photographs(repository, state, contents, ungated)
        reason = refusal(repository, state, contents, ungated)
        if reason:
            raise InputError(f"{repository.name}: {reason}")
    state = state or repository.create()
    hidden = state.private is not False
    if contents.is_synthetic or (ungated and not hidden and not state.gated):
        return hidden, False
    if state.gated != "manual":
        repository.call("update_repo_settings", gated="manual", private=hidden)
    repository.must_be(hidden, "manual")
    if state.gated == "auto":
        _nobody_may_have_let_himself_in(repository)
    return hidden, "manual"


def _hide_open_photographs(repository: Repository, state: DatasetInfo, contents: Contents, ungated: bool) -> None:
    if state.private or state.gated or ungated or contents.is_synthetic:
        return
    if any(name.split("/")[0] in REAL_CONFIGS for name in repository.files()):
        repository.hide()
        reason = "was public and not gated, with photographs in it; it was made private"
        raise HubError(f"{repository.name}: {reason}: run the same command again, and find out who had them")


def _nobody_may_have_let_himself_in(repository: Repository) -> None:
    inside = [request.username or request.request_id for request in repository.call("list_accepted_access_requests")]
    if inside:
        named = ", ".join(inside[:10]) + (" ..." if inside[10:] else "")
        reason = f"was gated with automatic approval, which let in {named}; from now on approval is manual"
        raise HubError(f"{repository.name}: {reason}: revoke whom you do not know, then run the same command again")


def bring_into_line(repository: Repository, contents: Contents) -> Contents:
    """The contents with the Hub's list of withdrawn photographs joined to the folder's own, with the repository's name
    in the card, and with a version above the Hub's wherever the rows differ.

    Raises InputError where a photograph that was withdrawn is in the folder still."""
    remote = repository.files()
    theirs = _withdrawn_on_hub(repository, remote)
    for line in theirs:
        found = [name for name, digest in contents.image_ids.items() if line.sha256 == digest or line.image_id == name]
        if found:
            reason = f"{found[0]} was withdrawn from {repository.name} on {line.withdrawn_on}"
            remedy = f"run: python publish_dataset.py withdraw {contents.folder} {found[0]}"
            raise InputError(f"{reason}; {remedy} (another photograph of that name needs another number)")
    ours = withdrawn_list.listed(contents.folder)
    missing = [line for line in theirs if line.image_id not in {line.image_id for line in ours}]
    if missing:
        withdrawn_list.write_list(contents.folder, [*missing, *ours])
    here, there = _header(contents), _remote_header(repository, remote)
    changed, gone = differences(contents, remote)
    outdated = publishable.shards_in([*changed, *gone]) and _number(there) >= _number(here) and there.get("version")
    if not missing and not outdated and here.get("repository") == repository.name:
        return contents
    from curation import datasheet  # slow to import, and needed by the first publication only

    version = datasheet.next_version(there["version"]) if outdated else None
    datasheet.write_datasheet(contents.folder, version, repository=repository.name)
    return publishable.examine(contents.folder)


def _withdrawn_on_hub(repository: Repository, remote: dict[str, str]) -> list[withdrawn_list.Withdrawn]:
    listed = withdrawn_list.LIST_NAME in remote
    return withdrawn_list.read_list(repository.read(withdrawn_list.LIST_NAME).decode()) if listed else []


def _number(header: dict) -> list[int]:
    return [int(part) if part.isdecimal() else 0 for part in str(header.get("version") or "0").split(".")]


def upload(
    repository: Repository, contents: Contents, hidden: bool, gated: str | bool, message: str, forget: bool = False
) -> None:
    """Upload what differs, and only that. Where photographs were withdrawn, or with `forget`, no way is left to what
    the repository held before: the list of withdrawn photographs goes last, and says on the Hub that this was done."""
    remote, commit = repository.files(), repository.must_be(hidden, gated)
    known = {line.image_id for line in _withdrawn_on_hub(repository, remote)}
    unfinished = [line for line in withdrawn_list.listed(contents.folder) if line.image_id not in known]
    replaced = [name for name in publishable.shards_in(remote) if not is_same(remote[name], contents.files.get(name))]
    if not publishable.shards_in(remote) or not (forget or unfinished):
        send(repository, contents, hidden, gated, message)
        if replaced:
            print("the earlier version can still be read by those who have access; --forget_history removes it")
        return
    send(repository, contents, hidden, gated, message, later=withdrawn_list.LIST_NAME)
    left = repository.forget_history()
    reachable = [name for name in replaced if not repository.is_gone(name, commit)]
    if reachable:
        raise HubError(f"{repository.name}: {reachable[0]} of the earlier version can still be read; run this again")
    if unfinished:
        send(repository, contents, hidden, gated, message)
        repository.call("super_squash_history", commit_message=message)
    if left:
        raise HubError(f"{repository.name}: up to date, but left to be done by hand: {'; '.join(left)}")
    print(f"{repository.url}: no earlier version is left")


def send(
    repository: Repository, contents: Contents, hidden: bool, gated: str | bool, message: str, later: str | None = None
) -> None:
    """Upload what differs, and only that, into a repository that is what it should be, before and after.

    later: a file whose turn has not come."""
    parent = repository.must_be(hidden, gated)
    changed, gone = differences(contents, repository.files(), later)
    repository.commit(changed, gone, parent, message)
    try:
        repository.must_be(hidden, gated)
    except HubError:
        if gated:  # somebody opened it meanwhile
            repository.hide()
        raise
    changed_still, gone_still = differences(contents, repository.files(), later)
    if changed_still or gone_still:
        names = ", ".join([*changed_still, *gone_still][:5])
        raise HubError(f"{repository.name}: after the upload these files are not as they should be: {names}; run again")
    if changed or gone or later is None:
        print(f"{len(changed)} files uploaded, {len(contents.files) - len(changed)} unchanged, {len(gone)} deleted")


def differences(
    contents: Contents, remote: dict[str, str], later: str | None = None
) -> tuple[dict[str, Path], list[str]]:
    """Local files that the Hub has not, or has otherwise; and paths of ours there that are no longer here."""
    changed = {name: file for name, file in contents.files.items() if not is_same(remote.get(name), file)}
    changed.pop(later, None)
    return changed, [name for name in remote if publishable.is_ours(name) and name not in contents.files]


def show(repository: Repository, contents: Contents, gated: str | bool) -> None:
    """Make the repository visible; hidden again, whatever happens, unless strangers are refused by the gate."""
    done = False
    try:
        repository.call("update_repo_settings", gated=gated, private=False)
        repository.must_be(private=False, gated=gated)
        if gated:
            repository.strangers_must_be_refused(contents.shards)
        done = True
    finally:
        if not done:
            repository.hide()
            print(f"{repository.name}: made private again", file=sys.stderr)


def close_unless_strangers_are_refused(repository: Repository) -> None:
    """For a repository that is visible already."""
    try:
        repository.strangers_must_be_refused([name for name in repository.files() if name.endswith(".parquet")])
    except HubError:
        repository.hide()
        print(f"{repository.name}: made private", file=sys.stderr)
        raise
