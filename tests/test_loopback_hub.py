"""loopback_hub.py: huggingface_hub, datasets, pandas, polars and DuckDB use it as they would the Hub, and are counted.

Each user is a process of his own with a fresh HF_HOME: caches ask for no token, and a shared one would hide refusals.
"""

import contextlib
import hashlib
import io
import itertools
import json
import socket
import subprocess
import sys
import urllib.error
import urllib.request
from pathlib import Path

import datasets
import numpy as np
import pyarrow.parquet
import pytest
from loopback_cards import card_problems
from loopback_hub import (
    Hub,
    answer,
    cut_download,
    cut_upload,
    forget_gate_when_visible,
    ignore_gated,
    lose_answer,
    serve_anybody,
    serving,
)
from loopback_repositories import File
from PIL import Image

OWNER, MEMBER, GUEST, OTHER, READER = (f"hf_{name}Token" for name in ("owner", "member", "guest", "other", "reader"))
ACCOUNTS = {OWNER: "owner", MEMBER: "member", GUEST: "guest", OTHER: "other", READER: "owner"}
NAME = "lab/rdface"
SHARDS = [f"real/train-{n:05}-of-00002.parquet" for n in range(2)]
CARD = """---
license: other
license_name: research-only
extra_gated_fields:
  Institution: text
  I will not identify anybody: checkbox
  Purpose: {type: select, options: [research, teaching]}
configs:
- config_name: real
  default: true
  data_files: [{split: train, path: real/train-*.parquet}]
---
# Faces drawn by a test
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """A dataset as it is uploaded: 2 shards of 4 small pictures, of about 130 kB each, a card and a text file."""
    folder, rng = tmp_path_factory.mktemp("dataset"), np.random.default_rng(0)
    features = datasets.Features({"image": datasets.Image(), "image_id": datasets.Value("string")})
    (folder / "real").mkdir()
    for n, shard in enumerate(SHARDS):
        rows = []
        for i in range(4):
            picture = io.BytesIO()
            Image.fromarray(rng.integers(0, 256, (104, 104, 3), dtype=np.uint8)).save(picture, "PNG")
            rows.append({"image": {"bytes": picture.getvalue(), "path": f"P{n}.{i}.png"}, "image_id": f"P{n}.{i}"})
        datasets.Dataset.from_list(rows, features=features).to_parquet(folder / shard)
    (folder / "README.md").write_text(CARD)
    (folder / "withdrawn.csv").write_text("image_id\n")
    return folder


@pytest.fixture(scope="module")
def photographs(folder) -> dict[str, str]:
    """image_id -> sha256 of the picture, as pyarrow reads it from the folder."""
    rows = [row for shard in SHARDS for row in pyarrow.parquet.read_table(folder / shard).to_pylist()]
    return {row["image_id"]: hashlib.sha256(row["image"]["bytes"]).hexdigest() for row in rows}


@pytest.fixture
def hub() -> Hub:
    with serving(ACCOUNTS, {"lab": {"owner", "member"}}, read_only={READER}) as hub:
        yield hub


PRELUDE = """
import json, os, sys
from pathlib import Path
from huggingface_hub import CommitOperationAdd, CommitOperationDelete, HfApi, hf_hub_download
NAME, FOLDER = "lab/rdface", Path(sys.argv[1])
HERE = dict(repo_id=NAME, repo_type="dataset")
api = HfApi()

def outcome(ask, *args, **kwargs):
    try:
        return ask(*args, **kwargs)
    except Exception as error:
        status = getattr(getattr(error, "response", None), "status_code", "")
        return f"{type(error).__name__} {status} {' '.join(str(error).split())}"

def additions(*paths):
    return [CommitOperationAdd(path, FOLDER / path) for path in paths]

def publish(message="publish"):
    api.create_repo(NAME, private=True, exist_ok=True, repo_type="dataset")
    api.update_repo_settings(**HERE, gated="manual")
    paths = sorted(str(path.relative_to(FOLDER)) for path in FOLDER.rglob("*") if path.is_file())
    return api.create_commit(**HERE, operations=additions(*paths), commit_message=message, num_threads=1).oid
