"""What is handed to a relay, and what comes of it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol
from urllib.parse import quote

from arawn_cli.events import DiskPressure, Event, to_json


@dataclass(frozen=True, slots=True)
class Parcel:
    """An event that is ready to go: its bytes stay the same from the first try to the last.

    Attributes:
        time: RFC 3339, as the event has it.
        source: who raised it, a URI reference (CloudEvents 1.0).
        scope, level: of a `disk_pressure`, else empty.
    """

    event_id: str
    type: str
    time: str
    source: str
    body: bytes
    scope: str = ""
    level: str = ""

    def __str__(self) -> str:
        """The event as logs name it."""
        about = " ".join(word for word in (self.type, self.scope, self.level) if word)
        return f"{self.event_id} ({about})"


@dataclass(frozen=True, slots=True)
class Delivered:
    """The relay took it."""


@dataclass(frozen=True, slots=True)
class Refused:
    """The relay wants none of it; the events behind it may still be welcome. `answer` is the start of what it said, one line."""

    answer: str


@dataclass(frozen=True, slots=True)
class Undelivered:
    """It did not arrive, or nobody knows whether it did.

    Attributes:
        reason: one sentence.
        retry_after: seconds that the relay asked to be left alone for, or None.
        hopeless: trying again in this run would change nothing.
    """

    reason: str
    retry_after: float | None = None
    hopeless: bool = False


Answer = Delivered | Refused | Undelivered


class Relay(Protocol):
    """One way to a relay. `batch` is how many events may go in one attempt."""

    @property
    def batch(self) -> int:
        """The most events of one attempt."""

    def attempt(self, parcels: Sequence[Parcel], timeout: float) -> Answer:
        """Tries once, within `timeout` seconds, to deliver all of the events in their order."""

    def close(self) -> None:
        """Lets go of connections."""


def parcel_of(event: Event) -> Parcel:
    """The event as it is sent and stored."""
    pressure = event if isinstance(event, DiskPressure) else None
    return Parcel(
        event_id=event.id,
        type=event.type,
        time=event.timestamp,
        source=f"//{quote(event.host, safe='')}/arawn-cli",
        body=to_json(event).encode("ascii"),
        scope=pressure.scope if pressure else "",
        level=pressure.level.value if pressure else "",
    )
