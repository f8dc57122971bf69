"""Brings a repository on the Hub into line with a dataset's folder, and never leaves photographs open there."""

import sys
from pathlib import Path

from huggingface_hub import DatasetInfo

from curation import withdrawn_list
from harness.counts import counted
from harness.errors import InputError
from publishing import publishable
from publishing.hub_repository import HubError, Repository, is_same
from publishing.publishable import REAL_CONFIGS, Contents
from publishing.repository_visibility import Audience, Gate


def refusal(repository: Repository, state: DatasetInfo | None, contents: Contents, ungated: bool) -> str | None:
    """Why the contents must not go to the repository in its present state; None if they may."""
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
    """Whether folder and repository have a config in common, and all conditions of one are conditions of the other."""
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


def prepare(repository: Repository, contents: Contents, ungated: bool = False) -> Audience:
    """Makes the repository fit for the images before any is sent, and returns its audience, which is then in force.

    ungated: photographs may go to a public repository without a gate. Raises InputError if the repository must not take
    the images; HubError if photographs were found open to everybody (they are hidden then), or if people have access
    whom nobody approved."""
    state = repository.state()
    if state is not None:
        repository.must_be_writable()
        _hide_open_photographs(repository, state, contents, ungated)
        reason = refusal(repository, state, contents, ungated)
        if reason:
            raise InputError(f"{repository.name}: {reason}")
    state = state or repository.create()
    private = state.private is not False
    if contents.is_synthetic or (ungated and not private and not state.gated):
        return Audience(private, Gate.NONE)
    audience = Audience(private, Gate.MANUAL)
    if state.gated != audience.gate.value:
        repository.call("update_repo_settings", gated=audience.gate.value, private=private)
    repository.must_be_for(audience)
    if state.gated == Gate.AUTOMATIC.value:
        _must_have_admitted_nobody(repository)
    return audience


def _hide_open_photographs(repository: Repository, state: DatasetInfo, contents: Contents, ungated: bool) -> None:
    if state.private or state.gated or ungated or contents.is_synthetic:
        return
    if any(name.split("/")[0] in REAL_CONFIGS for name in repository.files()):
        repository.hide()
        reason = "was public and not gated, with photographs in it; it was made private"
        raise HubError(f"{repository.name}: {reason}: run the same command again, and find out who had them")


def _must_have_admitted_nobody(repository: Repository) -> None:
    """For a repository whose gate opened by itself until now. Raises HubError that names who has access."""
    admitted = [request.username or request.request_id for request in repository.call("list_accepted_access_requests")]
    if admitted:
        named = ", ".join(admitted[:10]) + (" ..." if admitted[10:] else "")
        reason = f"was gated with automatic approval, which let in {named}; from now on approval is manual"
        raise HubError(f"{repository.name}: {reason}: revoke whom you do not know, then run the same command again")


def bring_into_line(repository: Repository, contents: Contents, folder: Path) -> Contents:
    """Writes into the folder and its copy what depends on the repository, and returns the copy's contents after that.

    contents: of the copy that is published (published_copy.py); folder: the curator's own.

    The Hub's list of withdrawn photographs is joined to the folder's own, the card names the repository, and the
    version is above the Hub's if the rows differ. Raises InputError if the folder still holds a withdrawn one."""
    remote = repository.files()
    theirs = _withdrawn_on_hub(repository, remote)
    _must_hold_no_withdrawn(repository, contents, theirs)
    ours = withdrawn_list.listed(contents.folder)
    missing = [line for line in theirs if line.image_id not in {line.image_id for line in ours}]
    if missing:
        for place in (folder, contents.folder):
            withdrawn_list.write_list(place, [*missing, *ours])
    here, there = _header(contents), _remote_header(repository, remote)
    changed, gone = differences(contents, remote)
    outdated = publishable.shards_in([*changed, *gone]) and _number(there) >= _number(here) and there.get("version")
    if not missing and not outdated and here.get("repository") == repository.name:
        return contents
    from curation import datasheet  # imports datasets, which only a changed folder needs

    version = datasheet.next_version(there["version"]) if outdated else None
    for place in (folder, contents.folder):
        datasheet.write_datasheet(place, version, repository=repository.name)
    return publishable.examine(contents.folder, contents.own_columns)


def _must_hold_no_withdrawn(
    repository: Repository, contents: Contents, withdrawn: list[withdrawn_list.Withdrawn]
) -> None:
    for line in withdrawn:
        for image_id, digest in contents.image_ids.items():
            if line.sha256 == digest or line.image_id == image_id:
                reason = f"{image_id} was withdrawn from {repository.name} on {line.withdrawn_on}"
                remedy = f"run: python publish_dataset.py withdraw {contents.folder} {image_id}"
                raise InputError(f"{reason}; {remedy} (another photograph of that name needs another number)")