"""


def start(hub: Hub, home: Path, token: str | None, folder: Path, program: str, **settings: bool) -> subprocess.Popen:
    arguments = [sys.executable, "-c", PRELUDE + program, str(folder)]
    environment = hub.environment(home, token, **settings) | {"OMP_NUM_THREADS": "1"}
    return subprocess.Popen(arguments, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment)


def run(hub: Hub, home: Path, token: str | None, folder: Path, program: str, **settings: bool) -> dict:
    """What the program prints in its last line, as JSON."""
    process = start(hub, home, token, folder, program, **settings)
    output, errors = process.communicate(timeout=100)
    assert process.returncode == 0, errors
    assert not any(known in output + errors for known in ACCOUNTS)
    return json.loads(output.splitlines()[-1])


def publish(hub: Hub, tmp_path: Path, folder: Path, visible: bool = True) -> None:
    show = "api.update_repo_settings(**HERE, private=False)" if visible else ""
    run(hub, tmp_path / "publisher", OWNER, folder, f"oid = publish()\n{show}\nprint(json.dumps(oid))")


# ---- who gets what

READ = """
import hashlib
import datasets, duckdb, pandas, polars
from huggingface_hub import HfFileSystem
PATHS = [f"datasets/{NAME}/real/train-{n:05}-of-00002.parquet" for n in range(2)]

def digests(rows):
    return {row["image_id"]: hashlib.sha256(row["image"]["bytes"]).hexdigest() for row in rows}

def load(**how):
    images = datasets.load_dataset(NAME, split="train", **how)
    return digests(images.cast_column("image", datasets.Image(decode=False)))

def by_pandas():  # through fsspec
    return digests(pandas.concat([pandas.read_parquet(f"hf://{path}") for path in PATHS]).to_dict("records"))

def by_polars():  # its own hf:// is compiled, and knows huggingface.co only
    return digests(row for path in PATHS for row in polars.read_parquet(HfFileSystem().read_bytes(path)).to_dicts())

def by_duckdb():  # likewise
    connection = duckdb.connect()
    connection.register_filesystem(HfFileSystem())
    found = connection.sql(f"select image, image_id from 'hf://datasets/{NAME}/real/*.parquet'").fetchall()
    return digests({"image": image, "image_id": image_id} for image, image_id in found)

def by_download():
    return Path(hf_hub_download(filename="real/train-00000-of-00002.parquet", **HERE)).stat().st_size

print(json.dumps({
    "load": outcome(load),
    "stream": outcome(load, streaming=True),
    "download": outcome(by_download),
    "pandas": outcome(by_pandas),
    "polars": outcome(by_polars),
    "duckdb": outcome(by_duckdb),
    "tree": outcome(lambda: [entry.path for entry in api.list_repo_tree(recursive=True, **HERE)]),
    "card": outcome(lambda: Path(hf_hub_download(filename="README.md", **HERE)).read_text()),
}))
"""


def is_refused(found: dict, status: int, hint: str) -> bool:
    """By the gate: names of files and the card are for everybody, content is not."""
    assert found["card"] == CARD and set(SHARDS) < set(found["tree"])
    for way in ("load", "stream"):
        assert found[way].startswith("DatasetNotFoundError") and hint in found[way], found[way]
    assert found["download"].startswith(f"GatedRepoError {status} {status} Client Error. Cannot access gated repo")
    assert all("GatedRepoError" in found[way] and f"{status} Client" in found[way] for way in ("pandas", "polars"))
    return "Cannot access gated repo" in found["duckdb"]


def test_only_those_who_were_granted_access_get_photographs_and_only_as_long(hub, folder, photographs, tmp_path):
    homes = (tmp_path / f"home{n}" for n in itertools.count())
    publish(hub, tmp_path, folder, visible=False)

    hidden = run(hub, next(homes), GUEST, folder, READ)
    assert hidden["load"].startswith("DatasetNotFoundError") and "doesn't exist on the Hub or" in hidden["load"]
    assert all("RepositoryNotFoundError 404" in hidden[way] for way in ("download", "tree", "card"))

    hub.repository(NAME).set_private(False)
    assert is_refused(run(hub, next(homes), None, folder, READ), 401, "You must be authenticated")
    assert is_refused(run(hub, next(homes), GUEST, folder, READ), 403, f"datasets/{NAME} to ask for access")
    answers = {"Institution": "Clinic of Somewhere", "Purpose": "research"}
    assert hub.ask_access(NAME, GUEST, **answers) == 303
    pending = run(hub, next(homes), GUEST, folder, READ)
    assert is_refused(pending, 403, "to ask for access") and "awaiting a review" in pending["download"]

    decide = "api.{}(**HERE, user='guest')\nprint('{{}}')"
    reject = "api.reject_access_request(**HERE, user='guest', rejection_reason=None)\nprint('{}')"
    run(hub, next(homes), OWNER, folder, reject)
    rejected = run(hub, next(homes), GUEST, folder, READ)
    assert is_refused(rejected, 403, "to ask for access") and "has been rejected" in rejected["download"]
    assert sum(row.served for row in hub.ledger if row.file and row.file.endswith(".parquet")) == 0

    run(hub, next(homes), OWNER, folder, decide.format("accept_access_request"))
    granted = run(hub, next(homes), GUEST, folder, READ)
    for way in ("load", "stream", "pandas", "polars", "duckdb"):
        assert granted[way] == photographs, way
    sizes = [(folder / shard).stat().st_size for shard in SHARDS]
    assert granted["download"] == sizes[0]
    served = hub.bytes_served_to("guest")
    assert served > 5 * sum(sizes) and hub.bytes_served_to(None) == 0
    ranges = [row for row in hub.asked("GET /storage/") if row.status == 206]
    assert ranges and all(row.headers["Range"].startswith("bytes=") for row in ranges)
    assert not any("Authorization" in row.headers for row in hub.asked(" /storage/"))  # no token to another host

    run(hub, next(homes), OWNER, folder, decide.format("cancel_access_request"))
    assert is_refused(run(hub, next(homes), GUEST, folder, READ), 403, "to ask for access")
    assert hub.bytes_served_to("guest") == served
    assert not hub.leaks() and not hub.repository(NAME).was_exposed
    assert not hub.asked("CONNECT")  # nothing went anywhere else
    viewer = hub.asked("GET http://datasets-server.127.0.0.1")
    assert {row.user for row in viewer} == {"guest"} and {row.status for row in viewer} == {404}


def test_a_token_that_is_named_in_the_call_is_enough(hub, folder, photographs, tmp_path):
    publish(hub, tmp_path, folder)
    hub.repository(NAME).set_access("guest", "accepted")
    program = """
