"""Publishes a dataset's folder on the Hub, decides who gets access to it, and withdraws a photograph.

    python publish_dataset.py publish DIR ORG/NAME [--visible] [--open] [--dry_run]
    python publish_dataset.py access list|grant|reject|revoke ORG/NAME [--user U]
    python publish_dataset.py withdraw DIR IMAGE_ID [ORG/NAME] [--derived DIR [ORG/NAME]] [--dry_run]

Photographs go only to a repository that is private, or gated with manual approval, from the first byte on: it is made
private and gated, checked, filled and checked again, and with --visible it is shown only as long as strangers are
refused. The token comes from HF_TOKEN or `hf auth login`, the server from HF_ENDPOINT. Exit codes: 0 done, 1 failed,
2 refused.
"""

from __future__ import annotations

import argparse
import json
import re
import sys
from collections.abc import Collection
from pathlib import Path
from typing import TYPE_CHECKING

from huggingface_hub import DatasetInfo
from huggingface_hub.errors import HfHubHTTPError, HFValidationError
from huggingface_hub.utils import get_token, validate_repo_id

from curation import withdrawn_list
from harness.commands import Parser, dataset_argument, path_argument, run_command
from harness.counts import counted
from harness.errors import InputError, one_line
from harness.run_folder import sole_writer
from harness.text_normalization import without_ending
from publishing import access_requests, model_upload, publication, publishable
from publishing.hub_repository import HUB_ERRORS, HubError, Repository, explained
from publishing.publishable import Contents
from publishing.repository_visibility import Audience, Gate

if TYPE_CHECKING:
    from publishing.published_copy import PublishedCopy

STOPPED = "run the same command again: what was done is kept"

NAMED_PROBLEMS = 20


# ---- publish


def publish(args: argparse.Namespace) -> None:
    from publishing.published_copy import published_copy  # imports datasets, which takes a second

    if not args.folder.is_dir():
        publishable.sorted_files(args.folder)
    with published_copy(args.folder, args.publish_columns) as copy:
        contents = publishable.examine(copy.folder, args.publish_columns)
        problems = contents.problems + problems_for_audience(contents, args)
        if args.dry_run:
            print_plan(contents, copy, args)
        if problems:
            for problem in problems[:NAMED_PROBLEMS]:
                print(problem, file=sys.stderr)
            more = f" and {len(problems) - NAMED_PROBLEMS} more" if len(problems) > NAMED_PROBLEMS else ""
            raise InputError(f"{args.folder}: not published, for the reasons above{more}; nothing was sent")
        if not args.dry_run:
            send(args, contents)


def send(args: argparse.Namespace, contents: Contents) -> None:
    """Uploads a copy of the folder, contents, which was examined and found fit."""
    repository = open_repository(args.repo_id)
    audience = publication.prepare(repository, contents, args.ungated)
    if audience.only_gate_protects:
        publication.close_unless_strangers_are_refused(repository)
    contents = publication.bring_into_line(repository, contents, args.folder)
    publication.upload(repository, contents, audience, "Publish", args.forget_history)
    if args.visible and audience.private:
        publication.show(repository, contents, audience.gate)
        audience = Audience(private=False, gate=audience.gate)
    elif audience.only_gate_protects:
        publication.close_unless_strangers_are_refused(repository)
    seen = "private" if audience.private else "visible"
    opened = "open to everybody" if audience.gate is Gate.NONE else "gated with manual approval"
    print(f"published: {repository.url} ({seen}, {opened})")
    if audience.private:
        print("only its members can see it; --visible shows the page, so that people can ask for access")


def problems_for_audience(contents: Contents, args: argparse.Namespace) -> list[str]:
    """Reasons why these images must not be published for everybody, or for those alone who were granted access."""
    if args.open and not contents.is_synthetic:
        return [f"--open: {contents.folder.name} holds config {contents.configs[0]}, and photographs are never open"]
    if contents.is_synthetic and not args.open:
        return [f"{contents.folder.name}: synthetic images go to a repository of their own; publish them with --open"]
    if not args.open:
        return []
    problems = publishable.privacy_problems(contents, args.folder)
    return problems if problems or contents.problems else copies_of_patients(contents, args)


def copies_of_patients(contents: Contents, args: argparse.Namespace) -> list[str]:
    """Images that are copies of photographs of --real_dataset, or show somebody on them, one line each."""
    from classification.backbones import load_backbone  # these take seconds
    from generation.face_examination import Examiner
    from imaging import faces
    from imaging.face_embeddings import load_embedder
    from publishing import patient_copies

    embedder = load_embedder(args.face_embedder) if args.face_embedder else None
    examiner = Examiner(faces.load_detector("mtcnn"), load_backbone(args.backbone), "cpu", embedder)
    photographs = patient_copies.read_photographs(args.real_dataset, examiner)
    return patient_copies.copy_problems(contents, photographs, examiner)


