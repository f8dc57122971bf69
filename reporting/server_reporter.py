"""Reports by a model behind a server that speaks OpenAI's protocol, such as vLLM: POST BASE_URL/chat/completions.

    with ServerReporter("Qwen/Qwen2.5-VL-7B-Instruct", "http://127.0.0.1:8000/v1") as reporter:
        reports = reporter.write_reports([picture, ...])

Several requests are under way at a time. A request that fails for a reason that may pass is repeated, with delays that
double and vary by chance, or as long as the server's Retry-After says. A server that can hold a model to a JSON schema
does so; one that refuses the schema is asked without. Photographs are encoded anew as PNG, without metadata.
"""

import base64
import datetime
import email.utils
import io
import ipaddress
import os
import queue
import random
import sys
import threading
from collections.abc import Iterable, Iterator
from urllib.parse import urlsplit

import httpx2
import numpy as np
from PIL import Image
from tqdm import tqdm

from harness.errors import InputError, OutsideError, one_line
from reporting import report_sections
from reporting.reporters import (
    CUT_OFF,
    MAX_NEW_TOKENS,
    REFUSED,
    WHITESPACE,
    Answer,
    Picture,
    Reporter,
    cut_loops,
)

KEY_VARIABLE = "OPENAI_API_KEY"  # of the environment; the key stands nowhere else
LEAVE_FLAG = "--photographs_leave_this_machine"
MAX_TRIES = 8
TRIES_AT_START = 3  # to connect to a server that has never answered: most likely it is not running
FIRST_DELAY_S, LONGEST_DELAY_S = 1.0, 60.0
LONGEST_WAIT_S = 600.0  # that a server may ask for by Retry-After
PASSING = frozenset({408, 409, 425, 429})  # statuses after which the same request may succeed; so may 500 and more
FEWEST_REFUSED = 3  # pictures in a row after which a server that answers nothing is given up
OF_PICTURE = frozenset({400, 413, 422})  # statuses that may be about this one picture


def check_base_url(base_url: str, may_leave: bool) -> bool:
    """Whether a server is on this machine. Raises InputError for an address that is none or that holds a password, and
    for another machine unless `may_leave`: photographs of patients go there."""
    try:
        parts = urlsplit(base_url)
        host, _ = parts.hostname, parts.port
    except ValueError as error:
        raise InputError(
            f"--base_url: is no address ({one_line(error)}); give one such as http://127.0.0.1:8000/v1"
        ) from error
    if parts.scheme not in ("http", "https") or not host:
        raise InputError(f"--base_url {base_url}: is no address of the form http://127.0.0.1:8000/v1; correct it")
    if parts.username or parts.password or parts.query or parts.fragment:
        remedy = f"give the address alone, and a key in the environment variable {KEY_VARIABLE}"
        raise InputError(f"--base_url: holds more than scheme, host, port and path; {remedy}")
    if is_this_machine(host):
        return True
    if not may_leave:
        reason = "is another machine, and every photograph would be sent there"
        raise InputError(f"--base_url {host}: {reason}; give {LEAVE_FLAG} if you may do so, or run the server here")
    return False