import hashlib, datasets
token = os.environ["HF_TOKEN"]
def load(**how):
    images = datasets.load_dataset(NAME, split="train", **how).cast_column("image", datasets.Image(decode=False))
    return {row["image_id"]: hashlib.sha256(row["image"]["bytes"]).hexdigest() for row in images}
print(json.dumps([outcome(load), outcome(load, token=token, streaming=True), outcome(load, token=token)]))
"""
    unnamed, *named = run(hub, tmp_path / "home", GUEST, folder, program, implicit_token=False)
    assert unnamed.startswith("DatasetNotFoundError") and "must be authenticated" in unnamed
    assert named == [photographs, photographs]
    assert not hub.leaks()


def test_an_open_stream_ends_with_the_shard_after_revocation(hub, folder, tmp_path):
    publish(hub, tmp_path, folder)
    hub.repository(NAME).set_access("guest", "accepted")
    program = f"""
import datasets
rows, seen = iter(datasets.load_dataset(NAME, split="train", streaming=True)), []
seen.append(next(rows)["image_id"])
HfApi(token="{OWNER}").reject_access_request(**HERE, user="guest", rejection_reason="")
def rest():
    seen.extend(row["image_id"] for row in rows)
print(json.dumps([outcome(rest), seen]))
"""
    error, seen = run(hub, tmp_path / "home", GUEST, folder, program)
    assert "403 Client Error" in error and seen == [f"P0.{i}" for i in range(4)]
    assert not hub.leaks()


def test_a_signed_address_outlives_the_access_and_is_found_out(hub, folder, tmp_path):
    """As on the Hub, where such an address holds for an hour; the ledger tells to whom it was given."""
    publish(hub, tmp_path, folder)
    repository = hub.repository(NAME)
    repository.set_access("guest", "accepted")
    address = f"{hub.url}/datasets/{NAME}/resolve/main/{SHARDS[0]}"
    request = urllib.request.Request(address, headers={"Authorization": f"Bearer {GUEST}", "Range": "bytes=-8"})
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    with contextlib.closing(opener.open(request)) as response:
        assert response.read() == (folder / SHARDS[0]).read_bytes()[-8:] and response.status == 206
    assert not hub.leaks()
    repository.set_access("guest", "rejected")
    with contextlib.closing(opener.open(response.url)) as again:
        assert again.read() == (folder / SHARDS[0]).read_bytes()
    (leak,) = hub.leaks()
    assert leak.user == "guest" and leak.file == SHARDS[0] and leak.served == (folder / SHARDS[0]).stat().st_size
    hub.signature_seconds = -1
    with pytest.raises(urllib.error.HTTPError, match="403"):
        opener.open(urllib.request.Request(address, headers={"Authorization": f"Bearer {OWNER}"}))


# ---- gates that fail


@pytest.mark.parametrize("broken", ["ignored", "forgotten"])
def test_a_gate_that_is_not_kept_exposes_the_photographs(broken, hub, folder, tmp_path):
    acts = {"ignored": ignore_gated, "forgotten": forget_gate_when_visible}
    hub.fault("PUT .*/settings", acts[broken], times=None)
    publish(hub, tmp_path, folder)
    repository = hub.repository(NAME)
    assert repository.exposed and repository.was_exposed and not repository.gated
    repository.set_gated("manual")
    assert not repository.exposed and repository.was_exposed


def test_photographs_that_are_served_to_anybody_are_found_out(hub, folder, tmp_path):
    publish(hub, tmp_path, folder)
    program = f'print(json.dumps(outcome(hf_hub_download, filename="{SHARDS[0]}", **HERE)))'
    assert "GatedRepoError 401" in run(hub, tmp_path / "home1", None, folder, program)
    assert not hub.leaks()
    hub.fault(r"/resolve/.*\.parquet", serve_anybody, times=None)
    assert run(hub, tmp_path / "home2", None, folder, program).endswith(SHARDS[0])
    (leak,) = hub.leaks()
    assert leak.user is None and hub.bytes_served_to(None) == leak.served == (folder / SHARDS[0]).stat().st_size
    hub.repository(NAME).set_private(True)
    assert run(hub, tmp_path / "home3", GUEST, folder, program).endswith(SHARDS[0])
    assert [leak.user for leak in hub.leaks()] == [None, "guest"]
    assert not hub.repository(NAME).was_exposed  # its settings were as they should be


# ---- uploads


def test_an_upload_that_was_killed_is_resumed_without_sending_anything_twice(hub, folder, tmp_path):
    sizes = [(folder / shard).stat().st_size for shard in SHARDS]
    process = start(hub, tmp_path / "home", OWNER, folder, "publish()")
    hub.fault("PUT /storage/", cut_upload(50_000, process.pid), skip=1)
    process.communicate(timeout=100)
    assert process.returncode == -9
    repository = hub.repository(NAME)
    assert [len(content) for content in repository.large_files.values()] == sizes[:1]
    assert set(repository.files) == {".gitattributes"}
    before = len(hub.ledger)
    run(hub, tmp_path / "home", OWNER, folder, "print(json.dumps(publish()))")
    (put,) = [row for row in hub.ledger[before:] if row.method == "PUT" and "/storage/" in row.path]
    assert put.received == sizes[1]
    files = {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    assert repository.files == files | {".gitattributes": repository.files[".gitattributes"]}
    assert len(repository.revisions) == 2 and not repository.was_exposed

    before = len(hub.ledger)
    unchanged = run(hub, tmp_path / "home", OWNER, folder, "print(json.dumps(publish()))")
    assert unchanged == repository.revisions[0] and len(repository.revisions) == 2
    assert not [row for row in hub.ledger[before:] if "/commit/" in row.path or row.path.startswith("/storage/")]


@pytest.mark.parametrize("n", [1, 2, 4])
def test_a_process_is_killed_after_the_request_that_the_test_chose(n, hub, folder, tmp_path):
    process = start(hub, tmp_path / "home", OWNER, folder, "publish()")
    hub.kill_after(n, process.pid)
    process.communicate(timeout=100)
    assert process.returncode == -9 and len(hub.ledger) == n
    steps = ["POST /api/repos/create", "PUT /api/datasets/lab/rdface/settings", "POST /api/validate-yaml"]
    steps.append("POST /api/datasets/lab/rdface/preupload/main")
    assert [f"{row.method} {row.path}" for row in hub.ledger] == steps[:n]
    assert hub.repository(NAME).gated == ("manual" if n > 1 else False) and hub.repository(NAME).private


@pytest.mark.parametrize("size", ["Content-Length: 9000", "Transfer-Encoding: chunked"])
def test_half_a_commit_is_no_commit(size, hub):
    repository = hub.create(NAME)
    lines = [{"key": "header", "value": {"summary": "half"}}]
    lines.append({"key": "file", "value": {"path": "a.txt", "content": "", "encoding": "base64"}})
    body = "".join(json.dumps(line) + "\n" for line in lines)
    body = f"{len(body):x}\r\n{body}\r\n" if "chunked" in size else body  # the last, empty chunk is missing
    with socket.create_connection(("127.0.0.1", hub.server.server_port)) as client:
        head = f"POST /api/datasets/{NAME}/commit/main HTTP/1.1\r\nHost: hub\r\nAuthorization: Bearer {OWNER}\r\n{size}"
        client.sendall(f"{head}\r\n\r\n{body}".encode())
        client.shutdown(socket.SHUT_WR)
        assert client.recv(1) == b""
    assert len(repository.revisions) == 1 and len(hub.asked("/commit/main")) == 1


def test_what_the_client_repeats_by_itself_and_what_it_does_not(hub, folder, tmp_path):
    hub.fault("PUT /storage/", cut_upload(10_000))
    hub.fault("/preupload/", answer(503))
    hub.fault("/commit/", answer(500))
    hub.fault("/commit/", lose_answer, skip=1)
    program = """
