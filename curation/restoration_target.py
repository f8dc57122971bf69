"""The folder that gets config `restored`: the dataset's own or a new one, and how the result is put into it."""

import hashlib
import json
import shutil
from pathlib import Path

from curation import dataset_figures, dataset_name, datasheet, schema, withdrawn_list
from curation.parquet_files import parquet_digest, shard_digests
from harness.errors import InputError, one_line
from harness.files import read_json
from harness.run_folder import prepare_output

RECORD_NAME = "restoration_record.json"
WRITTEN = ("README.md", "LICENSE", "croissant.json", "figures", "restored", RECORD_NAME)


def check_target(target: Path, source: Path | None) -> None:
    """Raise InputError unless the result can be put into the target without touching anything but earlier results.

    source: the dataset's folder; None if the dataset is on the Hub."""
    for folder in {target, source or target}:
        try:
            datasheet.next_version(datasheet.version_of(folder))
        except ValueError as error:
            raise InputError(f"{folder.name}: {one_line(error)}") from error
    if target == source:
        return
    if source and (target in source.parents or source in target.parents):
        raise InputError(f"--output_dir {target.name} lies in the dataset's folder, or holds it; name another")
    if target.exists() and not target.is_dir():
        raise InputError(f"--output_dir {target.name} is a file; name a folder")
    if not target.is_dir():
        return
    foreign = [path.name for path in sorted(target.iterdir()) if path.name not in WRITTEN]
    if foreign or (any(target.iterdir()) and not (target / RECORD_NAME).is_file()):
        which = foreign[0] if foreign else "README.md"
        raise InputError(f"--output_dir {target.name} holds {which}, which no earlier run made; name a new folder")


# ---- the workspace: a hidden folder beside the target


def workspace_of(target: Path) -> Path:
    return target.parent / f".{target.name}.restoring"


def prepare_workspace(workspace: Path, settings: dict, resume: bool) -> None:
    """The folder of an earlier run to go on with, or a new one; only its owner can read it, and one run writes it."""
    try:
        workspace.mkdir(parents=True, exist_ok=True, mode=0o700)
    except OSError as error:
        raise InputError(f"--output_dir: {workspace.parent} cannot be written ({one_line(error)})") from error
    if not (workspace / "settings.json").is_file():  # stopped while these were first written, or while it was removed
        remove_workspace(workspace)
        workspace.mkdir(mode=0o700)
    prepare_output(workspace, settings, "parts", (), resume)
    (workspace / "parts").mkdir(exist_ok=True)
    shutil.rmtree(workspace / "made", ignore_errors=True)


def remove_workspace(workspace: Path) -> None:
    """The settings go last: a folder that has them is known as one of ours."""
    for name in ("parts", "made", "previous"):
        shutil.rmtree(workspace / name, ignore_errors=True)
    shutil.rmtree(workspace, ignore_errors=True)


def recover(target: Path) -> None:
    """Undo what a run that was killed had moved aside: the target itself, or its config `restored`."""
    previous = workspace_of(target) / "previous"
    if previous.is_dir():
        place = target / "restored" if any(previous.glob("train-*.parquet")) else target
        if not place.exists():
            previous.rename(place)


# ---- the result


def settings_sha256(settings: dict) -> str:
    return hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()


def finished_before(target: Path, settings: dict) -> bool:
    """Whether the result of a run with these settings is in its place already."""
    record = target / RECORD_NAME
    if not record.is_file() or not (target / "restored").is_dir():
        return False
    recorded = read_json(record, "leave out --resume_from_checkpoint to restore anew")
    return recorded.get("settings_sha256") == settings_sha256(settings)


def publish(made: Path, target: Path, source: Path | None) -> None:
    """Put the finished folder `restored` into the dataset's folder, or into a folder of its own, with its card.

    Only renames touch the target, so that nothing half-made is ever seen in it and a full disk costs nothing. If a run
    is stopped between any two of them, doing it again gives the same result, since the version follows the card."""
    previous = made.parent / "previous"
    shutil.rmtree(previous, ignore_errors=True)
    if target == source:
        _publish_into_dataset(made, target, previous)
        return
    version = (source and datasheet.version_of(source)) or datasheet.FIRST_VERSION
    version = datasheet.version_after(target, made) if target.exists() else version
    datasheet.write_datasheet(made, version, name=source and dataset_name.recorded(datasheet.card_header(source)))
    if target.exists():
        target.rename(previous)
    made.rename(target)


def _publish_into_dataset(made: Path, target: Path, previous: Path) -> None:
    content = parquet_digest(shard_digests(made, "restored/*.parquet"))
    earlier = datasheet.version_of(target)
    _add_the_rest(target, made)
    unchanged = datasheet.described_content(target, "restored") == content
    datasheet.write_datasheet(made, earlier if unchanged else datasheet.next_version(earlier))
    (target / RECORD_NAME).unlink(missing_ok=True)  # that of the pictures which go now
    if (target / "restored").exists():
        (target / "restored").rename(previous)
    (made / "restored").rename(target / "restored")
    _replace_figures(made / "figures", target / "figures")
    for name in ("LICENSE", "croissant.json", "README.md", RECORD_NAME):  # the record says that everything is done
        (made / name).replace(target / name)


def _replace_figures(made: Path, figures: Path) -> None:
    figures.mkdir(exist_ok=True)
    for name in dataset_figures.FIGURES:
        if (made / name).exists():
            (made / name).replace(figures / name)
        else:
            (figures / name).unlink(missing_ok=True)
    if not any(figures.iterdir()):
        figures.rmdir()


def _add_the_rest(target: Path, made: Path) -> None:
    """Add to the finished folder what its card also describes: the dataset's other configs as links, its list of
    withdrawals, and the card so far, whose contact and repository stay."""
    for config in schema.CONFIGS:
        if config != "restored" and (target / config).is_dir():
            try:
                (made / config).symlink_to(target / config)
            except OSError:  # a file system without links
                shutil.copytree(target / config, made / config)
    for name in ("README.md", withdrawn_list.LIST_NAME):
        if (target / name).is_file():
            shutil.copyfile(target / name, made / name)
