"""Requests to the loopback Hub, its answers, and what a test can make go wrong with them.

hub.fault("PUT /storage/", cut_upload(100_000))             # the connection ends in the first upload of a large file
hub.fault("PUT .*/settings", ignore_gated, times=None)      # always
hub.fault("POST .*/commit/", answer(503), skip=1, times=2)  # the second and the third time
"""

import contextlib
import json
import os
import re
import signal
import urllib.parse
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cached_property


class Refusal(Exception):
    """An answer that is an error: its code selects the exception that the client raises."""

    def __init__(self, status: int, message: str, code: str | None = None, **headers: str):
        super().__init__(message)
        in_header = message.encode("ascii", "replace").decode()
        self.status, self.content, self.headers = status, {"error": message}, {"X-Error-Message": in_header, **headers}
        if code:
            self.headers["X-Error-Code"] = code


class ConnectionCut(Exception):
    """The connection ends here."""


@dataclass
class Answer:
    """content: bytes as they are, anything else as JSON; file: the path of the file whose content this is."""

    content: object = b""
    status: int = 200
    headers: dict[str, str] = field(default_factory=dict)
    file: str | None = None


@dataclass(repr=False)
class Exchange:
    """A request and what became of it: a row of the ledger. user: of the token or the signed address; None: nobody."""

    number: int
    method: str
    target: str  # path and query as sent
    headers: Mapping[str, str]
    read: Callable[[int | None], bytes]
    user: str | None = None
    repository: tuple[str, str] | None = None
    status: int = 0
    received: int = 0  # bytes of the body
    served: int = 0
    file: str | None = None  # whose content was served
    n_events: int = 0  # of those known when it was answered
    open_doors: bool = False  # faults: the gate is not looked at
    upload_limit: int | None = None  # the connection is cut after so many bytes of the request's body
    download_limit: int | None = None  # or of the answer's; -1: no answer at all
    then: Callable[[], None] | None = None  # done at the end

    @property
    def path(self) -> str:
        return urllib.parse.urlsplit(self.target).path

    @property
    def query(self) -> dict[str, list[str]]:
        return urllib.parse.parse_qs(urllib.parse.urlsplit(self.target).query)

    @cached_property
    def body(self) -> bytes:
        body = self.read(self.upload_limit)
        self.received = len(body)
        if self.upload_limit is not None:
            raise ConnectionCut
        return body

    @cached_property
    def json(self) -> dict:
        try:
            return json.loads(self.body)
        except ValueError as error:
            raise Refusal(400, f"not JSON: {error}") from error

    @property
    def form(self) -> dict[str, list[str]]:
        return urllib.parse.parse_qs(self.body.decode())

    def __repr__(self) -> str:
        return f"{self.number} {self.method} {self.target} by {self.user}: {self.status}, {self.served} bytes"


@dataclass
class Fault:
    """`act` on the requests whose "METHOD path" matches: the first `skip` not, then `times` (None: all that follow)."""

    pattern: str
    act: Callable[[Exchange], None]
    skip: int = 0
    times: int | None = 1

    def meets(self, exchange: Exchange) -> bool:
        if self.times == 0 or not re.search(self.pattern, f"{exchange.method} {exchange.path}"):
            return False
        if self.skip:
            self.skip -= 1
            return False
        self.times = None if self.times is None else self.times - 1
        return True


def answer(status: int, message: str = "as the test wants it", **headers: str) -> Callable[[Exchange], None]:
    def act(exchange: Exchange) -> None:
        raise Refusal(status, message, **headers)

    return act


def say(content: object) -> Callable[[Exchange], None]:
    """Answer with something else than what was asked for."""

    def act(exchange: Exchange) -> None:
        refusal = Refusal(200, "")
        refusal.content = content
        raise refusal

    return act


def cut_upload(after: int, pid: int | None = None) -> Callable[[Exchange], None]:
    """End the connection after so many bytes of the body; pid: and the client's process with it."""

    def act(exchange: Exchange) -> None:
        exchange.upload_limit, exchange.then = after, kill(pid)

    return act


def cut_download(after: int, pid: int | None = None) -> Callable[[Exchange], None]:
    def act(exchange: Exchange) -> None:
        exchange.download_limit, exchange.then = after, kill(pid)

    return act


def lose_answer(exchange: Exchange) -> None:
    """What was asked is done, but the client does not learn of it."""
    exchange.download_limit = -1


def ignore_gated(exchange: Exchange) -> None:
    """For settings: 200, and the gate is not stored."""
    exchange.json.pop("gated", None)


def forget_gate_when_visible(exchange: Exchange) -> None:
    """For settings: the gate is lost with the change of visibility."""
    if exchange.json.get("visibility") == "public" or exchange.json.get("private") is False:
        exchange.json["gated"] = False


def serve_anybody(exchange: Exchange) -> None:
    exchange.open_doors = True


def kill(pid: int | None) -> Callable[[], None] | None:
    def end() -> None:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)

    return end if pid else None