def is_this_machine(host: str) -> bool:
    """Whether a host name or address can only mean this machine; other names are never looked up."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host.rstrip(".").lower() == "localhost"


class ServerReporter(Reporter):
    """See the module. To be used in a `with` block, whose end closes the connections."""

    def __init__(
        self,
        model: str,
        base_url: str,
        may_leave: bool = False,
        concurrency: int = 8,
        timeout_s: float = 300.0,
        max_new_tokens: int = MAX_NEW_TOKENS,
        first_delay_s: float = FIRST_DELAY_S,
    ):
        """model: as the server calls it. may_leave: whether photographs may be sent to another machine. concurrency:
        requests under way at a time. timeout_s: for which an answer is awaited. Raises InputError for the address."""
        here = check_base_url(base_url, may_leave)
        self.model, self.name = model, (model.rstrip("/").rpartition("/")[2] if model[:1] in "/~." else model)
        self.url = base_url.rstrip("/") + "/chat/completions"
        self.concurrency, self.max_new_tokens, self.first_delay_s = concurrency, max_new_tokens, first_delay_s
        key = os.environ.get(KEY_VARIABLE)
        # A proxy of the environment might stand on another machine, so there is none for a server on this one.
        self.client = httpx2.Client(
            headers={"Authorization": f"Bearer {key}"} if key else {},
            timeout=httpx2.Timeout(timeout_s, connect=min(10.0, timeout_s)),
            limits=httpx2.Limits(max_connections=concurrency),
            trust_env=not here,
            follow_redirects=False,
        )
        self.takes_schema = True  # until the server refuses one
        self.n_repeated = 0  # requests that were made again
        self.n_answered = self.n_refused = 0
        self._reached = self._said_gone = False  # whether it ever answered; whether the user knows that it does not
        self._stopped = threading.Event()
        self._chance = random.Random()  # delays need not be the same in every run: they change no report
        self._lock = threading.Lock()

    def __enter__(self) -> "ServerReporter":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        self._stopped.set()
        self.client.close()

    def answers(self, pictures: Iterable[Picture], attempt: int = 0) -> Iterator[tuple[str, Answer]]:
        """See Reporter. Raises OutsideError if the server cannot be reached, or refuses what every picture needs."""
        tasks: queue.Queue = queue.Queue()
        finished: queue.Queue = queue.Queue()

        def work() -> None:
            while (task := tasks.get()) is not None:
                key, picture = task
                try:
                    finished.put((key, self._ask(picture, attempt)))
                except Exception as error:  # raised again where the answers are taken
                    finished.put((key, error))

        # Threads that end with the process: Ctrl-C must not wait for a server that is late.
        for _ in range(self.concurrency):
            threading.Thread(target=work, daemon=True).start()
        under_way = 0
        try:
            for picture in pictures:
                tasks.put(picture)
                under_way += 1
                if under_way >= self.concurrency:
                    yield _taken(finished)
                    under_way -= 1
            for _ in range(under_way):
                yield _taken(finished)
        finally:
            for _ in range(self.concurrency):
                tasks.put(None)

    def _ask(self, picture: np.ndarray, attempt: int) -> Answer:
        """One answer, with as many requests as it takes.

        Raises OutsideError after MAX_TRIES, or after TRIES_AT_START if the server was never reached."""
        url = data_url(picture)
        delay_s, reason = self.first_delay_s, ""
        for trial in range(MAX_TRIES):
            if trial:
                self._count_repeated()
            with_schema = self.takes_schema and not attempt  # a schema may be what an answer loops in
            wait_s = None
            try:
                response = self.client.post(self.url, json=self._body(url, attempt, with_schema))
            except httpx2.TransportError as error:  # not reached, lost, or late
                reason = type(error).__name__
                if isinstance(error, httpx2.ConnectError | httpx2.ConnectTimeout):
                    reason += "; is it running?"
                    if not self._reached and trial + 1 >= TRIES_AT_START:
                        break
                    self._say_gone()
            else:
                self._reached = True
                status = response.status_code
                if status == 200:
                    answer = _answer_in(response)
                    if answer is not None:
                        self.n_answered += 1
                        return answer
                    reason = "its answer is not of OpenAI's form"
                elif status in OF_PICTURE and with_schema:
                    self.takes_schema = False
                    continue
                elif status in OF_PICTURE and self._may_be_of_picture():
                    return Answer("", (REFUSED,))
                elif status not in PASSING and status < 500:
                    raise OutsideError(f"{self._where()} answers with status {status}{_message_in(response)}")
                else:
                    reason, wait_s = f"status {status}", retry_after_s(response.headers.get("Retry-After"))
            pause_s = delay_s * self._chance.uniform(0.5, 1.0) if wait_s is None else min(wait_s, LONGEST_WAIT_S)
            delay_s = min(2 * delay_s, LONGEST_DELAY_S)
            if self._stopped.wait(pause_s):
                break
        times = f"{trial + 1} times" if trial else "once"
        raise OutsideError(f"{self._where()} failed {times} for one picture, the last time with {reason}")

    def _body(self, url: str, attempt: int, with_schema: bool) -> dict:
        content = [{"type": "image_url", "image_url": {"url": url}}, {"type": "text", "text": self.asked(attempt)}]
        body = {
            "model": self.model,
            "messages": [{"role": "user", "content": content}],
            "max_tokens": self.max_new_tokens,
            "temperature": 0,
            "seed": attempt,
        }
        if with_schema:
            schema = {"name": "report", "strict": True, "schema": report_sections.json_schema()}
            body["response_format"] = {"type": "json_schema", "json_schema": schema}
        return body

    def _may_be_of_picture(self) -> bool:
        """Whether a refusal may be about one picture: not if the server has refused several and answered none."""
        with self._lock:
            self.n_refused += 1
            return self.n_answered > 0 or self.n_refused < FEWEST_REFUSED

    def _say_gone(self) -> None:
        """Say once that no server answers; by tqdm, beside whose bar a line is legible."""
        with self._lock:
            said, self._said_gone = self._said_gone, True
        if not said:
            tqdm.write(f"no server answers at {self._address()}, trying again", file=sys.stderr)

    def _count_repeated(self) -> None:
        with self._lock:
            self.n_repeated += 1

    def _where(self) -> str:
        return f"--base_url {self._address()}"

    def _address(self) -> str:
        """Without the path, which might hold a secret."""
        parts = urlsplit(self.url)
        return f"{parts.scheme}://{parts.netloc}"

    def record(self) -> dict:
        return {"reporter": self.name, "max_new_tokens": self.max_new_tokens, "server": True}


def data_url(picture: np.ndarray) -> str:
    """A picture (h, w, 3) uint8 as a data URL: PNG made from the pixels alone, so without EXIF or other metadata."""
    encoded = io.BytesIO()
    Image.fromarray(picture).save(encoded, "PNG")
    return f"data:image/png;base64,{base64.b64encode(encoded.getvalue()).decode()}"


def retry_after_s(header: str | None) -> float | None:
    """The seconds that a Retry-After header asks for, as a number or as a date (RFC 9110, 10.2.3); None without one."""
    if not header:
        return None
    if header.strip().isdecimal():
        return float(header)
    try:
        until = email.utils.parsedate_to_datetime(header)
    except ValueError:
        return None
    if until.tzinfo is None:
        until = until.replace(tzinfo=datetime.UTC)
    return max(0.0, (until - datetime.datetime.now(datetime.UTC)).total_seconds())


def _taken(finished: queue.Queue) -> tuple[str, Answer]:
    key, outcome = finished.get()
    if isinstance(outcome, Exception):
        raise outcome
    return key, outcome


def _answer_in(response: httpx2.Response) -> Answer | None:
    """The text of a response, and whether it was cut; None if the response is not of OpenAI's form."""
    try:
        choice = response.json()["choices"][0]
        content, finish = choice["message"].get("content"), choice.get("finish_reason")
    except (ValueError, LookupError, TypeError, AttributeError, RecursionError):
        return None
    if content is not None and not isinstance(content, str):
        return None
    answer = cut_loops(content or "")
    flags = {*answer.flags, *([CUT_OFF] if finish == "length" and WHITESPACE not in answer.flags else [])}
    return Answer(answer.text.strip(), tuple(sorted(flags)))


def _message_in(response: httpx2.Response) -> str:
    """What a server says about a refusal, if it is short: a long text may repeat what it was sent."""
    try:
        message = one_line(Exception(str(response.json()["error"]["message"])))
    except (ValueError, LookupError, TypeError, RecursionError):
        return ""
    return f" ({message})" if len(message) <= 200 and "base64" not in message else ""
