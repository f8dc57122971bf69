"""To the Hub, failing closed: publish a dataset's folder, decide who may have it, withdraw a photograph.

    python publish_dataset.py publish DIR ORG/NAME [--visible] [--open] [--dry_run]
    python publish_dataset.py access list|grant|reject|revoke ORG/NAME [--user U]
    python publish_dataset.py withdraw DIR IMAGE_ID [ORG/NAME] [--derived DIR [ORG/NAME]] [--dry_run]

Photographs go to a repository that is private, or gated with manual approval, at every moment: it is made private,
gated, looked at, filled, looked at again, and shown (--visible) only as long as strangers are refused. The token comes
from HF_TOKEN or `hf auth login`, the server from HF_ENDPOINT. Exit codes: 0 done, 1 failed, 2 refused.
"""

import argparse
import shutil
import sys
from pathlib import Path

import huggingface_hub
from huggingface_hub import DatasetInfo
from huggingface_hub.errors import HfHubHTTPError, HFValidationError
from huggingface_hub.utils import get_token

from curation import withdrawn_list
from harness.commands import Parser, path_argument, run_command
from harness.errors import InputError, one_line
from publishing import access_requests, model_upload, publication, publishable, withdrawal
from publishing.hub_repository import HUB_ERRORS, HubError, Repository, explained
from publishing.publishable import Contents

STOPPED = "run the same command again: what was done is kept"

NAMED_PROBLEMS = 20


# ---- publish


def publish(args: argparse.Namespace) -> int:
    contents = publishable.examine(args.folder)
    problems = contents.problems + unfit_for_its_audience(contents, args.open)
    if args.dry_run:
        show_plan(contents, args)
    if problems:
        for problem in problems[:NAMED_PROBLEMS]:
            print(problem, file=sys.stderr)
        more = f" and {len(problems) - NAMED_PROBLEMS} more" if len(problems) > NAMED_PROBLEMS else ""
        raise InputError(f"{args.folder}: not published, for the reasons above{more}; nothing was sent")
    if args.dry_run:
        return 0
    repository = open_repository(args.repo_id)
    hidden, gated = publication.prepare(repository, contents, args.ungated)
    if not hidden and gated:
        publication.close_unless_strangers_are_refused(repository)
    contents = publication.bring_into_line(repository, contents)
    publication.upload(repository, contents, hidden, gated, "Publish", args.forget_history)
    if args.visible and hidden:
        publication.show(repository, contents, gated)
    elif not hidden and gated:
        publication.close_unless_strangers_are_refused(repository)
    seen = "private" if hidden and not args.visible else "visible"
    print(f"published: {repository.url} ({seen}{', gated with manual approval' if gated else ', open to everybody'})")
    if hidden and not args.visible:
        print("nobody but its members can see it; --visible shows the page, and lets people ask for access")
    return 0


def unfit_for_its_audience(contents: Contents, to_everybody: bool) -> list[str]:
    """Why these images must not go where they are meant to."""
    if to_everybody and not contents.is_synthetic:
        return [f"--open: {contents.folder.name} holds config {contents.configs[0]}, and photographs are never open"]
    if contents.is_synthetic and not to_everybody:
        return [f"{contents.folder.name}: synthetic images go to a repository of their own; publish them with --open"]
    return publishable.privacy_problems(contents) if to_everybody else []


def open_repository(repo_id: str) -> Repository:
    """The repository, once the Hub has recognised the token."""
    repository = Repository(repo_id)
    model_upload.check_access(repo_id, repository.token)
    return repository


def show_plan(contents: Contents, args: argparse.Namespace) -> None:
    """What `publish` would do, file by file; the Hub is asked where it can be, and nothing is changed."""
    state, remote = None, {}
    try:
        repository = Repository(args.repo_id)
        state = repository.state()
        remote = repository.files() if state else {}
        what, refused = described(state), publication.refusal(repository, state, contents, args.ungated)
    except (*HUB_ERRORS, HubError) as error:
        what, refused = f"not looked at ({explained(error)}); taken as new", None
    print(f"{args.repo_id}: {what}")
    changed, gone = publication.differences(contents, remote)
    for name, file in contents.files.items():
        print(f"  {'upload' if name in changed else 'keep':8}{name:44}{file.stat().st_size:>14,} bytes")
    for name in gone:
        print(f"  {'delete':8}{name}")
    for name in contents.stays:
        print(f"  {'stays':8}{name}")
    for config, columns in contents.columns.items():
        print(f"  config {config}: {contents.rows[config]} rows, columns {', '.join(columns)}")
    if not args.open:
        print("  the curator's own columns are published too: see that none of them tells who a patient is")
        print("  card, figures, names and sizes of files can be read by everybody once the repository is visible")
    then = "shown, and made private again unless strangers are refused" if args.visible else "left as visible as it is"
    print(f"  then {then}; {'open to everybody' if args.open else 'access by manual approval'}")
    print("dry run: nothing was sent")
    if refused:
        raise InputError(f"{args.repo_id}: {refused}")


