"""A Hub on this machine: as much of it as huggingface_hub and datasets call, a ledger of every byte, and faults.

with serving({"hf_owner": "owner", "hf_guest": "guest"}, {"lab": {"owner"}}) as hub:
    subprocess.run(command, env=hub.environment(tmp_path / "home", "hf_owner"))
    hub.ask_access("lab/rdface", "hf_guest", Institution="Clinic")
    assert not hub.leaks() and not hub.repository("lab/rdface").was_exposed

Large files travel as on the Hub: resolve redirects to a signed address on another host (here `localhost` instead of
`127.0.0.1`), to which clients send no token. On a gated repository everybody sees file names, sizes, README.md and
LICENSE; a figure of the card lies behind the gate like any other file.
"""

import contextlib
import http.server
import json
import os
import re
import secrets
import sys
import threading
import time
import traceback
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Callable, Collection, Iterator, Mapping
from pathlib import Path

from loopback_faults import (
    Answer,
    ConnectionCut,
    Exchange,
    Fault,
    Refusal,
    answer,
    cut_download,
    cut_upload,
    forget_gate_when_visible,
    ignore_gated,
    kill,
    lose_answer,
    say,
    serve_anybody,
)
from loopback_repositories import Event, Repository, histories
from loopback_routes import ROUTES
from loopback_uploads import Signed

__all__ = [
    "Hub",
    "answer",
    "cut_download",
    "cut_upload",
    "forget_gate_when_visible",
    "ignore_gated",
    "lose_answer",
    "say",
    "serve_anybody",
    "serving",
]
ROOT = Path(__file__).resolve().parents[1]
OPEN_FILES = re.compile(r"README\.md|LICENSE(\.\w+)?")  # readable by everybody on a gated repository


