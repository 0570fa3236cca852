"""Simulate a relay and a clock for deliveries: no test waits."""

from __future__ import annotations

import contextlib
import sqlite3
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import cast
from unittest import mock

import pytest

from arawn_cli.check_events import DiskPressure
from arawn_cli.config import schema
from arawn_cli.delivery.message import Delivered, Failed, OutgoingEvent, Refused, SendResult
from arawn_cli.delivery.outbox import READ_PARKED, Outbox, Row, queued_event
from arawn_cli.delivery.retry import RetryClient, Timing
from arawn_cli.delivery.sending import Delivery
from arawn_cli.events import Level, Unit
from arawn_cli.state import State


@dataclass
class Clock:
    """A monotonic clock that only sleeping moves, a wall clock, and the signal that asks a run to
    end."""

    now: float = 0.0
    wall: int = 0
    stopping: bool = False

    def sleep(self, seconds: float) -> None:
        self.now += seconds

    def timing(self, chance: float = 0.0) -> Timing:
        return Timing(lambda: self.now, self.sleep, lambda: chance, lambda: self.wall)


@dataclass
class Relay:
    """A relay client that answers as configured, and remembers what arrived."""

    clock: Clock
    answer: Callable[[Sequence[OutgoingEvent]], SendResult] = lambda _events: Delivered()
    batch_size: int = 1
    tried: list[float] = field(default_factory=list)
    arrived: list[str] = field(default_factory=list)
    closed: int = 0

    def send(self, events: Sequence[OutgoingEvent], timeout: float) -> SendResult:
        assert 0 < timeout <= 5
        self.tried.append(self.clock.now)
        answer = self.answer(events)
        if isinstance(answer, Delivered):
            self.arrived += [event.event_id for event in events]
        return answer

    def close(self) -> None:
        self.closed += 1

    def retrying(self, chance: float = 0.0) -> RetryClient:
        return RetryClient(self, 5, 30, lambda: self.clock.stopping, self.clock.timing(chance))


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
        usage_percent=50.0,
        percent=200,
        unit=Unit.BYTES,
        complete=True,
        reclaimable_bytes=None,
        forecast_days=None,
        sample_age_secs=0,
    )


def ids(*numbers: int) -> list[str]:
    return [f"event-{number}" for number in numbers]


def delivery(directory: Path, relay: Relay, *, limit: int = 100, deadline: float = 30, target: str = "") -> Delivery:
    outbox = Outbox(State(directory, lambda: 0), limit, target)
    settings = schema.Relay(deadline_secs=deadline)
    return Delivery(outbox, settings, lambda: relay, lambda: relay.clock.stopping, relay.clock.timing())


def deliver(directory: Path, relay: Relay, *numbers: int, limit: int = 100) -> Delivery:
    """One run that raises some events."""
    run = delivery(directory, relay, limit=limit)
    for number in numbers:
        run.store(pressure(number))
    run.finish()
    run.outbox.state.close()
    return run


def queued(directory: Path) -> list[str]:
    state = State(directory, lambda: 0)
    try:
        return [queued.event.event_id for queued in Outbox(state, 1000).next(0, 1000)]
    finally:
        state.close()


def parked(directory: Path) -> list[str]:
    state = State(directory, lambda: 0)
    try:
        return [queued_event(cast("Row", row)).event.event_id for row in state.select(READ_PARKED, ())]
    finally:
        state.close()


@pytest.fixture
def relay() -> Relay:
    return Relay(Clock())


def refuse(*bad: int, answer: str = "413 too large") -> Callable[[Sequence[OutgoingEvent]], SendResult]:
    def answer_to(events: Sequence[OutgoingEvent]) -> SendResult:
        return Refused(answer) if any(event.event_id in ids(*bad) for event in events) else Delivered()

    return answer_to


def backlog(directory: Path, relay: Relay, *numbers: int) -> None:
    """Queue events in a run whose relay is down; from then on the relay accepts everything."""
    relay.answer = lambda _events: Failed("connection refused", retryable=False)
    deliver(directory, relay, *numbers)
    relay.answer = lambda _events: Delivered()


@contextlib.contextmanager
def locked_for_writing(directory: Path) -> Iterator[None]:
    """Have another program hold the write lock of the state file, so that it can only be read."""
    with (
        contextlib.closing(sqlite3.connect(directory / "state.db", isolation_level=None)) as connection,
        mock.patch("arawn_cli.state_file.BUSY_SECS", 0.05),
    ):
        connection.execute("BEGIN IMMEDIATE")
        yield
        connection.execute("ROLLBACK")