def open_repository(repo_id: str) -> Repository:
    """The repository, once the Hub has accepted the token."""
    repository = Repository(repo_id)
    model_upload.check_access(repo_id, repository.token)
    return repository


def print_plan(contents: Contents, copy: PublishedCopy, args: argparse.Namespace) -> None:
    """Says file by file what `publish` would do. The Hub is asked if it can be reached, and nothing is changed.

    Raises InputError if the repository must not take these images."""
    repo_id = args.repo_id
    state, remote = None, {}
    try:
        repository = Repository(repo_id)
        state = repository.state()
        remote = repository.files() if state else {}
        description, reason = described(state), publication.refusal(repository, state, contents, args.ungated)
    except (*HUB_ERRORS, HubError) as error:
        description, reason = f"not looked at ({explained(error)}); taken as new", None
    print(f"{repo_id}: {description}")
    changed, gone = publication.differences(contents, remote)
    for name, file in contents.files.items():
        print(f"  {'upload' if name in changed else 'keep':8}{name:44}{file.stat().st_size:>14,} bytes")
    for name in gone:
        print(f"  {'delete':8}{name}")
    for name in copy.stays:
        print(f"  {'stays':8}{name}")
    for config, columns in contents.columns.items():
        print(f"  config {config}: {counted(contents.rows[config], 'row')}, columns {', '.join(columns)}")
        if copy.held_back[config]:
            print(f"  {'stays':8}columns of the curator's own: {', '.join(copy.held_back[config])}")
    if contents.own_columns:
        print("  check that no column of --publish_columns reveals who a patient is")
    if not args.open:
        print("  everybody can read the card, and names and sizes of files, once the repository is visible")
    stays = "private, since it is new; --visible shows its page" if state is None else "left as visible as it is"
    then = "shown, and made private again unless strangers are refused" if args.visible else stays
    print(f"  then {then}; {'open to everybody' if args.open else 'access by manual approval'}")
    print("dry run: nothing was sent")
    if reason:
        raise InputError(f"{repo_id}: {reason}")


def described(state: DatasetInfo | None) -> str:
    if state is None:
        return "does not exist; would be made, private"
    gate = f"gated ({state.gated})" if state.gated else "ungated"
    return f"exists, {'private' if state.private else 'public'}, {gate}"


# ---- access


def access(args: argparse.Namespace) -> None:
    repository = open_repository(args.repo_id)
    state = repository.state()
    if state is None or not state.gated:
        raise InputError(f"{repository.name}: {described(state)}, so that nobody can ask for access; publish it first")
    requests = access_requests.requests_of(repository)
    if args.action == "list":
        print(access_requests.table(requests, args.json))
        return
    request = access_requests.find(requests, args.user)
    if args.action == "grant":
        print(access_requests.grant(repository, request, args.user))
    elif args.action == "reject":
        print(access_requests.reject(repository, request, args.user, args.reason))
    else:
        print(access_requests.revoke(repository, request, args.user, args.reason))


# ---- withdraw