def described(state: DatasetInfo | None) -> str:
    if state is None:
        return "does not exist; would be made, private"
    return (
        f"exists, {'private' if state.private else 'public'}, {f'gated ({state.gated})' if state.gated else 'ungated'}"
    )


# ---- access


def access(args: argparse.Namespace) -> int:
    repository = open_repository(args.repo_id)
    state = repository.state()
    if state is None or not state.gated:
        raise InputError(f"{repository.name}: {described(state)}, so that nobody can ask for access; publish it first")
    requests = access_requests.requests_of(repository)
    if args.action == "list":
        print(access_requests.table(requests, args.json))
    else:
        print(access_requests.decide(repository, requests, args.action, args.user, args.reason))
    return 0


# ---- withdraw


def withdraw(args: argparse.Namespace) -> int:
    contents = publishable.examine(args.folder)
    if contents.is_synthetic:
        raise InputError(f"{args.folder}: holds synthetic images; give the folder of the photographs")
    known = args.image_id in {line.image_id for line in withdrawn_list.listed(args.folder)}
    if not known and args.image_id not in contents.image_ids:
        raise InputError(f"{args.folder}: holds no photograph {args.image_id}; give an image_id of its config real")
    sha256 = withdrawal.digest_of(args.folder, args.image_id)
    found = {folder: withdrawal.derived(folder, args.image_id, sha256) for folder, _ in args.derived}
    print(f"{args.folder}: {args.image_id}" + (" (withdrawn before)" if known else ""))
    for folder, made in found.items():
        for line in made.lines(folder):
            print(f"{folder}/{line}")
    if args.dry_run:
        print("dry run: nothing was removed")
        return 0
    homes = {folder: name for folder, name in [(args.folder, args.repo_id), *args.derived] if name}
    published = {folder: open_published(name, folder) for folder, name in homes.items()}

    version = withdraw_from(args.folder, args.image_id, known)
    print(f"{args.folder}: version {version} is without {args.image_id}")
    for made in found.values():
        remove_derived(made, args.image_id, sha256)
    for folder, (repository, hidden, gated) in published.items():
        contents = publishable.examine(folder)
        if contents.problems:
            raise HubError(f"{repository.name}: not brought up to date: {contents.problems[0]}; then run this again")
        contents = publication.bring_into_line(repository, contents)
        publication.upload(repository, contents, hidden, gated, "Withdraw a photograph", forget=True)
    print(
        "not removed by this: classifiers that were trained with it; copies in caches (HF_HOME, rdface_pixels); row and"
        " file in the curator's folder, whose next build refuses them; other people's copies: ask for their deletion"
    )
    return 0


def open_published(repo_id: str, folder: Path) -> tuple[Repository, bool, str | bool]:
    """The repository that a folder was published to, fit for what is left of it, with its `private` and `gated`.

    Asked before anything is removed. Raises InputError where it does not hold this dataset."""
    repository, contents = open_repository(repo_id), publishable.examine(folder)
    if repository.state() is None or not publishable.shards_in(repository.files()):
        reason = f"does not hold what {folder.name} holds"
        raise InputError(f"{repo_id}: {reason}; name the repository where it is published, or leave it out")
    return repository, *publication.prepare(repository, contents)


def withdraw_from(folder: Path, image_id: str, known: bool) -> str:
    """Remove the photograph's rows and give the folder a new version, once, however often this is interrupted."""
    from curation import datasheet

    unfinished = folder.resolve().parent / f".{folder.resolve().name}.restoring"  # what restore_images.py left there
    shutil.rmtree(unfinished, ignore_errors=True)
    version = datasheet.version_of(folder)
    if not known:
        version = datasheet.next_version(version)
    else:
        given = next(line.version for line in withdrawn_list.listed(folder) if line.image_id == image_id)
        version = max(version, given, key=lambda text: [int(part) for part in text.split(".")])
    withdrawal.withdraw(folder, image_id, version)
    datasheet.write_datasheet(folder, version)
    return version