class Hub:
    """accounts: token -> user; organisations: name -> users who may write; read_only: tokens that may not write."""

    def __init__(
        self,
        accounts: Mapping[str, str],
        organisations: Mapping[str, Collection[str]] | None = None,
        read_only: Collection[str] = (),
    ):
        self.accounts, self.organisations, self.read_only = dict(accounts), dict(organisations or {}), set(read_only)
        self.repositories: dict[tuple[str, str], Repository] = {}
        self.ledger: list[Exchange] = []
        self.events: list[Event] = []
        self.faults: list[Fault] = []
        self.errors: list[str] = []  # tracebacks: mistakes of this file
        self.signed: dict[str, Signed] = {}
        self.parts: dict[tuple[str, int], bytes] = {}
        self.page_size = 1000
        self.part_bytes: int | None = None  # larger files are uploaded in parts of so many bytes
        self.signature_seconds = 3600.0
        self.lock = threading.RLock()
        self.n_requests = 0
        self.kills: dict[int, int] = {}  # number of a request -> process that ends after it
        self.last_kill = 0.0  # time.monotonic
        self.server = Server(("127.0.0.1", 0), Handler)
        self.server.hub = self
        self.url = f"http://127.0.0.1:{self.server.server_port}"
        self.storage_url = f"http://localhost:{self.server.server_port}"

    # What tests set up and ask.

    def environment(self, home: Path, token: str | None = None, implicit_token: bool = True) -> dict[str, str]:
        """Of a process that is a user of this Hub, with caches of its own in `home`.

        The token is in HF_TOKEN, as after `hf auth login`; implicit_token=False: it is sent only where a call names it.
        Requests to other hosts arrive here too, as to a proxy: those to the dataset viewer, which is
        `datasets-server.` before this Hub's host, and any that should not have been made."""
        ours = ("HF_", "HUGGING", "HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "NO_PROXY")
        environment = {key: value for key, value in os.environ.items() if not key.upper().startswith(ours)}
        environment |= {"HF_ENDPOINT": self.url, "HF_HOME": str(home), "PYTHONPATH": str(ROOT)}
        environment |= {"HF_HUB_DISABLE_XET": "1", "HF_HUB_DISABLE_TELEMETRY": "1", "HF_UPDATE_DOWNLOAD_COUNTS": "0"}
        environment |= {"HTTP_PROXY": self.url, "HTTPS_PROXY": self.url, "NO_PROXY": "127.0.0.1,localhost"}
        environment["SSL_CERT_DIR"] = str(
            home
        )  # no certificates: all is http here, and reading the system's takes 0.2 s
        environment |= {"HF_TOKEN": token} if token else {}
        return environment | ({} if implicit_token else {"HF_HUB_DISABLE_IMPLICIT_TOKEN": "1"})

    def repository(self, name: str, kind: str = "dataset") -> Repository | None:
        """None where there is none (yet)."""
        return self.repositories.get((kind, name))

    def create(self, name: str, kind: str = "dataset", private: bool = True, author: str = "") -> Repository:
        self.repositories[kind, name] = Repository(kind, name, private, author, self.events)
        return self.repositories[kind, name]

    def fault(self, pattern: str, act: Callable[[Exchange], None], skip: int = 0, times: int | None = 1) -> None:
        self.faults.append(Fault(pattern, act, skip, times))

    def kill_after(self, n: int, pid: int) -> None:
        """SIGKILL the process once the n-th request from now has been answered; whatever it had sent on is dropped."""
        with self.lock:
            self.kills[self.n_requests + n] = pid

    def ask_access(self, name: str, token: str | None, kind: str = "dataset", **answers: str) -> int:
        """Ask for access as a user does in the browser, for which the client has no method; returns the status."""
        prefix = "/datasets" if kind == "dataset" else ""
        address = f"{self.url}{prefix}/{name}/ask-access"
        headers = {"Authorization": f"Bearer {token}"} if token else {}
        asked = urllib.request.Request(address, urllib.parse.urlencode(answers).encode(), headers)
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}), Stay())
        with contextlib.closing(opener.open(asked)) as response:
            return response.status

    def asked(self, pattern: str) -> list[Exchange]:
        """The requests whose "METHOD path?query" the pattern is found in, in the order in which they came."""
        return [row for row in self.ledger if re.search(pattern, f"{row.method} {row.target}")]

    def bytes_served_to(self, user: str | None, files: str = r"\.parquet$") -> int:
        """Of the content of files whose path the pattern is found in; None: to those without a token."""
        return sum(row.served for row in self.ledger if row.user == user and row.file and re.search(files, row.file))

    def leaks(self) -> list[Exchange]:
        """Requests through which somebody got content that was not for him at that moment.

        Found from what happened to the repository until then, not from the rules by which requests are answered."""
        found = []
        for row in self.ledger:
            if not row.file or not row.served or OPEN_FILES.fullmatch(row.file):
                continue
            *_, state = histories(self.events[: row.n_events])[row.repository]
            writers = self.organisations.get(row.repository[1].partition("/")[0], ())
            owns = row.user in writers or row.user == row.repository[1].partition("/")[0]
            invited = not state["gated"] or (row.user is not None and state["access"].get(row.user) == "accepted")
            if not owns and (state["private"] or not invited):
                found.append(row)
        return found

    # Who may do what.

    def may_write(self, user: str | None, name: str) -> bool:
        owner = name.partition("/")[0]
        return user is not None and (user == owner or user in self.organisations.get(owner, ()))

    def require(self, exchange: Exchange, repository: Repository, level: str, path: str | None = None) -> None:
        """level: information, files (of which README.md and LICENSE are for everybody) or write."""
        user, name = exchange.user, repository.name
        if self.may_write(user, name):
            if level == "write" and exchange.headers.get("Authorization", "")[7:] in self.read_only:
                raise Refusal(403, "You need a token with write access")
            return
        if repository.private and not exchange.open_doors:
            raise Refusal(404 if user else 401, "Repository not found", "RepoNotFound")
        if level == "write":
            raise Refusal(403 if user else 401, f"You may not write to {name}")
        if level == "files" and repository.gated and not (path and OPEN_FILES.fullmatch(path)):
            self.pass_gate(exchange, repository)

    def pass_gate(self, exchange: Exchange, repository: Repository) -> None:
        user, where = exchange.user, f"{repository.kind} {repository.name}"
        request = repository.requests.get(user)
        if exchange.open_doors or (request and request.status == "accepted"):
            return
        if user is None:
            raise Refusal(401, f"Access to {where} is restricted. You must be authenticated to access it.", "GatedRepo")
        reasons = {"pending": "Your request is awaiting a review.", "rejected": "Your request has been rejected."}
        reason = reasons[request.status] if request else "Visit its page to ask for access."
        raise Refusal(
            403, f"Access to {where} is restricted and you are not in the authorized list. {reason}", "GatedRepo"
        )

    def identify(self, exchange: Exchange) -> None:
        token = exchange.headers.get("Authorization", "").removeprefix("Bearer ")
        if token and token not in self.accounts:
            raise Refusal(401, "Invalid credentials in Authorization header")
        exchange.user = self.accounts.get(token)

    # How a request is answered.

    def respond(self, exchange: Exchange) -> Answer:
        try:
            self.identify(exchange)
            with self.lock:
                faults = [fault for fault in self.faults if fault.meets(exchange)]
            for fault in faults:
                fault.act(exchange)
            _ = exchange.body  # read before the lock is taken: an upload may be slow
            with self.lock:
                result = self.handle(exchange)
                exchange.n_events = len(self.events)
        except Refusal as refusal:
            _ = exchange.body  # what is left unread would be taken for the next request
            result = Answer(refusal.content, refusal.status, refusal.headers)
        return result if isinstance(result, Answer) else Answer(result)

    def handle(self, exchange: Exchange) -> object:
        target = urllib.parse.urlsplit(exchange.target)
        if exchange.method == "CONNECT" or (target.hostname and target.hostname not in ("127.0.0.1", "localhost")):
            raise Refusal(404, "the dataset viewer and the rest of the world are not here")
        for method, pattern, level, handler in ROUTES:
            found = pattern.fullmatch(exchange.path)
            if not found or method != exchange.method.replace("HEAD", "GET"):
                continue
            parts = {key: urllib.parse.unquote(value) for key, value in found.groupdict().items() if value}
            if "name" in parts:
                parts["repository"] = self.find(exchange, parts.pop("kind", "model"), parts.pop("name"))
                self.require(exchange, parts["repository"], level, parts.get("path"))
            return handler(self, exchange, **parts)
        raise Refusal(404, f"this Hub knows no {exchange.method} {exchange.path}")

    def find(self, exchange: Exchange, kind: str, name: str) -> Repository:
        exchange.repository = (kind, name)
        if (kind, name) not in self.repositories:
            raise Refusal(404 if exchange.user else 401, "Repository not found", "RepoNotFound")
        return self.repositories[kind, name]

    def sign(self, **allowed: object) -> str:
        """An address at the storage, good for everybody who has it."""
        key = secrets.token_hex(16)
        self.signed[key] = Signed(until=time.monotonic() + self.signature_seconds, **allowed)
        return f"{self.storage_url}/storage/{key}"

    def page(self, exchange: Exchange, items: list, size: int | None = None) -> Answer:
        """A page of the items, with the address of the next."""
        start, size = int(exchange.query.get("cursor", ["0"])[0]), size or self.page_size
        headers = {}
        if start + size < len(items):
            query = {key: value for key, value in exchange.query.items() if key != "cursor"}
            query = urllib.parse.urlencode(query | {"cursor": start + size}, doseq=True)
            headers["Link"] = f'<{self.url}{exchange.path}?{query}>; rel="next"'
        return Answer(items[start : start + size], headers=headers)