found = [outcome(publish), outcome(publish), outcome(publish)]
stale = dict(operations=additions("withdrawn.csv"), commit_message="late", parent_commit="0" * 40)
stale["operations"][0].path_in_repo = "other.csv"
print(json.dumps([*found, outcome(api.create_commit, **HERE, **stale)]))
"""
    failed, lost, unchanged, stale = run(hub, tmp_path / "home", OWNER, folder, program)
    assert failed.startswith("HfHubHTTPError 500") and lost.startswith("RemoteProtocolError")
    assert unchanged == hub.repository(NAME).revisions[0] and len(hub.repository(NAME).revisions) == 2
    assert "412" in stale and "other.csv" not in hub.repository(NAME).files
    puts = hub.asked("PUT /storage/")
    assert [row.received for row in puts if row.status == 200] == [(folder / shard).stat().st_size for shard in SHARDS]
    assert [row.status for row in puts].count(0) == 1 and [row.status for row in hub.asked("/preupload/")][:2] == [
        503,
        200,
    ]


def test_large_files_go_up_in_parts_where_the_server_says_so(hub, folder, tmp_path):
    hub.part_bytes = 50_000
    publish(hub, tmp_path, folder, visible=False)
    assert all(hub.repository(NAME).files[shard] == (folder / shard).read_bytes() for shard in SHARDS)
    assert max(row.received for row in hub.asked("PUT /storage/")) == 50_000
    assert len(hub.asked("POST /storage/")) == len(SHARDS)


def test_upload_folder_and_push_to_hub(hub, folder, tmp_path):
    program = """
