"""hub_models.py: what reaches a Hub, here a server on this machine, and what it says where it may not upload."""

import contextlib
import http.server
import json
import os
import re
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

import hub_models
import runs

ROOT = Path(__file__).resolve().parents[1]
TOKEN = "hf_" + "secret" * 5
PUBLISHED = {"README.md", "results.json", "per_class.csv", "corruptions.json"}
PUBLISHED |= {f"folds/seed0_fold{n}/model/{name}" for n in (0, 1) for name in ("config.json", "model.safetensors")}
KEPT_HERE = ("predictions.parquet", "heat_maps.png", "run.json", "settings.json", "learning_curves.csv")
KEPT_HERE += ("folds/seed0_fold0/predictions.parquet", "folds/seed0_fold0/checkpoint.pt", "corrupted/blur_1.parquet")


class Hub(http.server.ThreadingHTTPServer):
    """As much of the Hub as an upload of models needs; keeps every request. private: what it says of repositories."""

    def __init__(self, private: bool = True, refuse_upload: bool = False):
        super().__init__(("127.0.0.1", 0), Request)
        self.private, self.refuse_upload = private, refuse_upload
        self.requests: list[tuple[str, str, bytes]] = []
        self.url = f"http://127.0.0.1:{self.server_port}"

    def asked(self, what: str) -> list[bytes]:
        """The bodies of the requests whose method and path contain `what`."""
        return [body for method, path, body in self.requests if what in f"{method} {path}"]


class Request(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def answer(self, content: object = None, status: int = 200) -> None:
        body = json.dumps({} if content is None else content).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(b"" if self.command == "HEAD" else body)

    def body(self) -> bytes:
        if self.headers.get("Transfer-Encoding") == "chunked":
            parts = []
            while size := int(self.rfile.readline(), 16):
                parts.append(self.rfile.read(size))
                self.rfile.readline()
            self.rfile.readline()
            return b"".join(parts)
        return self.rfile.read(int(self.headers.get("Content-Length", 0)))

    def handle_any(self) -> None:
        hub, path, body = self.server, self.path.partition("?")[0], self.body()
        hub.requests.append((self.command, self.path, body))
        if self.headers.get("Authorization") != f"Bearer {TOKEN}" and path.startswith("/api"):
            self.answer({"error": "Invalid username or password."}, 401)
        elif path == "/api/whoami-v2":
            self.answer({"type": "user", "name": "somebody", "orgs": []})
        elif path == "/api/repos/create":
            wanted = json.loads(body)
            name = f"{wanted.get('organization') or 'somebody'}/{wanted['name']}"
            self.answer({"url": f"{hub.url}/{name}", "id": name})
        elif "/preupload/" in path and hub.refuse_upload:
            self.answer({"error": "no write access"}, 403)
        elif "/preupload/" in path:
            files = json.loads(body)["files"]
            mode = {True: "lfs", False: "regular"}
            answers = [{"path": f["path"], "uploadMode": mode[f["path"].endswith("safetensors")]} for f in files]
            self.answer({"files": [answer | {"shouldIgnore": False} for answer in answers]})
        elif path.endswith("/info/lfs/objects/batch"):
            objects = [
                {"oid": o["oid"], "size": o["size"], "actions": {"upload": {"href": f"{hub.url}/lfs/{o['oid']}"}}}
                for o in json.loads(body)["objects"]
            ]
            self.answer({"transfer": "basic", "objects": objects})
        elif "/commit/" in path:
            self.answer({"success": True, "commitUrl": f"{hub.url}/lab/faces/commit/0", "commitOid": "0" * 40})
        elif path == "/api/validate-yaml":
            self.answer({"errors": [], "warnings": []})
        elif path.startswith("/api/models/"):
            information = {"id": "lab/faces", "private": hub.private, "sha": "0" * 40, "siblings": [], "tags": []}
            self.answer(information)
        else:
            self.answer()

    do_GET = do_HEAD = do_POST = do_PUT = handle_any

    def log_message(self, *_: object) -> None:
        pass


@contextlib.contextmanager
def serving(**settings: bool) -> Iterator[Hub]:
    server = Hub(**settings)
    thread = threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True)
    thread.start()
    yield server
    server.shutdown()
    server.server_close()
    thread.join()


def hub_environment(hub: Hub, home: Path) -> dict[str, str]:
    """For a process of its own, because huggingface_hub reads the address of the Hub once."""
    environment = {key: value for key, value in os.environ.items() if not key.startswith("HF_")}
    environment |= {"HF_ENDPOINT": hub.url, "HF_HOME": str(home), "HF_TOKEN": TOKEN, "PYTHONPATH": str(ROOT)}
    return environment | {"HF_HUB_DISABLE_XET": "1", "HF_HUB_DISABLE_TELEMETRY": "1", "NO_PROXY": "127.0.0.1"}