class Server(http.server.ThreadingHTTPServer):
    daemon_threads = True

    def handle_error(self, *_: object) -> None:
        """Called for an exception outside of a reply; a client that hangs up is no mistake of this file."""
        if not isinstance(sys.exception(), ConnectionError):
            self.hub.errors.append(traceback.format_exc())


class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True  # else each answer waits 40 ms for an acknowledgement

    def setup(self) -> None:
        super().setup()
        self.began = time.monotonic()

    def exchange(self) -> None:
        hub = self.server.hub
        with hub.lock:
            if self.began < hub.last_kill:  # sent by a process that is dead now
                self.close_connection = True
                return
            hub.n_requests += 1
            row = Exchange(hub.n_requests, self.command, self.path, self.headers, self.read_body)
            hub.ledger.append(row)
        # The lock is held until a process that is to die is dead, lest its next request be taken meanwhile.
        with hub.lock if row.number in hub.kills else contextlib.nullcontext():
            self.reply(row)
            for end in (row.then, kill(hub.kills.get(row.number))):
                if end:
                    end()
                    hub.last_kill, self.close_connection = time.monotonic(), True

    do_GET = do_HEAD = do_POST = do_PUT = do_DELETE = do_CONNECT = exchange

    def reply(self, row: Exchange) -> None:
        hub = self.server.hub
        try:
            self.send(row, hub.respond(row))
        except (ConnectionCut, ConnectionError):
            self.close_connection = True
        except Exception:
            hub.errors.append(f"{row}\n{traceback.format_exc()}")
            self.send(row, Answer({"error": "the loopback Hub is broken"}, 500))

    def read_body(self, limit: int | None) -> bytes:
        """The body, or its first `limit` bytes; raises ConnectionCut where the client ended it early."""
        content = b""
        if self.headers.get("Transfer-Encoding") != "chunked":
            size = int(self.headers.get("Content-Length", 0))
            content = self.rfile.read(size if limit is None else min(limit, size))
            if limit is None and len(content) < size:
                raise ConnectionCut
            return content
        while True:
            line = self.rfile.readline()
            size = int(line, 16) if line.strip() else None
            piece = self.rfile.read(size or 0)
            if size is None or len(piece) < size or not self.rfile.readline():
                raise ConnectionCut
            content += piece
            if size == 0 or (limit is not None and len(content) >= limit):
                return content[:limit]

    def send(self, row: Exchange, result: Answer) -> None:
        if row.download_limit == -1:
            raise ConnectionCut
        body = result.content if isinstance(result.content, bytes) else json.dumps(result.content, default=str).encode()
        row.status, row.file = result.status, result.file
        self.send_response(result.status)
        kind = "application/octet-stream" if isinstance(result.content, bytes) else "application/json"
        for name, value in ({"Content-Type": kind, "Content-Length": str(len(body))} | result.headers).items():
            self.send_header(name, value)
        self.end_headers()
        if row.method != "HEAD":
            body = body[: row.download_limit]
            row.served = len(body)  # before the client has it all, and the test asks
            self.wfile.write(body)
        if row.download_limit is not None:
            raise ConnectionCut

    def log_message(self, *_: object) -> None:
        pass


class Stay(urllib.request.HTTPRedirectHandler):
    """Does not follow a redirect."""

    def http_error_303(self, request: object, response: object, *_: object) -> object:
        return response


@contextlib.contextmanager
def serving(
    accounts: Mapping[str, str],
    organisations: Mapping[str, Collection[str]] | None = None,
    read_only: Collection[str] = (),
) -> Iterator[Hub]:
    hub = Hub(accounts, organisations, read_only)
    thread = threading.Thread(target=hub.server.serve_forever, args=(0.05,), daemon=True)
    thread.start()
    try:
        yield hub
    finally:
        hub.server.shutdown()
        hub.server.server_close()
        thread.join()
    assert not hub.errors, hub.errors[0]