import datasets
api.create_repo(NAME, private=True, repo_type="dataset")
api.upload_folder(**HERE, folder_path=FOLDER, delete_patterns="*.csv")
datasets.Dataset.from_dict({"text": ["one", "two"]}).push_to_hub(NAME, "reports")
again = datasets.load_dataset(NAME, "reports", split="train", download_mode="force_redownload")
print(json.dumps(again["text"][:]))
"""
    assert run(hub, tmp_path / "home", OWNER, folder, program) == ["one", "two"]
    assert {*SHARDS, "reports/train-00000-of-00001.parquet"} < set(hub.repository(NAME).files)


# ---- downloads


def test_a_download_that_was_cut_is_completed(hub, folder, tmp_path):
    """hf_hub_download keeps whole pieces of 10 MiB, and asks for what follows them."""
    publish(hub, tmp_path, folder)
    repository, weights = hub.repository(NAME), np.random.default_rng(1).bytes(11 * 2**20)
    large = File(weights, large=True)
    repository.large_files[large.sha256] = weights
    repository.commit("refs/heads/main", repository.at("main").files | {"a.safetensors": large}, "weights", "owner")
    hub.fault("GET /storage/", cut_download(10 * 2**20 + 5))
    hub.fault("GET /storage/", cut_download(30_000), skip=2)
    hub.fault("GET /storage/", cut_download(30_000), skip=4)
    program = f"""
import hashlib, pandas
files = [Path(hf_hub_download(filename=name, **HERE)).read_bytes() for name in ("a.safetensors", "{SHARDS[0]}")]
frame = pandas.read_parquet("hf://datasets/lab/rdface/{SHARDS[1]}")
print(json.dumps([*(hashlib.sha256(file).hexdigest() for file in files), frame["image_id"].tolist()]))
"""
    *digests, image_ids = run(hub, tmp_path / "home", MEMBER, folder, program)
    assert digests == [large.sha256, hashlib.sha256((folder / SHARDS[0]).read_bytes()).hexdigest()]
    assert image_ids == [f"P1.{i}" for i in range(4)]
    (_, first), (asked, rest), (_, again), (_, whole), (_, short), *_ = (
        (row.headers["Range"], row.served) for row in hub.asked("GET /storage/")
    )
    assert asked == f"bytes={10 * 2**20}-" and rest == 2**20 and first == 10 * 2**20 + 5
    assert (again, whole, short) == (30_000, (folder / SHARDS[0]).stat().st_size, 30_000)


# ---- settings, access, history


def test_requests_for_access_are_listed_and_decided_with_the_codes_of_the_hub(hub, folder, tmp_path):
    publish(hub, tmp_path, folder)
    hub.ask_access(NAME, GUEST, Institution="Clinic", Purpose="teaching")
    program = """
