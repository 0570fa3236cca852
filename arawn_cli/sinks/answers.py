"""What an answer of a relay means (RFC 9110): delivered, refused, or to be tried again."""

from __future__ import annotations

import json
from codecs import BOM_UTF8
from email.utils import parsedate_to_datetime

from arawn_cli.addresses import redact
from arawn_cli.credentials import Secrets
from arawn_cli.names import escape
from arawn_cli.parcels import Answer, Delivered, Refused, Undelivered

SHOWN_CHARACTERS = 200

_AGAIN = frozenset({408, 425, 429})


def judge(status: int, body: bytes, retry_after: str | None, now: float, secrets: Secrets) -> Answer:
    """What a status, the start of a body and a `Retry-After` header mean; `now` is in seconds since the epoch."""
    text = shown(body, secrets)
    said = f"{status} {text}".rstrip()
    if status in _AGAIN or status >= 500:
        return Undelivered(f"the relay answers {said}", retry_after=wait_asked_for(retry_after, now))
    if 200 <= status < 300:
        return Refused(said) if _tells_error(body) else Delivered()
    if 300 <= status < 400:
        return Refused(f"{status}, a redirect, which is never followed; set url to where the relay is")
    return Refused(said)


def shown(body: bytes, secrets: Secrets) -> str:
    """The first characters of an answer, on one line, without our secrets and those of any URL in it."""
    text = redact(secrets.removed_from(" ".join(body.decode("utf-8", "replace").split())))
    return escape(text[:SHOWN_CHARACTERS])


def wait_asked_for(retry_after: str | None, now: float) -> float | None:
    """Seconds that a `Retry-After` header asks for, written as a number or as a date; None for no header, or none that can be read."""
    if retry_after is None:
        return None
    text = retry_after.strip()
    if text.isascii() and text.isdigit():
        return float(text[:9])
    try:
        return max(parsedate_to_datetime(text).timestamp() - now, 0.0)
    except (ValueError, OverflowError):
        return None


def _tells_error(body: bytes) -> bool:
    """Whether a JSON object carries an `error`, which is how Centrifugo refuses with status 200."""
    text = body.removeprefix(BOM_UTF8).lstrip()
    if not text.startswith(b"{"):
        return False
    try:
        answer = json.loads(text)
    except (ValueError, RecursionError):
        return False
    return isinstance(answer, dict) and bool(answer.get("error"))