def remove_derived(made: withdrawal.Derived, image_id: str, sha256: str) -> None:
    from curation import datasheet

    withdrawal.remove(made, image_id, sha256)
    for home in sorted({path.parents[1] for path in made.rows}):
        if (home / "README.md").is_file() and any(home.glob("*/train-*.parquet")):
            datasheet.write_datasheet(home, datasheet.next_version(datasheet.version_of(home)))


# ---- the command


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    parser = Parser(description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    published = commands.add_parser("publish", help="upload what has changed")
    published.add_argument("folder", type=path_argument, metavar="DIR", help="what rdface_dataset.py build made")
    published.add_argument("repo_id", type=repo_id, metavar="ORG/NAME")
    published.add_argument("--visible", action="store_true", help="show the page, so that people can ask for access")
    published.add_argument("--open", action="store_true", help="synthetic images, which passed the privacy filter")
    published.add_argument(
        "--ungated", action="store_true", help="photographs into a public repository that everybody can download"
    )
    published.add_argument(
        "--forget_history", action="store_true", help="leave no earlier version on the Hub, nor what only it held"
    )
    published.add_argument("--dry_run", action="store_true", help="say what would be done, and do nothing")
    asked = commands.add_parser("access", help="requests for access, with the answers to the form")
    asked.add_argument("action", choices=("list", "grant", "reject", "revoke"))
    asked.add_argument("repo_id", type=repo_id, metavar="ORG/NAME")
    asked.add_argument("--user", help="a user's name on the Hub, or the identifier of a request")
    asked.add_argument("--reason", default="", help="what the user is told, at most 200 characters")
    asked.add_argument("--json", action="store_true", help="list as JSON")
    taken = commands.add_parser("withdraw", help="remove a photograph and what was made from it")
    taken.add_argument("folder", type=path_argument, metavar="DIR")
    taken.add_argument("image_id", metavar="IMAGE_ID")
    taken.add_argument("repo_id", type=repo_id, metavar="ORG/NAME", nargs="?", help="where DIR is published")
    taken.add_argument(
        "--derived", nargs="+", action="append", default=[], metavar=("DIR", "ORG/NAME"),
        help="a folder with synthetic or restored images, adapters or generators, and where it is published",
    )  # fmt: skip
    taken.add_argument("--dry_run", action="store_true", help="list what would be removed, and do nothing")
    args = parser.parse_args(argv)
    if args.command == "publish" and args.ungated and (args.open or args.visible):
        parser.error("--ungated is for a repository that is public already; leave out --open and --visible")
    if args.command == "access" and (args.user is None) != (args.action == "list"):
        parser.error("list takes no --user" if args.user else f"{args.action} needs --user")
    if args.command == "access" and len(args.reason) > 200:
        parser.error(f"--reason has {len(args.reason)} characters; the Hub takes 200")
    if args.command == "withdraw":
        if any(len(given) > 2 for given in args.derived):
            parser.error("--derived takes a folder and, where it is published, ORG/NAME")
        try:
            args.derived = [(path_argument(given[0]), *map(repo_id, given[1:]), None)[:2] for given in args.derived]
        except argparse.ArgumentTypeError as error:
            parser.error(f"--derived: {error}")
    return args


def repo_id(text: str) -> str:
    """ORG/NAME: a name alone would be a folder's for load_dataset."""
    try:
        huggingface_hub.utils.validate_repo_id(text)
    except HFValidationError as error:
        raise argparse.ArgumentTypeError(one_line(error)) from error
    if text.count("/") != 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not ORG/NAME")
    return text


def remedy(error: Exception) -> str:
    status = error.response.status_code if isinstance(error, HfHubHTTPError) else None
    if status in (401, 403):
        return "use a token that may write there"
    return "run the same command again: what was done is kept"


def main(args: argparse.Namespace) -> int:
    try:
        return {"publish": publish, "access": access, "withdraw": withdraw}[args.command](args)
    except HUB_ERRORS as error:
        raise HubError(f"failed: {explained(error, get_token())}; {remedy(error)}") from error


if __name__ == "__main__":
    run_command(parse_args, main, STOPPED)