def listed(status):
    requests = getattr(api, f"list_{status}_access_requests")(**HERE)
    return [[r.username, r.fullname, r.email, r.fields, r.status, bool(r.timestamp)] for r in requests]
pending = list(api.list_pending_access_requests(**HERE))
found = {"pending": listed("pending")}
api.accept_access_request(**HERE, request_id=pending[0].request_id)
found["twice"] = outcome(api.accept_access_request, **HERE, user="guest")
found["nobody"] = outcome(api.reject_access_request, **HERE, user="nobody", rejection_reason="no")
api.grant_access(**HERE, user="other")
found["granted"] = outcome(api.grant_access, **HERE, user="other")
found["unknown"] = outcome(api.grant_access, **HERE, user="nobody")
found["accepted"] = listed("accepted")
api.cancel_access_request(**HERE, user="guest")
api.reject_access_request(**HERE, user="other", rejection_reason="not a clinic")
found["after"] = [listed("pending"), listed("accepted"), listed("rejected")]
api.update_repo_settings(**HERE, gated=False, private=True)
found["ungated"] = outcome(api.accept_access_request, **HERE, user="guest")
print(json.dumps(found))
"""
    found = run(hub, tmp_path / "home", OWNER, folder, program)
    guest = ["guest", "Guest", "guest@x.test", {"Institution": "Clinic", "Purpose": "teaching"}]
    other = ["other", "Other", None, None]
    assert found["pending"] == [[*guest, "pending", True]]
    assert found["accepted"] == [[*guest, "accepted", True], [*other, "accepted", True]]
    assert found["after"] == [[[*guest, "pending", True]], [], [[*other, "rejected", True]]]
    codes = {"twice": 404, "nobody": 404, "granted": 400, "unknown": 404, "ungated": 400}
    assert all(f" {code} " in found[step] for step, code in codes.items()), found

    ask = "print(json.dumps(outcome(lambda: list(api.list_pending_access_requests(**HERE)))))"
    hub.repository(NAME).set_private(False)
    assert " 403 " in run(hub, tmp_path / "guest", GUEST, folder, ask)
    assert " 403 " in run(hub, tmp_path / "reader", READER, folder, ask)
    with pytest.raises(urllib.error.HTTPError, match="401"):
        hub.ask_access(NAME, None)


def test_an_automatic_gate_opens_to_whoever_asks(hub):
    repository = hub.create("owner/open", private=False)
    with pytest.raises(urllib.error.HTTPError, match="400"):
        hub.ask_access("owner/open", GUEST)
    repository.set_gated("auto")
    hub.ask_access("owner/open", GUEST)
    assert repository.requests["guest"].status == "accepted"


def test_only_members_with_a_token_that_writes_may_change_anything(hub, folder, tmp_path):
    publish(hub, tmp_path, folder)
    program = """
steps = {
    "create": lambda: api.create_repo("lab/another", repo_type="dataset"),
    "exists": lambda: api.create_repo(NAME, repo_type="dataset"),
    "settings": lambda: api.update_repo_settings(**HERE, gated=False),
    "commit": lambda: api.create_commit(**HERE, operations=additions("withdrawn.csv"), commit_message="x"),
    "squash": lambda: api.super_squash_history(**HERE),
    "write": lambda: api.auth_check(**HERE, write=True),
    "read": lambda: api.auth_check(**HERE),
    "delete": lambda: api.delete_repo(**HERE),
}
print(json.dumps({name: outcome(step) for name, step in steps.items()}))
"""
    for user, token, status in (("nobody", None, 401), ("guest", GUEST, 403), ("reader", READER, 403)):
        found = run(hub, tmp_path / user, token, folder, program)
        changing = {name: told for name, told in found.items() if name != "read"}
        assert all(f" {status} " in str(told) for told in changing.values()), (user, found)
        assert (found["read"] is None) == (user == "reader")  # a token that only reads is the owner's all the same
    assert set(hub.repositories) == {("dataset", NAME)} and hub.repository(NAME).gated == "manual"

    member = run(hub, tmp_path / "member", MEMBER, folder, program)
    assert " 409 " in member.pop("exists") and all(told is None or "http" in str(told) for told in member.values())
    assert set(hub.repositories) == {("dataset", "lab/another")}
    wrong = run(hub, tmp_path / "wrong", "hf_wrong", folder, "print(json.dumps(outcome(api.whoami)))")
    assert wrong.startswith("HfHubHTTPError 401 Invalid user token")


def test_squashing_forgets_old_commits_except_where_a_tag_or_a_pull_request_keeps_them(hub, folder, tmp_path):
    publish(hub, tmp_path, folder)
    program = f"""
