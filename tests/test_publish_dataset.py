"""publish_dataset.py against a Hub on this machine: what is sent, shown, refused and undone, also if it is killed."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pyarrow.parquet as pq
import pytest
import small_datasets
from huggingface_hub import HfApi
from in_process import exit_status
from loopback_hub import (
    Hub,
    answer,
    cut_upload,
    forget_gate_when_visible,
    ignore_gated,
    lose_answer,
    say,
    serve_anybody,
    serving,
)  # fmt: skip
from loopback_user import using, waiting_process

import publish_dataset
from curation import datasheet
from publishing import hub_repository, publishable
from publishing.published_copy import published_copy

ROOT = Path(__file__).resolve().parents[1]
SCRIPT = str(ROOT / "publish_dataset.py")
OWNER, GUEST = "hf_" + "owner" * 6, "hf_" + "guest" * 6
NAME = "lab/rdface"
PEOPLE = {OWNER: "owner", GUEST: "guest"}, {"lab": {"owner"}}


@pytest.fixture(scope="module")
def built(tmp_path_factory) -> Path:
    """A dataset whose card names its repository: else every first publication would write the card anew."""
    folder = tmp_path_factory.mktemp("built") / "rdface"
    shutil.copytree(small_datasets.three_configs(), folder)
    datasheet.write_datasheet(folder, repository=NAME)
    return folder


@pytest.fixture
def dataset(built, tmp_path) -> Path:
    return Path(shutil.copytree(built, tmp_path / "rdface"))


@pytest.fixture
def unnamed_dataset(tmp_path) -> Path:
    """As build leaves it: its card names no repository."""
    return Path(shutil.copytree(small_datasets.three_configs(), tmp_path / "rdface"))


@pytest.fixture
def hub():
    with serving(*PEOPLE) as hub:
        yield hub
        assert not hub.errors
        assert not hub.leaks()


@pytest.fixture
def start(hub, tmp_path, capsys, monkeypatch):
    """Runs the command as a user of the Hub, in this process or in one of its own; it may never print a token."""
    monkeypatch.setattr(hub_repository, "HIDING_PAUSE_S", 0.01)

    def start(
        *arguments: object, token: str | None = OWNER, own_process: bool = False, **options: object
    ) -> subprocess.CompletedProcess:
        environment = hub.environment(tmp_path / f"home-{token}", token, **options)
        if own_process:
            command = [sys.executable, SCRIPT, *map(str, arguments)]
            run = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=120)
        else:
            capsys.readouterr()
            with using(environment):
                status = exit_status(publish_dataset, *arguments)
            run = subprocess.CompletedProcess(arguments, status, *capsys.readouterr())
        output = run.stdout + run.stderr
        assert "Traceback" not in output and OWNER not in output and GUEST not in output
        return run

    return start


def ours(hub: Hub, name: str = NAME) -> dict[str, bytes]:
    """The files of a repository that the project publishes."""
    return {path: content for path, content in hub.repository(name).files.items() if path != ".gitattributes"}


def local(folder: Path, own_columns: tuple[str, ...] = ()) -> dict[str, bytes]:
    """What is published of a folder."""
    with published_copy(folder, own_columns) as copy:
        return {name: file.read_bytes() for name, file in publishable.examine(copy.folder, own_columns).files.items()}


# ---- publish


def test_photographs_are_gated_before_the_first_byte_and_stay_private_until_they_are_shown(hub, start, unnamed_dataset):
    dataset = unnamed_dataset
    run = start("publish", dataset, NAME, own_process=True)
    assert run.returncode == 0, run.stderr
    repository = hub.repository(NAME)
    assert repository.private and repository.gated == "manual" and not repository.was_exposed
    assert ours(hub) == local(dataset)
    gated = next(e.number for e in hub.asked("PUT .*/settings"))
    looked = [e.number for e in hub.asked(rf"GET /api/datasets/{NAME}$")]
    sent = [e.number for e in hub.asked("preupload|/storage/|/commit/")]
    assert any(gated < number < min(sent) for number in looked) and max(looked) > max(sent)
    run = start("publish", dataset, NAME, "--visible")
    assert run.returncode == 0, run.stderr
    assert not repository.private and repository.gated == "manual" and not repository.was_exposed
    assert any(e.user is None and e.status == 401 for e in hub.asked("auth-check"))
    assert any(e.user is None and e.status == 401 for e in hub.asked(r"resolve/main/real/.*\.parquet"))


def test_publishing_again_sends_only_what_changed_and_deletes_what_went(hub, start, dataset):
    start("publish", dataset, NAME, "--visible")
    before = len(hub.ledger)
    run = start("publish", dataset, NAME)
    assert run.returncode == 0 and "0 files uploaded" in run.stdout, run.stderr
    assert not [e for e in hub.ledger[before:] if "/commit/" in e.target or ("/storage/" in e.target and e.received)]
    shutil.rmtree(dataset / "reports")
    datasheet.write_datasheet(dataset, "1.1.0")
    before = len(hub.ledger)
    run = start("publish", dataset, NAME)
    assert run.returncode == 0, run.stderr
    assert ours(hub) == local(dataset) and not any(path.startswith("reports/") for path in ours(hub))
    parquet = sum(path.stat().st_size for path in dataset.rglob("*.parquet"))
    assert sum(e.received for e in hub.ledger[before:]) < parquet  # the photographs were not sent again
    assert not hub.repository(NAME).private


def test_a_dry_run_tells_what_would_happen_and_changes_nothing(hub, start, dataset):
    run = start("publish", dataset, NAME, "--dry_run", "--visible")
    assert run.returncode == 0 and hub.repository(NAME) is None
    assert "does not exist; would be made, private" in run.stdout and "dry run: nothing was sent" in run.stdout
    assert "upload  real/train-00000-of-00001.parquet" in run.stdout and "stays   build_record.json" in run.stdout
    assert "camera" in run.stdout  # a column of the curator's own
    start("publish", dataset, NAME)
    run = start("publish", dataset, NAME, "--dry_run")
    assert "keep    real/train-00000-of-00001.parquet" in run.stdout and "upload" not in run.stdout
    assert "then left as visible as it is" in run.stdout
    assert not [e for e in hub.ledger if e.method == "PUT" and e.number > hub.asked("/commit/")[-1].number]


def test_a_dry_run_needs_neither_a_token_nor_the_hub(dataset, monkeypatch, capsys):
    monkeypatch.delenv("HF_TOKEN", raising=False)
    assert exit_status(publish_dataset, "publish", dataset, NAME, "--dry_run") == 0  # tests are offline
    output = capsys.readouterr().out
    assert "not looked at" in output and "dry run: nothing was sent" in output
    assert "then private, since it is new; --visible shows its page; access by manual approval" in output


def test_what_must_not_leave_the_folder_keeps_all_of_it_here(hub, start, dataset):
    path = next((dataset / "real").glob("*.parquet"))
    table = pq.read_table(path)
    index = table.column_names.index("camera")
    pq.write_table(table.set_column(index, "camera", [["/home/clinic/doe.jpg"] * len(table)]), path)
    datasheet.write_datasheet(dataset)
    run = start("publish", dataset, NAME, "--publish_columns", "camera")
    assert run.returncode == 2 and not hub.ledger
    assert run.stderr.count("camera holds the path of a file on some machine") == 1  # of all rows, in one line
    assert "row 1 (AAR.1): camera holds" in run.stderr and f"(also in {len(table) - 1} further rows)" in run.stderr
    assert run.stderr.splitlines()[-1].endswith("not published, for the reasons above; nothing was sent")
    assert start("publish", dataset / "none", NAME).returncode == 2
    assert start("publish", dataset, "rdface").returncode == 2  # a name alone is a folder for load_dataset


def test_a_public_repository_without_a_gate_gets_no_photograph(hub, start, dataset, tmp_path):
    hub.fault("GET .*", answer(404), times=0)
    make(hub, tmp_path, NAME, private=False, gated=False)
    run = start("publish", dataset, NAME)
    assert run.returncode == 2 and "is public and not gated" in run.stderr
    assert not ours(hub) and hub.repository(NAME).gated is False
    assert start("publish", dataset, NAME, "--dry_run").returncode == 2  # it promises nothing that would be refused
    run = start("publish", dataset, NAME, "--ungated")
    assert run.returncode == 0 and ours(hub) == local(dataset) and "open to everybody" in run.stdout


def make(hub: Hub, home: Path, name: str, private: bool, gated: str | bool) -> None:
    """A repository as somebody may have left it."""
    with using(hub.environment(home, OWNER)):
        api = HfApi(token=OWNER)
        api.create_repo(name, repo_type="dataset", private=private)
        api.update_repo_settings(name, repo_type="dataset", gated=gated)


@pytest.mark.parametrize(("private", "gated"), [(True, False), (False, "auto"), (True, "auto")])
def test_a_repository_private_or_gated_otherwise_gets_manual_approval_first(
    hub, start, dataset, tmp_path, private, gated
):
    make(hub, tmp_path, NAME, private, gated)
    run = start("publish", dataset, NAME)
    assert run.returncode == 0, run.stderr
    repository = hub.repository(NAME)
    assert repository.gated == "manual" and repository.private is private and not repository.was_exposed


def test_without_a_right_to_write_nothing_is_sent(hub, start, dataset):
    start("publish", dataset, NAME, "--visible")
    for token, name, words in (
        (GUEST, NAME, "may not write to it"),
        (GUEST, "lab/other", "use a token that may write there"),
        (None, NAME, "there is no token; run hf auth login, or set HF_TOKEN"),
        ("hf_unknown", NAME, "does not know the token"),
    ):
        before = len(hub.asked("/commit/|/storage/"))
        run = start("publish", dataset, name, token=token)
        assert run.returncode in (1, 2) and words in run.stderr, run.stderr
        assert len(run.stderr.splitlines()) == 1 and len(hub.asked("/commit/|/storage/")) == before


def test_the_token_is_used_where_the_client_does_not_send_it_by_itself(hub, start, dataset):
    assert start("publish", dataset, NAME, implicit_token=False).returncode == 0
    assert ours(hub) == local(dataset)


def test_another_dataset_is_not_overwritten_by_a_slip_in_the_name(hub, start, dataset, tmp_path, monkeypatch):
    monkeypatch.setattr(publish_dataset, "copies_of_patients", lambda *_: [])  # see test_patient_copies.py
    other = small_datasets.photographs(tmp_path, "other", {"XYZ": 3, "QRS": 2})
    start("publish", other, "lab/other")
    synthetic = small_datasets.synthetic(tmp_path / "synthetic", [["AAR.1"]])
    start("publish", synthetic, "lab/synthetic", "--open", "--real_dataset", dataset)
    for name in ("lab/other", "lab/synthetic"):
        theirs = ours(hub, name)
        for command in (("publish", dataset, name), ("withdraw", dataset, "NA.2", name)):
            run = start(*command)
            assert run.returncode == 2 and "holds another dataset" in run.stderr and ours(hub, name) == theirs
    assert publishable.examine(dataset).rows["real"] == 11


def test_people_whom_nobody_approved_are_named_before_anything_is_sent(hub, start, dataset, tmp_path):
    make(hub, tmp_path, NAME, private=False, gated="auto")
    hub.ask_access(NAME, GUEST)
    hub.repository(NAME).set_access("guest", "accepted")
    run = start("publish", dataset, NAME)
    assert run.returncode == 1 and "which let in guest" in run.stderr and not ours(hub)
    assert hub.repository(NAME).gated == "manual"
    assert start("access", "revoke", NAME, "--user", "guest").returncode == 0
    assert start("publish", dataset, NAME).returncode == 0 and ours(hub) == local(dataset)


def test_the_card_names_its_repository_and_its_version_never_falls(hub, start, unnamed_dataset, tmp_path):
    dataset = unnamed_dataset
    assert start("publish", dataset, NAME).returncode == 0
    assert b'load_dataset("lab/rdface"' in ours(hub)["README.md"] and b"datasheets--lab" not in ours(hub)["README.md"]
    assert start("withdraw", dataset, "NA.2", NAME).returncode == 0
    fresh = small_datasets.photographs(tmp_path, "fresh", {"AAR": 4, "NA": 1, "WS": 2, "CSY": 2})
    assert start("publish", fresh, NAME).returncode == 0
    assert datasheet.version_of(fresh) == "1.2.0" and b"version: 1.2.0" in ours(hub)["README.md"]


def test_an_earlier_version_is_forgotten_where_that_is_asked_for(hub, start, dataset):
    start("publish", dataset, NAME)
    old = next(content for name, content in ours(hub).items() if name.startswith("reports/"))
    shutil.rmtree(dataset / "reports")
    datasheet.write_datasheet(dataset, "1.1.0")
    run = start("publish", dataset, NAME)
    assert run.returncode == 0 and "--forget_history removes it" in run.stdout
    assert old in hub.repository(NAME).large_files.values()
    run = start("publish", dataset, NAME, "--forget_history")
    assert run.returncode == 0 and "no earlier version is left" in run.stdout, run.stderr
    assert old not in hub.repository(NAME).large_files.values() and len(hub.repository(NAME).reachable()) == 1


# ---- a Hub that does not do what it is asked


@pytest.mark.parametrize("lie", [ignore_gated, forget_gate_when_visible, serve_anybody])
def test_a_hub_that_lies_about_the_gate_ends_with_a_private_repository(hub, start, dataset, lie):
    hub.fault(r"PUT .*/settings" if lie is not serve_anybody else r"GET /datasets/.*resolve", lie, times=None)
    run = start("publish", dataset, NAME, "--visible")
    assert run.returncode == 1 and run.stderr.splitlines()[-1].startswith("publish_dataset.py: lab/rdface: ")
    repository = hub.repository(NAME)
    assert repository.private
    if lie is ignore_gated:
        assert not ours(hub) and "should be private True and gated manual" in run.stderr
    if lie is forget_gate_when_visible:
        assert "made private again" in run.stderr
    if lie is serve_anybody:
        assert "asked for without an account" in run.stderr and "was served, not by the gate" in run.stderr
    hub.events.clear()  # what this Hub did is its own fault
    hub.ledger.clear()


def test_nonsense_from_the_hub_ends_in_one_line_and_in_private(hub, start, dataset):
    hub.fault(f"GET /api/datasets/{NAME}$", say([]), times=1, skip=1)
    run = start("publish", dataset, NAME)
    assert run.returncode == 1 and "the Hub's answer to repo_info makes no sense" in run.stderr and not ours(hub)
    assert start("publish", dataset, NAME).returncode == 0
    hub.fault(f"GET /api/datasets/{NAME}$", say({"id": NAME}), skip=5, times=None)  # since it was made visible
    run = start("publish", dataset, NAME, "--visible")
    assert run.returncode == 1 and "COULD NOT BE MADE PRIVATE" in run.stderr.splitlines()[-1]
    assert hub.repository(NAME).private and any(e.json.get("visibility") == "public" for e in hub.asked("PUT .*/sett"))


@pytest.mark.parametrize("status", [500, 404, 200])
def test_anything_but_the_gates_refusal_hides_the_repository_again(hub, start, dataset, status):
    hub.fault("GET .*/auth-check$", answer(status), times=None)
    run = start("publish", dataset, NAME, "--visible")
    assert run.returncode == 1 and "made private again" in run.stderr
    assert hub.repository(NAME).private and ours(hub) == local(dataset)


def test_hiding_is_tried_until_it_works(hub, start, dataset):
    hub.fault("GET .*/auth-check$", answer(500), times=None)
    hub.fault("PUT .*/settings", answer(503), skip=2, times=2)  # after those that gate and show
    run = start("publish", dataset, NAME, "--visible")
    assert run.returncode == 1 and hub.repository(NAME).private, run.stderr


def test_a_visible_repository_whose_gate_is_open_is_closed_before_anything_is_sent(hub, start, dataset):
    start("publish", dataset, NAME, "--visible")
    shutil.rmtree(dataset / "reports")
    datasheet.write_datasheet(dataset, "1.1.0")
    before = dict(ours(hub))
    hub.fault("GET /datasets/.*resolve", serve_anybody, times=None)
    run = start("publish", dataset, NAME)
    assert run.returncode == 1 and hub.repository(NAME).private and ours(hub) == before
    hub.events.clear()
    hub.ledger.clear()


# ---- interruptions


def killed_after(hub: Hub, n: int, home: Path, *arguments: object) -> int:
    """The command, killed once its n-th request from now has been answered; returns its exit status."""
    process, gate = waiting_process(hub.environment(home, OWNER), "publish_dataset", *arguments)
    hub.kill_after(n, process.pid)
    gate.send("begin")
    process.join(timeout=120)
    hub.kills.clear()  # it may have made fewer requests; the next run's are not to be counted on
    return process.exitcode


def test_killed_at_ten_moments_no_photograph_is_public_and_the_next_run_finishes(dataset, tmp_path):
    """The command is killed at ten moments: after its first request, and after nine of those that change the Hub."""
    with serving(*PEOPLE) as hub, using(hub.environment(tmp_path / "home", OWNER)):
        assert exit_status(publish_dataset, "publish", dataset, NAME, "--visible") == 0
        changes = [n for n, request in enumerate(hub.ledger, start=1) if request.method not in ("GET", "HEAD")]
    assert len(changes) > 10
    moments = [1, *(changes[round(part * (len(changes) - 1) / 8)] for part in range(9))]
    for n in moments:
        with serving(*PEOPLE) as hub:
            killed_after(hub, n, tmp_path / "home", "publish", dataset, NAME, "--visible")
            repository = hub.repository(NAME)
            if repository is not None:
                assert not repository.was_exposed and (repository.private or repository.gated == "manual")
            if n in moments[1::3]:
                with using(hub.environment(tmp_path / "home", OWNER)):
                    assert exit_status(publish_dataset, "publish", dataset, NAME, "--visible") == 0
                repository = hub.repository(NAME)
                assert ours(hub) == local(dataset) and not repository.private and repository.gated == "manual"
                assert not repository.was_exposed
                assert not list(dataset.parent.glob(f".{dataset.name}.publishing-*"))
            assert not hub.leaks()


@pytest.mark.parametrize(
    ("pattern", "act"),
    [("PUT /storage/", cut_upload(2000)), ("POST .*/commit/", cut_upload(100)), ("POST .*/commit/", lose_answer)],
)
def test_an_upload_cut_off_is_finished_by_the_same_command(hub, start, dataset, pattern, act):
    hub.fault(pattern, act)
    run = start("publish", dataset, NAME)
    if run.returncode:
        assert run.returncode == 1 and run.stderr.strip().endswith("run the same command again: what was done is kept")
        large = {e.target: e.received for e in hub.asked("PUT /storage/") if e.status == 200}
        before = len(hub.ledger)
        run = start("publish", dataset, NAME)
        again = sum(e.received for e in hub.ledger[before:] if "/storage/" in e.target)
        assert again == 0 or not large
    assert run.returncode == 0, run.stderr
    assert ours(hub) == local(dataset) and not hub.repository(NAME).was_exposed


@pytest.mark.parametrize(
    ("status", "said", "remedy", "is_no_remedy"),
    [
        (403, "Private repository storage limit reached", "--forget_history removes earlier versions", "use a token"),
        (413, "Payload Too Large", "whose files have at most 500 MB", "run the same command again"),
        (403, "You have no right to write here", "use a token that may write there", "storage is full"),
    ],
)
def test_the_remedy_of_a_refused_commit_is_one_that_helps(hub, start, dataset, status, said, remedy, is_no_remedy):
    hub.fault("POST .*/commit/", answer(status, said), times=None)
    run = start("publish", dataset, NAME)
    assert run.returncode == 1 and remedy in run.stderr and is_no_remedy not in run.stderr
    assert not hub.repository(NAME).was_exposed


# ---- synthetic images


def test_synthetic_images_go_open_to_a_repository_of_their_own(hub, start, tmp_path):
    """SIMULATED faces: each of another person than those on the photographs."""
    dataset, name = Path(shutil.copytree(small_datasets.of_faces(), tmp_path / "rdface")), "lab/rdface-synthetic"
    sources = [["AAR.1"], ["NA.1"]]
    folder = small_datasets.synthetic(
        tmp_path / "rdface-synthetic", sources, show=lambda n: small_datasets.face(31 + n)
    )
    assert "publish them with --open" in start("publish", folder, name).stderr
    run = start("publish", folder, name, "--open", "--visible", "--real_dataset", dataset)
    assert run.returncode == 0, run.stderr
    repository = hub.repository(name)
    assert not repository.private and not repository.gated and ours(hub, name) == local(folder)
    assert publishable.PRIVACY_REPORT not in ours(hub, name)
    start("publish", dataset, NAME)
    run = start("publish", folder, NAME, "--open", "--real_dataset", dataset)
    assert run.returncode == 2 and "name another for synthetic images" in run.stderr
    assert start("publish", dataset, "lab/more", "--open", "--real_dataset", dataset).returncode == 2


def test_while_the_privacy_report_is_red_nothing_goes_open(hub, start, tmp_path):
    folder = small_datasets.synthetic(tmp_path / "rdface-synthetic", [["AAR.1"], ["NA.1"]])
    small_datasets.report_on(folder, "red")
    run = start("publish", folder, "lab/synthetic", "--open", "--real_dataset", dataset)
    assert run.returncode == 2 and "its verdict is not green" in run.stderr and not hub.ledger


# ---- access


def test_requests_are_shown_granted_rejected_and_revoked(hub, start, dataset):
    assert "nobody can ask for access" in start("access", "list", NAME).stderr
    start("publish", dataset, NAME, "--visible")
    hub.ask_access(NAME, GUEST, Institution="A clinic\x1b[2J", Purpose="to compare methods")
    shown = start("access", "list", NAME).stdout
    assert "guest" in shown and "A clinic [2J" in shown and "to compare methods" in shown and "\x1b" not in shown
    assert shown.splitlines()[-1] == "1 pending, 0 accepted, 0 rejected"
    assert start("access", "grant", NAME, "--user", "guest").stdout.startswith("guest has access")
    assert "already" in start("access", "grant", NAME, "--user", "guest").stdout
    (row,) = json.loads(start("access", "list", NAME, "--json").stdout)
    assert (row["status"], row["user"], row["Purpose"]) == ("accepted", "guest", "to compare methods")
    assert "revoke takes access away" in start("access", "reject", NAME, "--user", "guest").stderr
    assert "no access" in start("access", "revoke", NAME, "--user", "guest", "--reason", "The study ended.").stdout
    assert start("access", "list", NAME).stdout.endswith("0 pending, 0 accepted, 1 rejected\n")
    assert start("access", "revoke", NAME, "--user", "guest").returncode == 2
    assert start("access", "reject", NAME, "--user", "nobody").returncode == 2
    assert "the Hub knows no such user" in start("access", "grant", NAME, "--user", "nobody").stderr
    assert start("access", "grant", NAME).returncode == 2 and start("access", "list", NAME, token=GUEST).returncode


PROGRAM = """
import sys
from curation.opening import load_images
from harness.errors import InputError
for config in (None, "restored"):
    try:
        images = load_images("lab/rdface", config)
        print(config, len(images), images[0]["image"].size)
    except InputError as error:
        print(error)
