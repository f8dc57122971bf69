"""Who asked for access to a gated dataset, what they answered to its form, and what was decided."""

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
    """All requests, those that wait for a decision first."""
    return [request for status in STATUSES for request in repository.call(f"list_{status}_access_requests")]


def decide(repository: Repository, requests: list[AccessRequest], action: str, user: str, reason: str) -> str:
    """Grant, reject or revoke; returns what is so now. Raises InputError where there is nothing to decide.

    user: a name, or the identifier of a request where the Hub does not tell names; reason: what the user is told."""
    request = next((request for request in requests if user in (request.username, request.request_id)), None)
    status = request.status if request else None
    who = {"request_id": user} if request and request.username != user else {"user": user}
    if action == "grant":
        if status == "accepted":
            return f"{user} has access to {repository.name} already"
        if request is None:
            try:
                repository.call("grant_access", user)  # without having asked
            except HfHubHTTPError as error:
                if error.response.status_code == 400:  # a grant that the lists do not show yet
                    return f"{user} has access to {repository.name} already"
                if error.response.status_code != 404:
                    raise
                raise InputError(f"{user}: the Hub knows no such user; check the spelling of the name") from error
        else:
            repository.call("accept_access_request", **who)
        return f"{user} has access to {repository.name} now"
    if action == "reject" and status != "pending":
        remedy = "; revoke takes access away" if status == "accepted" else "; access list shows who asked"
        raise InputError(f"{user} has no request for {repository.name} that waits for a decision{remedy}")
    if action == "revoke" and status != "accepted":
        raise InputError(f"{user} has no access to {repository.name}; access list shows who has")
    repository.call("reject_access_request", **who, rejection_reason=reason)
    if action == "reject":
        return f"the request of {user} for {repository.name} is rejected"
    return f"{user} has no access to {repository.name} any more; ask for the deletion of copies made before"


def table(requests: list[AccessRequest], as_json: bool = False) -> str:
    """One row a request with the answers to the form, as aligned text or as JSON."""
    rows = []
    for request in requests:
        row = {"status": request.status, "user": request.username or request.request_id, "name": request.fullname}
        row |= {"email": request.email, "asked": f"{request.timestamp:%Y-%m-%d}"}
        rows.append(row | {f"answer: {name}" if name in row else name: v for name, v in (request.fields or {}).items()})
    if as_json:
        return json.dumps(rows, indent=2, ensure_ascii=False)
    names = list(dict.fromkeys(name for row in rows for name in row))
    lines = [[_printable(name) for name in names], *([_printable(row.get(name)) for name in names] for row in rows)]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    shown = ["  ".join(map(str.ljust, line, widths)).rstrip() for line in lines if names]
    counts = ", ".join(f"{sum(request.status == status for request in requests)} {status}" for status in STATUSES)
    return "\n".join([*shown, counts])


def _printable(value: object) -> str:
    """In one line, not too long, without what could rewrite the terminal: strangers wrote it."""
    text = "-" if value is None else CONTROL_CHARACTERS.sub(" ", str(value))
    return text if len(text) <= MAX_CELL else f"{text[: MAX_CELL - 3]}..."