@pytest.fixture
def finished_run(tmp_path) -> Path:
    """The folder of a run, with all that must stay here."""
    for name in (*(PUBLISHED - {"README.md"}), *KEPT_HERE):
        file = tmp_path / "run" / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(f"content of {name}" + (", of P01.1" if name in KEPT_HERE else ""))
    return tmp_path / "run"


PROGRAM = """
import sys
import hub_models
from pathlib import Path
from runs import InputError
try:
    repo_id = hub_models.check_access(sys.argv[1], None)
    print("access:", repo_id)
    print("address:", hub_models.push(Path(sys.argv[2]), repo_id, None, "---\\nlicense: other\\n---\\n# A card\\n"))
except InputError as error:
    sys.exit(f"refused: {error}")
"""


def upload(hub: Hub, folder: Path, home: Path, name: str = "lab/faces") -> subprocess.CompletedProcess:
    """check_access and push."""
    command, environment = [sys.executable, "-c", PROGRAM, name, str(folder)], hub_environment(hub, home)
    run = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=100, check=False)
    assert TOKEN not in run.stdout + run.stderr
    return run


def committed(hub: Hub) -> set[str]:
    """Paths of the files that were uploaded."""
    lines = [json.loads(line) for body in hub.asked("/commit/") for line in body.splitlines()]
    return {line["value"]["path"] for line in lines if line["key"] in ("file", "lfsFile")}


def test_models_go_to_a_private_repository_and_nothing_of_the_images_with_them(finished_run, tmp_path):
    with serving() as hub:
        run = upload(hub, finished_run, tmp_path / "home")
    assert run.returncode == 0, run.stderr
    assert "access: lab/faces" in run.stdout and f"address: {hub.url}" in run.stdout
    (created,) = (json.loads(body) for body in hub.asked("POST /api/repos/create"))
    assert created.get("private") is True or created.get("visibility") == "private"
    assert committed(hub) == PUBLISHED
    sent = b"".join(body for *_, body in hub.requests)
    assert b"content of folds/seed0_fold1/model/model.safetensors" in sent
    assert b"P01.1" not in sent and TOKEN.encode() not in sent
    paths = [f"{method} {path}" for method, path, _ in hub.requests]
    looked = next(n for n, path in enumerate(paths) if path.startswith("GET /api/models/lab/faces"))
    assert looked < next(n for n, path in enumerate(paths) if "preupload" in path)
    assert (finished_run / "README.md").read_text().endswith("# A card\n")


def test_a_public_repository_gets_nothing(finished_run, tmp_path):
    with serving(private=False) as hub:
        run = upload(hub, finished_run, tmp_path / "home")
    assert run.returncode == 1
    assert run.stderr.splitlines()[-1].startswith("refused: lab/faces is public and models of faces go to private")
    assert not hub.asked("preupload") and not hub.asked("commit") and not hub.asked("PUT ")


def test_an_upload_that_fails_says_so_in_one_line_and_where_the_results_are(finished_run, tmp_path):
    with serving(refuse_upload=True) as hub:
        run = upload(hub, finished_run, tmp_path / "home", "faces")
    assert run.returncode == 1 and "access: somebody/faces" in run.stdout
    line = run.stderr.splitlines()[-1]
    assert line.startswith("refused: somebody/faces: not uploaded (")
    assert line.endswith(f"results are in {finished_run}") and not hub.asked("commit")


# ---- access


def test_without_a_token_the_remedy_is_named(monkeypatch):
    monkeypatch.delenv("HF_TOKEN", raising=False)
    with pytest.raises(runs.InputError) as error:
        hub_models.check_access("lab/faces", None)
    assert str(error.value) == "--push_to_hub: there is no token; run hf auth login, or set HF_TOKEN"


def test_where_the_hub_cannot_be_reached_the_token_is_not_shown():
    with pytest.raises(
        runs.InputError, match=r"cannot be reached .*; run hf auth login, or leave the flag out"
    ) as error:
        hub_models.check_access("lab/faces", TOKEN)  # tests are offline
    assert TOKEN not in str(error.value) and "\n" not in str(error.value)


@pytest.mark.parametrize("name", ["lab/faces/more", "no blanks", "-", "a..b"])
def test_a_name_that_cannot_be_one_is_refused(name):
    with pytest.raises(runs.InputError, match=re.escape(f"--hub_model_id {name}: ")) as error:
        hub_models.check_access(name, TOKEN)
    assert "\n" not in str(error.value)


# ---- card


def test_the_card_tells_scores_limits_and_that_faces_were_simulated():
    table = "top1   42.00   sd 1.00"
    facts = ["456 images, 103 conditions", "recipe finetune"]
    card = hub_models.model_card("A classifier", "densenet169", facts, table, simulated=True)
    assert all(part in card for part in (table, *facts, "densenet169", "# A classifier", "SIMULATED"))
    assert "must not be used to diagnose" in card and "simulated" in hub_models.ModelCard(card).data.tags
    real = hub_models.model_card("A classifier", "densenet169", facts, table, simulated=False)
    assert "simulated" not in real.lower()
    assert hub_models.ModelCard(real).data.license == "other"