"""


def test_who_has_access_loads_the_dataset_and_who_has_not_learns_what_to_do(hub, start, dataset, tmp_path):
    def load(name: str, token: str | None) -> str:
        environment = hub.environment(tmp_path / f"home-{name}", token)
        command = [sys.executable, "-c", PROGRAM]
        run = subprocess.run(command, capture_output=True, text=True, env=environment, cwd=tmp_path, timeout=120)
        assert run.returncode == 0, run.stderr
        return run.stdout

    start("publish", dataset, NAME, "--visible")
    assert load("nobody", None).count("nobody is logged in here; run hf auth login") == 2
    hub.ask_access(NAME, GUEST)
    assert load("waiting", GUEST).count("this account has no access; ask for it at ") == 2
    assert hub.bytes_served_to("guest") == hub.bytes_served_to(None) == 0
    start("access", "grant", NAME, "--user", "guest")
    assert load("granted", GUEST) == "None 11 (96, 80)\nrestored 11 (96, 80)\n"
    start("access", "revoke", NAME, "--user", "guest")
    before = hub.bytes_served_to("guest")
    assert "this account has no access" in load("revoked", GUEST) and hub.bytes_served_to("guest") == before


# ---- withdraw


def test_a_withdrawn_photograph_can_no_longer_be_had_in_any_version(hub, start, dataset, tmp_path, monkeypatch):
    monkeypatch.setattr(publish_dataset, "copies_of_patients", lambda *_: [])  # see test_patient_copies.py
    synthetic = small_datasets.synthetic(tmp_path / "synthetic", [["NA.2"], ["AAR.3"], ["NA.1", "NA.2"]])
    start("publish", dataset, NAME, "--visible")
    start("publish", synthetic, "lab/synthetic", "--open", "--visible", "--real_dataset", dataset)
    image_of = {row["image_id"]: row["image"]["bytes"] for row in pq.read_table(dataset / "real").to_pylist()}
    picture = image_of["NA.2"][-150:-10]
    synthetic_picture = pq.read_table(synthetic / "synthetic")["image"][0].as_py()["bytes"][-150:-10]
    assert any(picture in content for content in ours(hub).values())
    derived = ("--derived", synthetic, "lab/synthetic")
    listed = start("withdraw", dataset, "NA.2", NAME, *derived, "--dry_run")
    assert listed.returncode == 0 and "2 images or reports" in listed.stdout and "nothing was removed" in listed.stdout
    assert listed.stdout.startswith("would be removed:\n")
    run = start("withdraw", dataset, "NA.2", NAME, *derived)
    assert run.returncode == 0, run.stderr
    for name, folder, needle in ((NAME, dataset, picture), ("lab/synthetic", synthetic, synthetic_picture)):
        repository = hub.repository(name)
        assert ours(hub, name) == local(folder) and len(repository.reachable()) == 1
        assert not any(needle in content for content in ours(hub, name).values())
        assert not any(needle in content for content in repository.large_files.values())
    assert datasheet.version_of(dataset) == "1.1.0" and b"NA.2" in ours(hub)["withdrawn.csv"]
    assert hub.repository(NAME).gated == "manual" and not hub.repository(NAME).private
    again = start("withdraw", dataset, "NA.2", NAME)
    assert again.returncode == 0 and "withdrawn before" in again.stdout and datasheet.version_of(dataset) == "1.1.0"


def test_an_earlier_copy_of_the_folder_cannot_bring_a_withdrawn_photograph_back(hub, start, dataset, built, tmp_path):
    start("publish", dataset, NAME)
    assert start("withdraw", dataset, "NA.2", NAME).returncode == 0
    shutil.copytree(built, tmp_path / "earlier" / "rdface")
    before = ours(hub)
    run = start("publish", tmp_path / "earlier" / "rdface", NAME)
    assert run.returncode == 2 and "NA.2 was withdrawn from lab/rdface on " in run.stderr and ours(hub) == before


def test_the_hubs_list_of_withdrawn_photographs_is_never_lost(hub, start, dataset):
    start("publish", dataset, NAME)
    assert start("withdraw", dataset, "NA.2", NAME).returncode == 0
    (dataset / "withdrawn.csv").unlink()  # as in a folder that was built anew, without the photograph
    datasheet.write_datasheet(dataset, "1.1.0")
    assert start("publish", dataset, NAME).returncode == 0
    assert b"NA.2" in ours(hub)["withdrawn.csv"] and b"NA.2" in (dataset / "withdrawn.csv").read_bytes()


def test_a_withdrawal_that_did_not_reach_the_hub_is_finished_by_the_next_publication(hub, start, dataset):
    start("publish", dataset, NAME)
    rows = pq.read_table(dataset / "real").to_pylist()
    picture = next(row["image"]["bytes"][-150:-10] for row in rows if row["image_id"] == "NA.2")
    assert start("withdraw", dataset, "NA.2").returncode == 0  # here only
    assert any(picture in content for content in hub.repository(NAME).large_files.values())
    run = start("publish", dataset, NAME)
    assert run.returncode == 0 and "no earlier version is left" in run.stdout, run.stderr
    assert not any(picture in content for content in hub.repository(NAME).large_files.values())
    assert ours(hub) == local(dataset) and len(hub.repository(NAME).reachable()) == 1


def test_where_the_history_cannot_be_squashed_it_says_so_and_the_next_run_does_it(hub, start, dataset):
    start("publish", dataset, NAME)
    hub.fault("POST .*/super-squash/", answer(404))
    run = start("withdraw", dataset, "NA.2", NAME)
    assert run.returncode == 1 and "run the same command again" in run.stderr
    run = start("withdraw", dataset, "NA.2", NAME)
    assert run.returncode == 0 and len(hub.repository(NAME).reachable()) == 1, run.stderr


def test_withdrawing_what_is_not_there_changes_nothing(hub, start, dataset):
    before = local(dataset)
    run = start("withdraw", dataset, "XX.9", NAME)
    assert run.returncode == 2 and "holds no photograph XX.9;" in run.stderr and local(dataset) == before
    run = start("withdraw", dataset, "na.2.jpg")
    assert run.returncode == 2 and "no photograph na.2.jpg (is it NA.2?);" in run.stderr and local(dataset) == before
    run = start("withdraw", dataset, "NA.2", NAME)  # which was never published
    assert run.returncode == 2 and "does not hold what rdface holds" in run.stderr and local(dataset) == before
    assert "to be removed" not in run.stdout


def test_a_withdrawal_never_takes_photographs_where_they_are_not_or_lie_open(
    hub, start, dataset, tmp_path, monkeypatch
):
    monkeypatch.setattr(publish_dataset, "copies_of_patients", lambda *_: [])  # see test_patient_copies.py
    synthetic = small_datasets.synthetic(tmp_path / "synthetic", [["NA.2"], ["AAR.3"]])
    start("publish", synthetic, "lab/synthetic", "--open", "--visible", "--real_dataset", dataset)
    before, theirs = local(dataset), ours(hub, "lab/synthetic")
    run = start("withdraw", dataset, "NA.2", "lab/synthetic")
    assert run.returncode == 2 and "lab/synthetic: is public and not gated" in run.stderr
    assert local(dataset) == before and ours(hub, "lab/synthetic") == theirs
    start("publish", dataset, NAME, "--visible")
    before = local(dataset)
    hub.repository(NAME).set_gated(False)  # by somebody in the browser
    run = start("withdraw", dataset, "NA.2", NAME)
    assert run.returncode == 1 and "it was made private" in run.stderr
    assert hub.repository(NAME).private and local(dataset) == before
    assert start("withdraw", dataset, "NA.2", NAME).returncode == 0 and hub.repository(NAME).gated == "manual"


def test_photographs_found_open_are_hidden_by_the_next_command(hub, start, dataset):
    start("publish", dataset, NAME, "--visible")
    hub.repository(NAME).set_gated(False)
    run = start("publish", dataset, NAME)
    assert run.returncode == 1 and "it was made private" in run.stderr and hub.repository(NAME).private
    run = start("publish", dataset, NAME, "--visible")
    assert run.returncode == 0 and hub.repository(NAME).gated == "manual" and not hub.repository(NAME).private
