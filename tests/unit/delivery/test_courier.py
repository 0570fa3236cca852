"""How one event is carried: waits, what an answer asks for, signals, deadlines, and work in bounded time."""

from __future__ import annotations

import threading
import time
from collections.abc import Sequence
from pathlib import Path

import pytest

from arawn_cli.delivery.message import Answer, Delivered, Parcel, Undelivered
from arawn_cli.delivery.sending import Courier, OverdueError, Worker
from tests.support.simulated_relay import Relay, deliver, delivery, ids, pressure, relay, waiting

__all__ = ["relay"]

pytestmark = pytest.mark.usefixtures("told")


def test_waits_double_and_end_before_the_deadline(tmp_path: Path, relay: Relay) -> None:
    relay.answer = lambda _parcels: Undelivered("nobody listens")
    deliver(tmp_path, relay, 1)
    gaps = [round(later - earlier, 6) for earlier, later in zip(relay.tried, relay.tried[1:], strict=False)]
    assert gaps == [0.25, 0.5, 1, 2, 4, 8, 8]
    assert relay.clock.now < 30


@pytest.mark.parametrize(("chance", "wait"), [(0.0, 0.25), (0.5, 0.1875), (0.999, 0.125)])
def test_chance_shortens_a_wait_by_half_at_most(relay: Relay, chance: float, wait: float) -> None:
    answers: list[Answer] = [Undelivered("once"), Delivered()]
    relay.answer = lambda _parcels: answers.pop(0)
    Courier(relay, relay.clock.pace(chance), 5, 30).carry([])
    assert relay.tried[1] == pytest.approx(wait, abs=0.001)


def test_retry_after_is_obeyed(relay: Relay) -> None:
    answers: list[Answer] = [Undelivered("busy", retry_after=7), Delivered()]
    relay.answer = lambda _parcels: answers.pop(0)
    assert Courier(relay, relay.clock.pace(), 5, 30).carry([]) == Delivered()
    assert relay.tried == [0, pytest.approx(7)]


def test_a_retry_after_past_the_deadline_ends_the_run_at_once(relay: Relay) -> None:
    relay.answer = lambda _parcels: Undelivered("busy", retry_after=3600)
    Courier(relay, relay.clock.pace(), 5, 30).carry([])
    assert relay.tried == [0]
    assert relay.clock.now == 0


def test_what_will_not_change_is_not_tried_again(relay: Relay) -> None:
    relay.answer = lambda _parcels: Undelivered("wrong certificate", hopeless=True)
    Courier(relay, relay.clock.pace(), 5, 30).carry([])
    assert relay.tried == [0]


def test_a_signal_ends_the_trying(relay: Relay) -> None:
    def answer(_parcels: Sequence[Parcel]) -> Answer:
        relay.clock.stopping = True
        return Undelivered("nobody listens")

    relay.answer = answer
    Courier(relay, relay.clock.pace(), 5, 30).carry([])
    assert relay.tried == [0]


def test_an_attempt_that_never_ends_is_left_behind_at_the_deadline(tmp_path: Path, relay: Relay, caplog: pytest.LogCaptureFixture) -> None:
    release = threading.Event()

    def hang(_parcels: Sequence[Parcel]) -> Answer:
        release.wait(10)
        return Undelivered("released")

    relay.answer = hang
    run = delivery(tmp_path, relay, deadline=0.2)
    run.emit(pressure(1))
    assert run.finish().lost == 0
    assert "held on for more than 0.2 s; it may have the event or not" in caplog.text
    release.set()


def test_what_work_in_bounded_time_raises_is_raised() -> None:
    def fail() -> None:
        raise ZeroDivisionError

    worker: Worker[None] = Worker()
    with pytest.raises(ZeroDivisionError):
        worker.run(fail, 5, lambda: False)
    worker.close()


def test_work_that_a_signal_interrupts_is_left_behind_soon() -> None:
    release = threading.Event()
    worker: Worker[bool] = Worker()
    began = time.monotonic()
    with pytest.raises(OverdueError):
        worker.run(lambda: release.wait(30), 30, lambda: True)
    assert time.monotonic() - began < 5
    release.set()


def test_a_client_that_fails_in_an_unforeseen_way_blocks_and_loses_nothing(
    tmp_path: Path, relay: Relay, caplog: pytest.LogCaptureFixture
) -> None:
    def fail(_parcels: Sequence[Parcel]) -> Answer:
        raise RecursionError

    relay.answer = fail
    assert deliver(tmp_path, relay, 1).tally.lost == 0
    assert waiting(tmp_path) == ids(1)
    assert "the answer of the relay cannot be understood: RecursionError" in caplog.text