def withdraw(args: argparse.Namespace) -> None:
    contents = publishable.examine(args.folder)
    if contents.is_synthetic:
        raise InputError(f"{args.folder}: holds synthetic images; give the folder of the photographs")
    is_listed = args.image_id in {line.image_id for line in withdrawn_list.listed(args.folder)}
    if not is_listed and args.image_id not in contents.image_ids:
        bare = without_ending(args.image_id.casefold())
        like = [known for known in contents.image_ids if known.casefold() == bare]
        is_it = f" (is it {like[0]}?)" if like else ""
        reason = f"holds no photograph {args.image_id}{is_it}; give an image_id of its config real"
        raise InputError(f"{args.folder}: {reason}")
    from curation.parquet_files import parquet_digest, shard_digests
    from publishing import (  # import datasets, which takes a second: refusals come before
        altered_copies,
        mentions,
        traces,
        withdrawal,
    )
    from publishing.published_copy import remove_leftovers

    sha256 = withdrawal.digest_of(args.folder, args.image_id)
    photograph = traces.photograph_in(args.folder, args.image_id, sha256)
    gone_before = is_listed and args.image_id not in contents.image_ids
    made_since = parquet_digest(shard_digests(args.folder, "real/train-*.parquet")) if gone_before else None
    repo_ids = {folder: name for folder, name in [(args.folder, args.repo_id), *args.derived] if name}
    left = traces.traces_of(args.folder, photograph, made_since, list(repo_ids.values()))
    places = dict.fromkeys([*(folder for folder, _ in args.derived), *left.searched])
    derived = {folder: withdrawal.derived(folder, args.image_id, sha256) for folder in places}
    copies = altered_copies.copies_that_stay(args.folder, args.image_id, args.repo_id, args.derived)
    published = {} if args.dry_run else {folder: open_published(name, folder) for folder, name in repo_ids.items()}
    print("would be removed:" if args.dry_run else "to be removed:")
    print(f"{args.folder}: {args.image_id}" + (" (withdrawn before)" if is_listed else ""))
    for folder, its_derived in derived.items():
        for line in traces.lines_below(folder, its_derived, photograph):
            print(f"{folder}/{line}")
    for line in [*left.lines(), *traces.lines_of_records(args.folder, args.image_id)]:
        print(line)
    for line in copies:  # now, since a call that completes an interrupted one no longer finds them
        print(line, file=sys.stderr)
    if args.dry_run:
        print("dry run: nothing was removed")
        return
    with sole_writer(args.folder.resolve()):  # a build that is running would bring it back
        remove_leftovers(args.folder)
        groups = mentions.group_names(args.folder, args.image_id)
        traces.remove_faces(left)
        version = withdrawal.withdraw_with_card(args.folder, args.image_id)
        traces.forget_in_records(args.folder, args.image_id)
        print(f"{args.folder}: version {version} is without {args.image_id}")
        for folder, its_derived in derived.items():
            withdrawal.remove_with_cards(its_derived, args.image_id, sha256)
            traces.remove_naming_files(folder, photograph, groups)
        traces.remove(left)
    for folder, (repository, audience) in published.items():
        bring_up_to_date(folder, repository, audience, args.publish_columns if folder == args.folder else ())
    print(
        f"not removed by this:\n  row and file in the curator's folder{curators_folder(args.folder)}: delete both; a"
        f" build into {args.folder} refuses them, a build into another folder does not know of the withdrawal\n"
        "  other datasets built from the same photograph: withdraw it from each\n"
        "  runs in folders that --derived does not name and the list beside the dataset does not know\n"
        "  other people's copies: ask for their deletion"
    )


def bring_up_to_date(folder: Path, repository: Repository, audience: Audience, own_columns: Collection[str]) -> None:
    """Publishes a folder that lost a photograph, and forgets all earlier versions."""
    from publishing.published_copy import published_copy

    with published_copy(folder, own_columns) as copy:
        contents = publishable.examine(copy.folder, own_columns)
        if contents.problems:
            raise HubError(f"{repository.name}: not brought up to date: {contents.problems[0]}; then run this again")
        contents = publication.bring_into_line(repository, contents, folder)
        publication.upload(repository, contents, audience, "Withdraw a photograph", forget_history=True)


def curators_folder(folder: Path) -> str:
    """The name of the folder that a dataset was built from, as its record says; empty if there is none."""
    try:
        return f" ({json.loads((folder / 'build_record.json').read_text(encoding='utf-8'))['arguments']['folder']})"
    except (OSError, ValueError, LookupError, TypeError):
        return ""


def open_published(repo_id: str, folder: Path) -> tuple[Repository, Audience]:
    """The repository to which a folder was published, prepared for the rest of its contents, with its audience.

    Called before anything is removed. Raises InputError if the repository does not hold this dataset."""
    repository, contents = open_repository(repo_id), publishable.examine(folder)
    if repository.state() is None or not publishable.shards_in(repository.files()):
        reason = f"does not hold what {folder.name} holds"
        raise InputError(f"{repo_id}: {reason}; name the repository where it is published, or leave it out")
    return repository, publication.prepare(repository, contents)


