"""Requests for access to a gated dataset: lists them with the answers to the form, grants, rejects and revokes."""

import json
import re

from huggingface_hub.errors import HfHubHTTPError
from huggingface_hub.hf_api import AccessRequest

from harness.errors import InputError
from publishing.hub_repository import Repository

MAX_CELL = 60  # characters of an answer in the table; --json shows all
STATUSES = ("pending", "accepted", "rejected")
CONTROL_CHARACTERS = re.compile(r"[\x00-\x1f\x7f-\x9f\u200e\u200f\u202a-\u202e\u2066-\u2069]+")


def requests_of(repository: Repository) -> list[AccessRequest]:
    """All requests, those without a decision first."""
    return [request for status in STATUSES for request in repository.call(f"list_{status}_access_requests")]


def find(requests: list[AccessRequest], user: str) -> AccessRequest | None:
    """The request of a user. user: his name, or the identifier of the request if the Hub does not reveal names."""
    return next((request for request in requests if user in (request.username, request.request_id)), None)


def grant(repository: Repository, request: AccessRequest | None, user: str) -> str:
    """Gives access, also to somebody who has not asked for it; returns what is now so.

    Raises InputError if the Hub knows no such user."""
    if request is None:
        is_new = _granted_unasked(repository, user)
    else:
        is_new = request.status != "accepted"
        if is_new:
            repository.call("accept_access_request", **_addressed(request, user))
    return f"{user} has access to {repository.name} {'now' if is_new else 'already'}"


def _granted_unasked(repository: Repository, user: str) -> bool:
    """Whether the user had no access before."""
    try:
        repository.call("grant_access", user)
    except HfHubHTTPError as error:
        if error.response.status_code == 400:  # it was granted so recently that the lists do not show it yet
            return False
        if error.response.status_code != 404:
            raise
        raise InputError(f"{user}: the Hub knows no such user; check the spelling of the name") from error
    return True


def reject(repository: Repository, request: AccessRequest | None, user: str, reason: str) -> str:
    """Turns a pending request down; returns what is now so. reason: is shown to the user.

    Raises InputError if no request is pending."""
    if request is None or request.status != "pending":
        accepted = request is not None and request.status == "accepted"
        remedy = "revoke takes access away" if accepted else "access list shows who asked"
        raise InputError(f"{user} has no request for {repository.name} that waits for a decision; {remedy}")
    repository.call("reject_access_request", **_addressed(request, user), rejection_reason=reason)
    return f"the request of {user} for {repository.name} is rejected"


def revoke(repository: Repository, request: AccessRequest | None, user: str, reason: str) -> str:
    """Takes access away; returns what is now so. reason: is shown to the user.

    Raises InputError if the user has no access."""
    if request is None or request.status != "accepted":
        raise InputError(f"{user} has no access to {repository.name}; access list shows who has")
    repository.call("reject_access_request", **_addressed(request, user), rejection_reason=reason)
    return f"{user} has no access to {repository.name} any more; ask for the deletion of copies made before"


def _addressed(request: AccessRequest, user: str) -> dict[str, str]:
    """By which argument the client's methods find the request."""
    return {"user": user} if request.username == user else {"request_id": user}


def table(requests: list[AccessRequest], as_json: bool = False) -> str:
    """One row per request with the answers to the form, as aligned text or as JSON."""
    rows = [_row(request) for request in requests]
    if as_json:
        return json.dumps(rows, indent=2, ensure_ascii=False)
    names = list(dict.fromkeys(name for row in rows for name in row))
    cells = [[_printable(name) for name in names], *([_printable(row.get(name)) for name in names] for row in rows)]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    lines = ["  ".join(map(str.ljust, line, widths)).rstrip() for line in cells if names]
    counts = ", ".join(f"{sum(request.status == status for request in requests)} {status}" for status in STATUSES)
    return "\n".join([*lines, counts])


def _row(request: AccessRequest) -> dict[str, str | None]:
    row = {"status": request.status, "user": request.username or request.request_id, "name": request.fullname}
    row |= {"email": request.email, "asked": f"{request.timestamp:%Y-%m-%d}"}
    for question, answer in (request.fields or {}).items():
        row[f"answer: {question}" if question in row else question] = answer
    return row


def _printable(value: object) -> str:
    """The text of a cell: one line, shortened, without characters that could control the terminal, since strangers
    wrote it."""
    text = "-" if value is None else CONTROL_CHARACTERS.sub(" ", str(value))
    return text if len(text) <= MAX_CELL else f"{text[: MAX_CELL - 3]}..."