def _withdrawn_on_hub(repository: Repository, remote: dict[str, str]) -> list[withdrawn_list.Withdrawn]:
    listed = withdrawn_list.LIST_NAME in remote
    return withdrawn_list.read_list(repository.read(withdrawn_list.LIST_NAME).decode()) if listed else []


def _number(header: dict) -> list[int]:
    """The version of a card's header as numbers, to be compared."""
    return [int(part) if part.isdecimal() else 0 for part in str(header.get("version") or "0").split(".")]


def upload(
    repository: Repository, contents: Contents, audience: Audience, message: str, forget_history: bool = False
) -> None:
    """Uploads the files that differ, and no others.

    The history of the repository is deleted with forget_history, and whenever photographs were withdrawn. The list of
    withdrawn photographs is then uploaded last, since on the Hub it means that their files are gone."""
    remote, commit = repository.files(), repository.must_be_for(audience)
    listed_on_hub = {line.image_id for line in _withdrawn_on_hub(repository, remote)}
    unfinished = [line for line in withdrawn_list.listed(contents.folder) if line.image_id not in listed_on_hub]
    replaced = [name for name in publishable.shards_in(remote) if not is_same(remote[name], contents.files.get(name))]
    if not publishable.shards_in(remote) or not (forget_history or unfinished):
        send(repository, contents, audience, message)
        if replaced:
            print("the earlier version can still be read by those who have access; --forget_history removes it")
        return
    send(repository, contents, audience, message, later=withdrawn_list.LIST_NAME)
    left_to_do = repository.forget_history()
    reachable = [name for name in replaced if not repository.is_gone(name, commit)]
    if reachable:
        raise HubError(f"{repository.name}: {reachable[0]} of the earlier version can still be read; run this again")
    if unfinished:
        send(repository, contents, audience, message)
        repository.call("super_squash_history", commit_message=message)
    if left_to_do:
        raise HubError(f"{repository.name}: up to date, but left to be done by hand: {'; '.join(left_to_do)}")
    print(f"{repository.url}: no earlier version is left")


def send(
    repository: Repository, contents: Contents, audience: Audience, message: str, later: str | None = None
) -> None:
    """Uploads the files that differ, in one commit, and checks the audience before and after.

    later: a file that is to be left out for now."""
    parent = repository.must_be_for(audience)
    changed, gone = differences(contents, repository.files(), later)
    repository.commit(changed, gone, parent, message)
    try:
        repository.must_be_for(audience)
    except HubError:
        if audience.gate is not Gate.NONE:  # somebody opened the repository meanwhile
            repository.hide()
        raise
    changed_still, gone_still = differences(contents, repository.files(), later)
    if changed_still or gone_still:
        names = ", ".join([*changed_still, *gone_still][:5])
        raise HubError(f"{repository.name}: after the upload these files are not as they should be: {names}; run again")
    if changed or gone or later is None:
        print(
            f"{counted(len(changed), 'file')} uploaded, {len(contents.files) - len(changed)} unchanged, "
            f"{len(gone)} deleted"
        )


def differences(
    contents: Contents, remote: dict[str, str], later: str | None = None
) -> tuple[dict[str, Path], list[str]]:
    """Files here that the Hub lacks or has with other content, and paths there that are no longer here.

    remote: Repository.files; later: a file that is left out. Paths that this project does not publish are ignored."""
    changed = {name: file for name, file in contents.files.items() if not is_same(remote.get(name), file)}
    changed.pop(later, None)
    return changed, [name for name in remote if publishable.is_ours(name) and name not in contents.files]


def show(repository: Repository, contents: Contents, gate: Gate) -> None:
    """Makes the repository visible to everybody, and private again if anything fails or strangers pass the gate."""
    done = False
    try:
        repository.call("update_repo_settings", gated=gate.value, private=False)
        repository.must_be_for(Audience(private=False, gate=gate))
        if gate is not Gate.NONE:
            repository.strangers_must_be_refused(contents.shards)
        done = True
    finally:
        if not done:
            repository.hide()
            print(f"{repository.name}: made private again", file=sys.stderr)


def close_unless_strangers_are_refused(repository: Repository) -> None:
    """Makes a visible repository private, and raises HubError, if a stranger can pass its gate."""
    try:
        repository.strangers_must_be_refused([name for name in repository.files() if name.endswith(".parquet")])
    except HubError:
        repository.hide()
        print(f"{repository.name}: made private", file=sys.stderr)
        raise