# ---- the command


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    parser = Parser(description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    add_publish(commands.add_parser("publish", help="upload the files that have changed"))
    add_access(commands.add_parser("access", help="show requests for access with their answers, and decide on them"))
    add_withdraw(commands.add_parser("withdraw", help="remove a photograph and everything that was made from it"))
    args = parser.parse_args(argv)
    if args.command == "publish" and args.ungated and (args.open or args.visible):
        parser.error("--ungated is for a repository that is public already; leave out --open and --visible")
    if args.command == "publish" and args.open and args.real_dataset is None:
        parser.error(
            "--open requires --real_dataset DIR, the photographs from which the images were made: whether an image is a"
            " copy of one, the publisher finds out by itself"
        )
    if args.command == "access" and (args.user is None) != (args.action == "list"):
        parser.error("list takes no --user" if args.user else f"{args.action} requires --user")
    if args.command == "access" and len(args.reason) > 200:
        parser.error(f"--reason has {len(args.reason)} characters; the Hub takes 200")
    if args.command == "withdraw":
        if any(len(values) > 2 for values in args.derived):
            parser.error("--derived takes a folder and, if it is published, ORG/NAME")
        try:
            args.derived = [(path_argument(values[0]), *map(repo_id, values[1:]), None)[:2] for values in args.derived]
        except argparse.ArgumentTypeError as error:
            parser.error(f"--derived: {error}")
    return args


def add_publish(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("folder", type=path_argument, metavar="DIR", help="the folder that rdface_dataset.py build made")
    add("repo_id", type=repo_id, metavar="ORG/NAME", help="the repository on the Hub")
    add("--visible", action="store_true", help="show the page to everybody, so that people can ask for access")
    add("--open", action="store_true", help="for synthetic images that passed the privacy filter: let all download")
    text = "with --open: folder of the photographs from which the images were made; copies of these are refused"
    add("--real_dataset", type=path_argument, metavar="DIR", help=text)
    text = "with --open: network whose features tell copies and, without --face_embedder, persons apart"
    add("--backbone", type=dataset_argument, default="demo_models/backbone", help=text)
    text = "with --open: file of a face-recognition network (ONNX), as filter_synthetic.py takes it"
    add("--face_embedder", type=path_argument, metavar="FILE", help=text)
    add("--ungated", action="store_true", help="photographs into a public repository that everybody can download")
    add("--forget_history", action="store_true", help="delete all earlier versions on the Hub, with their files")
    add_publish_columns(parser)
    add("--dry_run", action="store_true", help="say what would be done, and do nothing")


def add_publish_columns(parser: argparse.ArgumentParser) -> None:
    text = "columns that you added to disease_images.csv and want to publish; the others stay in the folder"
    parser.add_argument("--publish_columns", nargs="+", default=[], metavar="NAME", help=text)


def add_access(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("action", choices=("list", "grant", "reject", "revoke"), help="what to do")
    add("repo_id", type=repo_id, metavar="ORG/NAME", help="the gated repository")
    add("--user", help="a user's name on the Hub, or the identifier of a request")
    add("--reason", default="", help="what the user is told, at most 200 characters")
    add("--json", action="store_true", help="list as JSON")


def add_withdraw(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("folder", type=path_argument, metavar="DIR", help="the dataset's folder")
    add("image_id", metavar="IMAGE_ID", help="the photograph, as config real names it")
    add("repo_id", type=repo_id, metavar="ORG/NAME", nargs="?", help="where DIR is published, if it is")
    text = "a folder with synthetic or restored images, adapters or generators, and where it is published, if it is"
    add("--derived", nargs="+", action="append", default=[], metavar=("DIR", "ORG/NAME"), help=text)
    add_publish_columns(parser)
    add("--dry_run", action="store_true", help="list what would be removed, and do nothing")


def repo_id(text: str) -> str:
    """`type` of an argument that is ORG/NAME. A name without ORG is refused: load_dataset takes it for a folder."""
    try:
        validate_repo_id(text)
    except HFValidationError as error:
        raise argparse.ArgumentTypeError(one_line(error)) from error
    if text.count("/") != 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not ORG/NAME")
    return text


def remedy(error: Exception) -> str:
    """What helps against an error of the Hub; a token does not help against a full account, nor a repetition."""
    response = error.response if isinstance(error, HfHubHTTPError) else None
    status = response.status_code if response is not None else None
    said = f"{error} {response.headers.get('X-Error-Message', '') if response is not None else ''}".casefold()
    if status == 413 or "too large" in said:
        return (
            "a file or commit is larger than the Hub takes; build the dataset again, whose files have at most 500 MB,"
            " or ask the Hub's support for a larger limit"
        )
    if status in (402, 403, 507) and re.search(r"storage|quota|limit|exceed|billing|payment|subscri", said):
        return (
            "the account's storage is full: delete what it no longer needs on the Hub (--forget_history removes earlier"
            " versions), or have its limit raised in the billing settings; then run the same command again"
        )
    return "use a token that may write there" if status in (401, 403) else STOPPED


def main(args: argparse.Namespace) -> None:
    try:
        {"publish": publish, "access": access, "withdraw": withdraw}[args.command](args)
    except HUB_ERRORS as error:
        raise HubError(f"failed: {explained(error, get_token())}; {remedy(error)}") from error


if __name__ == "__main__":
    run_command(parse_args, main, STOPPED)
