"""Define the messages to a relay, and interpret its answers."""

from __future__ import annotations

import json
from codecs import BOM_UTF8
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol
from urllib.parse import quote

from arawn_cli import __version__
from arawn_cli.check_events import DiskPressure
from arawn_cli.config.relay_url import redact
from arawn_cli.delivery.credentials import Secrets
from arawn_cli.events import Event, to_json
from arawn_cli.names import escape

USER_AGENT = f"arawn-cli/{__version__}"

EXCERPT_CHARACTERS = 200

# Statuses below 500 that are temporary: timeout, too early, too many requests
# (RFC 9110, RFC 8470, RFC 6585).
RETRYABLE = frozenset({408, 425, 429})

UNAUTHORISED = 401
PROXY_UNAUTHORISED = 407

# nginx answers this, with status 400, to a request in plain text on a TLS port.
_PLAIN_ON_TLS = b"plain HTTP request was sent to HTTPS port"


@dataclass(frozen=True, slots=True)
class OutgoingEvent:
    """An event encoded for sending. Its bytes are the same on every attempt.

    Attributes:
        time: RFC 3339, as in the event.
        source: the host that raised it, a URI reference (CloudEvents 1.0).
        scope, level: of a `disk_pressure` event, else empty.
    """

    event_id: str
    type: str
    time: str
    source: str
    body: bytes
    scope: str = ""
    level: str = ""

    def __str__(self) -> str:
        """Return the event as logs name it."""
        about = " ".join(word for word in (self.type, self.scope, self.level) if word)
        return f"{self.event_id} ({about})"


def encode_event(event: Event) -> OutgoingEvent:
    """Encode an event for sending and storing."""
    pressure = event if isinstance(event, DiskPressure) else None
    return OutgoingEvent(
        event_id=event.id,
        type=event.type,
        time=event.timestamp,
        source=f"//{quote(event.host, safe='')}/arawn-cli",
        body=to_json(event).encode("ascii"),
        scope=pressure.scope if pressure else "",
        level=pressure.level.value if pressure else "",
    )


@dataclass(frozen=True, slots=True)
class Delivered:
    """The relay accepted the events."""


@dataclass(frozen=True, slots=True)
class Refused:
    """The relay rejected the events; it may still accept later ones.

    `answer` is the start of its answer, on one line.
    """

    answer: str


@dataclass(frozen=True, slots=True)
class Failed:
    """The events did not arrive, or it is unknown whether they did.

    Attributes:
        reason: one sentence.
        retry_after: the pause in seconds that the relay asked for, or None.
        retryable: whether another attempt in this run could succeed.
    """

    reason: str
    retry_after: float | None = None
    retryable: bool = True


SendResult = Delivered | Refused | Failed


class RelayClient(Protocol):
    """A connection to a relay. `batch_size` is the largest number of events in one attempt."""

    @property
    def batch_size(self) -> int:
        """The largest number of events in one attempt."""

    def send(self, events: Sequence[OutgoingEvent], timeout: float) -> SendResult:
        """Try once to send all events in their order; `timeout` is in seconds."""

    def close(self) -> None:
        """Close connections."""


def interpret_response(status: int, body: bytes, retry_after: str | None, now: float, secrets: Secrets) -> SendResult:
    """Interpret the status of an HTTP response, the start of its body and its `Retry-After` header.

    A status about token or address refuses no single event. `now` is in seconds since the epoch.
    """
    answer = f"{status} {excerpt(body, secrets)}".rstrip()
    if status in RETRYABLE or status >= 500:
        return Failed(f"the relay answers {answer}", retry_after=parse_retry_after(retry_after, now))
    if 200 <= status < 300:
        return Refused(answer) if contains_error(body) else Delivered()
    if status == UNAUTHORISED:
        return Failed(f"the relay requires a valid token or password: {answer}", retryable=False)
    if status == 400 and _PLAIN_ON_TLS in body:
        return Failed("the relay speaks TLS; use https:// or wss://", retryable=False)
    if 300 <= status < 400:
        return Failed(f"the relay answers {status}, a redirect, which is never followed; set url to where it is", retryable=False)
    return Refused(answer)


def excerpt(text: str | bytes, secrets: Secrets) -> str:
    """Return the start of a relay's text on one line, without our secrets and those of URLs."""
    if isinstance(text, bytes):
        text = text.decode("utf-8", "replace")
    return escape(redact(secrets.removed_from(" ".join(text.split())))[:EXCERPT_CHARACTERS])


def parse_retry_after(header: str | None, now: float) -> float | None:
    """Return the seconds that a `Retry-After` header asks for (RFC 9110, 10.2.3).

    The header is a number or a date. Return None if it is missing or malformed.
    """
    if header is None:
        return None
    text = header.strip()
    if text.isascii() and text.isdigit():
        return float(text[:9])
    from email.utils import parsedate_to_datetime  # 8 ms, for a rare header

    try:
        return max(parsedate_to_datetime(text).timestamp() - now, 0.0)
    except (ValueError, OverflowError):
        return None


def contains_error(body: bytes) -> bool:
    """Return whether a text is a JSON object that reports an error.

    Centrifugo refuses with an `error` and status 200, Arawn with a frame of the type `error`.
    """
    text = body.removeprefix(BOM_UTF8).lstrip()
    if not text.startswith(b"{"):
        return False
    try:
        answer = json.loads(text)
    except (ValueError, RecursionError):
        return False
    return isinstance(answer, dict) and (bool(answer.get("error")) or answer.get("type") == "error")