first = api.dataset_info(NAME).sha
def read(revision, path="{SHARDS[0]}"):
    return Path(hf_hub_download(filename=path, revision=revision, force_download=True, **HERE)).stat().st_size
api.create_tag(**HERE, tag="v1")
api.create_branch(**HERE, branch="draft", revision=first)
pull = api.create_commit(
    **HERE, operations=[CommitOperationAdd("note.txt", b"note")], commit_message="note", create_pr=True)
delete = [CommitOperationDelete("{SHARDS[0]}"), CommitOperationDelete("nothing/")]
found = {{"absent": outcome(api.create_commit, **HERE, operations=delete, commit_message="withdraw")}}
api.create_commit(**HERE, operations=delete[:1], commit_message="withdraw")
titles = [commit.title for commit in api.list_repo_commits(**HERE)]
found["old"] = read(first)
api.super_squash_history(**HERE)
refs = api.list_repo_refs(**HERE, include_pull_requests=True)
found["refs"] = [[ref.ref for ref in group] for group in (refs.branches, refs.tags, refs.pull_requests)]
found["kept"] = [read(first), read("v1"), read("refs/pr/1")]
api.delete_branch(**HERE, branch="draft")
api.delete_tag(**HERE, tag="v1")
found["pull"] = [outcome(api.delete_branch, **HERE, branch="refs/pr/1"), pull.pr_revision]
found["titles"] = [titles, [commit.title for commit in api.list_repo_commits(**HERE)]]
found["large"] = sorted(file.filename for file in api.list_lfs_files(**HERE))
print(json.dumps(found | {{"first": first}}))
"""
    found, size = run(hub, tmp_path / "home", OWNER, folder, program), (folder / SHARDS[0]).stat().st_size
    assert found["absent"].startswith("RemoteEntryNotFoundError 404")
    assert found["old"] == size and found["kept"] == [size, size, size]
    assert found["refs"] == [["refs/heads/main", "refs/heads/draft"], ["refs/tags/v1"], ["refs/pr/1"]]
    assert found["pull"][0].startswith("HfHubHTTPError 403") and found["pull"][1] == "refs/pr/1"
    assert found["titles"][0] == ["withdraw", "publish", "initial commit"] and len(found["titles"][1]) == 1
    assert found["large"] == SHARDS

    hub.repository(NAME).delete_pull_request(1)
    program = f"""
def read(path, **how):
    return outcome(hf_hub_download, filename=path, **HERE, **how)
found = [read("{SHARDS[0]}", revision="{found["first"]}"), read("{SHARDS[0]}")]
large = [file for file in api.list_lfs_files(**HERE) if file.filename == "{SHARDS[0]}"]
api.permanently_delete_lfs_files(**HERE, lfs_files=large)
print(json.dumps([*found, read("{SHARDS[1]}")]))
"""
    gone, never, still = run(hub, tmp_path / "later", OWNER, folder, program)
    assert gone.startswith("RevisionNotFoundError 404") and never.startswith("RemoteEntryNotFoundError 404")
    assert still.endswith(SHARDS[1])
    assert list(hub.repository(NAME).large_files.values()) == [(folder / SHARDS[1]).read_bytes()]


def test_deleting_a_large_file_takes_it_out_of_history(hub, folder, tmp_path):
    publish(hub, tmp_path, folder)
    before = hub.repository(NAME).revisions
    program = "api.permanently_delete_lfs_files(**HERE, lfs_files=list(api.list_lfs_files(**HERE)))\nprint('{}')"
    run(hub, tmp_path / "home", OWNER, folder, program)
    repository = hub.repository(NAME)
    assert not repository.large_files and not repository.holds_images
    assert set(repository.files) == {".gitattributes", "README.md", "withdrawn.csv"}
    assert repository.revisions[0] != before[0] and repository.revisions[1:] == before[1:]


def test_long_listings_come_in_pages(hub, folder, tmp_path):
    hub.page_size = 2
    publish(hub, tmp_path, folder)
    for user in ("guest", "other", "somebody"):
        hub.repository(NAME).set_access(user, "pending")
    program = """
