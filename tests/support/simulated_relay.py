"""A relay, a clock and a chance of the tests' own for runs that deliver: nothing here waits."""

from __future__ import annotations

import contextlib
import sqlite3
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from arawn_cli.delivery.message import Answer, Delivered, Parcel, Refused, Undelivered
from arawn_cli.delivery.outbox import Outbox
from arawn_cli.delivery.sending import Delivery, Pace, Terms
from arawn_cli.events import DiskPressure, Level, Unit
from arawn_cli.state import State


@dataclass
class Clock:
    """A monotonic clock that only sleeping moves."""

    now: float = 0.0
    stopping: bool = False

    def sleep(self, seconds: float) -> None:
        self.now += seconds

    def pace(self, chance: float = 0.0) -> Pace:
        return Pace(lambda: self.now, self.sleep, lambda: chance, lambda: self.stopping)


@dataclass
class Relay:
    """Answers as it is told, and remembers what arrived."""

    clock: Clock
    answer: Callable[[Sequence[Parcel]], Answer] = lambda _parcels: Delivered()
    batch: int = 1
    tried: list[float] = field(default_factory=list)
    arrived: list[str] = field(default_factory=list)

    def attempt(self, parcels: Sequence[Parcel], timeout: float) -> Answer:
        assert 0 < timeout <= 5
        self.tried.append(self.clock.now)
        answer = self.answer(parcels)
        if isinstance(answer, Delivered):
            self.arrived += [parcel.event_id for parcel in parcels]
        return answer

    def close(self) -> None:
        pass


def pressure(number: int, level: Level = Level.WARNING) -> DiskPressure:
    return DiskPressure(
        id=f"event-{number}",
        timestamp="2026-01-01T00:00:00.000000Z",
        host="host",
        root=None,
        dry_run=False,
        level=level,
        scope=f"scope-{number}",
        usage_mb=2,
        limit_mb=1,
        workstream_id=f"scope-{number}",
        workstream_name="A",
        usage_bytes=2_000_000,
        limit_bytes=1_000_000,
        percent=200,
        unit=Unit.BYTES,
        complete=True,
        reclaimable_bytes=None,
        forecast_days=None,
        sample_age_secs=0,
    )


def ids(*numbers: int) -> list[str]:
    return [f"event-{number}" for number in numbers]


def delivery(directory: Path, relay: Relay, *, limit: int = 100, deadline: float = 30) -> Delivery:
    return Delivery(relay, Outbox(State(directory, lambda: 0), limit), Terms(("disk_pressure",), 5, deadline), relay.clock.pace())


def deliver(directory: Path, relay: Relay, *numbers: int, limit: int = 100) -> Delivery:
    """One run that raises some events."""
    run = delivery(directory, relay, limit=limit)
    for number in numbers:
        run.emit(pressure(number))
    run.finish()
    run.outbox.state.close()
    return run


def waiting(directory: Path) -> list[str]:
    state = State(directory, lambda: 0)
    try:
        return [event.parcel.event_id for event in Outbox(state, 1000).next(0, 1000)]
    finally:
        state.close()


@pytest.fixture
def relay() -> Relay:
    return Relay(Clock())


def refuse(*bad: int, answer: str = "413 too large") -> Callable[[Sequence[Parcel]], Answer]:
    def judge(parcels: Sequence[Parcel]) -> Answer:
        return Refused(answer) if any(parcel.event_id in ids(*bad) for parcel in parcels) else Delivered()

    return judge


def backlog(directory: Path, relay: Relay, *numbers: int) -> None:
    """A run whose events all wait, because nobody listens; from then on the relay takes what comes."""
    relay.answer = lambda _parcels: Undelivered("nobody listens", hopeless=True)
    deliver(directory, relay, *numbers)
    relay.answer = lambda _parcels: Delivered()


@contextlib.contextmanager
def of_a_newer_version(directory: Path) -> Iterator[None]:
    """A state file that can be read, and takes no change: the program was set back to an older version."""
    with contextlib.closing(sqlite3.connect(directory / "state.db", isolation_level=None)) as connection:
        ((version,),) = connection.execute("PRAGMA user_version").fetchall()
        connection.execute("PRAGMA user_version = 1000")
        yield
        connection.execute(f"PRAGMA user_version = {version}")