found = {str(how): sorted(e.path for e in api.list_repo_tree(**HERE, **how)) for how in ({}, {"recursive": True})}
found["sizes"] = {e.path: e.size for e in api.list_repo_tree(NAME, "real", expand=True, repo_type="dataset")}
found["paths"] = [e.path for e in api.get_paths_info(**HERE, paths=["real", "README.md", "nothing"])]
found["absent"] = outcome(lambda: list(api.list_repo_tree(NAME, "nothing", repo_type="dataset")))
found["revision"] = outcome(lambda: api.dataset_info(NAME, revision="v9"))
found["pending"] = [request.username for request in api.list_pending_access_requests(**HERE)]
found["siblings"] = {s.rfilename: s.size for s in api.dataset_info(NAME, files_metadata=True).siblings}
print(json.dumps(found))
"""
    found = run(hub, tmp_path / "home", OWNER, folder, program)
    top = [".gitattributes", "README.md", "real", "withdrawn.csv"]
    assert found["{}"] == top and found["{'recursive': True}"] == sorted([*top, *SHARDS])
    assert found["sizes"] == {shard: (folder / shard).stat().st_size for shard in SHARDS}
    assert found["paths"] == ["real", "README.md"] and found["pending"] == ["guest", "other", "somebody"]
    assert found["absent"].startswith("RemoteEntryNotFoundError") and found["revision"].startswith("RevisionNotFound")
    assert found["siblings"]["README.md"] == len(CARD) and set(SHARDS) < set(found["siblings"])


def test_a_request_to_elsewhere_is_caught(hub, folder, tmp_path):
    """Polars' own hf:// does not look at HF_ENDPOINT."""
    program = f'import polars\nprint(json.dumps(outcome(polars.read_parquet, "hf://datasets/lab/rdface/{SHARDS[0]}")))'
    assert "error sending request for url (https://huggingface.co/" in run(hub, tmp_path, OWNER, folder, program)
    assert {row.target for row in hub.ledger} == {"huggingface.co:443"}


def test_an_environment_inherits_nothing_of_the_hub(hub, tmp_path, monkeypatch):
    for name in ("HF_TOKEN", "HF_HUB_OFFLINE", "HUGGING_FACE_HUB_TOKEN", "https_proxy"):
        monkeypatch.setenv(name, "inherited")
    assert "inherited" not in hub.environment(tmp_path).values()
    assert "HF_TOKEN" not in hub.environment(tmp_path) and hub.environment(tmp_path, GUEST)["HF_TOKEN"] == GUEST


# ---- cards


def test_a_card_as_it_should_be_has_no_problems():
    assert card_problems(CARD) == ([], [])
    assert card_problems("# A card without metadata") == ([], ["empty or missing yaml metadata in repo card"])


@pytest.mark.parametrize(
    ("metadata", "problem"),
    [
        ("license: [a", "YAML: while parsing"),
        ("- license", "the metadata must be an object"),
        ("license: NO", '"license" must be a string or an array of strings'),
        ("pretty_name: 3", '"pretty_name" must be a string'),
        ("extra_gated_prompt: [1]", '"extra_gated_prompt" must be a string'),
        ("tags: [ON]", '"tags" must be'),
        ("configs: {real: x}", '"configs" must be an array of objects'),
        ("configs: [{data_files: x}]", '"configs[0].config_name" must be a string'),
        ("configs: [{config_name: a, data_files: [{split: fold-0, path: x}]}]", "fold-0 is no name of a split"),
        ("configs: [{config_name: a, data_files: [{split: train}]}]", "must name paths"),
        ("configs: [{config_name: a}, {config_name: a}]", "names one configuration twice"),
        ("configs: [{config_name: a, default: true}, {config_name: b, default: true}]", "has two defaults"),
        ("extra_gated_fields: {1: [text]}", '"extra_gated_fields.1" must be one of checkbox'),
        ("extra_gated_fields: [text]", '"extra_gated_fields" must be an object'),
        ("extra_gated_fields: {Name: string}", '"extra_gated_fields.Name" must be one of checkbox, country'),
        ("extra_gated_fields: {Role: select}", '"extra_gated_fields.Role" needs options'),
    ],
)
def test_mistakes_in_a_cards_metadata_are_named(metadata, problem):
    (error,), warnings = card_problems(f"---\n{metadata}\n---\n# Card\n")
    assert problem in error and not warnings


def test_a_card_with_mistakes_is_refused_before_and_with_the_commit(hub, folder, tmp_path):
    program = r"""
api.create_repo(NAME, private=True, repo_type="dataset")
wrong = [CommitOperationAdd("README.md", b"---\npretty_name: 3\n---\n")]
found = [outcome(api.create_commit, **HERE, operations=wrong, commit_message="card")]
api._validate_yaml = lambda *_, **__: None
print(json.dumps([*found, outcome(api.create_commit, **HERE, operations=wrong, commit_message="card")]))
"""
    before, at = run(hub, tmp_path, OWNER, folder, program)
    assert before.startswith('ValueError  Invalid metadata in README.md. - "pretty_name" must be a string')
    assert at.startswith("BadRequestError 400") and len(hub.repository(NAME).revisions) == 1
