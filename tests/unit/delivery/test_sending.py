"""Sending: order, events that stay or are dropped, refusals, and which run sends."""

from __future__ import annotations

import contextlib
import logging
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest

from arawn_cli.delivery.message import Delivered, Failed, OutgoingEvent, Refused, SendResult
from arawn_cli.delivery.outbox import drop_parked, retry_parked
from arawn_cli.delivery.sending import REFUSED_TRIES, REMOVE_GROUP
from arawn_cli.errors import ConfigurationError
from arawn_cli.events import Event
from arawn_cli.state import State, exclusive_lock
from arawn_cli.timestamps import DAY, SECOND
from tests.support.simulated_relay import (
    Clock,
    Relay,
    backlog,
    deliver,
    delivery,
    ids,
    locked_for_writing,
    parked,
    pressure,
    queued,
    refuse,
    relay,
)

__all__ = ["relay"]

pytestmark = pytest.mark.usefixtures("told")


def test_events_arrive_in_order_and_leave_the_outbox(tmp_path: Path, relay: Relay) -> None:
    run = deliver(tmp_path, relay, 1, 2, 3)
    assert relay.arrived == ids(1, 2, 3)
    assert run.stats.delivered == 3
    assert queued(tmp_path) == []


def test_only_wanted_types_are_stored(tmp_path: Path, relay: Relay) -> None:
    run = delivery(tmp_path / "state", relay)
    run.store(Event(type="disk_check", timestamp="", host="", root=None, dry_run=False))
    assert not (tmp_path / "state").exists()


def test_an_event_is_stored_before_anything_is_sent(tmp_path: Path, relay: Relay) -> None:
    run = delivery(tmp_path, relay)
    run.store(pressure(1))
    assert queued(tmp_path) == ids(1)
    assert relay.tried == []
    run.finish()


def test_a_dead_relay_keeps_events_for_the_next_run_in_order(tmp_path: Path, relay: Relay, caplog: pytest.LogCaptureFixture) -> None:
    relay.answer = lambda _events: Failed("connection refused")
    assert deliver(tmp_path, relay, 1, 2).stats.lost == 0
    assert "2 events in the outbox: connection refused" in caplog.text
    relay.answer = lambda _events: Delivered()
    deliver(tmp_path, relay, 3)
    assert relay.arrived == ids(1, 2, 3)


def test_each_drop_of_a_full_outbox_is_logged_and_counted(tmp_path: Path, relay: Relay, caplog: pytest.LogCaptureFixture) -> None:
    relay.answer = lambda _events: Failed("connection refused", retryable=False)
    run = deliver(tmp_path, relay, 1, 2, 3, 4, limit=2)
    assert run.stats.dropped == 2
    assert caplog.text.count("the outbox is full (2 events): dropped event-") == 2


def test_a_second_run_leaves_sending_to_the_first(tmp_path: Path, relay: Relay, caplog: pytest.LogCaptureFixture) -> None:
    with exclusive_lock(tmp_path) as ours:
        assert ours
        deliver(tmp_path, relay, 1)
    assert relay.tried == []
    assert "another run is sending them" in caplog.text
    assert queued(tmp_path) == ids(1)


def test_a_live_relay_gets_more_events_than_the_outbox_keeps(tmp_path: Path, relay: Relay) -> None:
    run = deliver(tmp_path, relay, 1, 2, limit=1)
    assert relay.arrived == ids(1, 2)
    assert (run.stats.dropped, run.stats.lost) == (0, 0)


def test_a_drop_of_this_run_is_a_loss_and_one_of_an_earlier_run_is_not(
    tmp_path: Path, relay: Relay, caplog: pytest.LogCaptureFixture
) -> None:
    relay.answer = lambda _events: Failed("connection refused", retryable=False)
    assert deliver(tmp_path, relay, 1, 2, limit=2).stats.lost == 0
    run = deliver(tmp_path, relay, 3, 4, limit=2)
    assert queued(tmp_path) == ids(3, 4)
    assert (run.stats.dropped, run.stats.lost) == (2, 0)
    assert "2 events dropped: the outbox is full (outbox_max_events = 2)" in caplog.text
    assert deliver(tmp_path, relay, 5, 6, 7, limit=2).stats.lost == 1


def test_a_backlog_goes_to_the_relay_that_it_was_for(tmp_path: Path, relay: Relay) -> None:
    relay.answer = lambda _events: Failed("connection refused", retryable=False)
    deliver(tmp_path, relay, 1)
    other = Relay(Clock())
    run = delivery(tmp_path, other, target="another")
    run.store(pressure(2))
    run.finish()
    run.outbox.state.close()
    assert other.arrived == ids(2)
    assert queued(tmp_path) == ids(1)


def test_a_signal_while_sending_keeps_the_rest(tmp_path: Path, relay: Relay, caplog: pytest.LogCaptureFixture) -> None:
    def answer(events: Sequence[OutgoingEvent]) -> SendResult:
        relay.clock.stopping = events[0].event_id == "event-2"
        return Delivered()

    relay.answer = answer
    assert deliver(tmp_path, relay, 1, 2, 3, 4).stats.lost == 0
    assert queued(tmp_path) == ids(3, 4)
    assert "2 events in the outbox: interrupted" in caplog.text


def test_of_a_long_queue_a_killed_run_repeats_few(tmp_path: Path, relay: Relay) -> None:
    relay.answer = lambda _events: Failed("connection refused", retryable=False)
    deliver(tmp_path, relay, *range(250), limit=1000)
    most = 0

    def answer(events: Sequence[OutgoingEvent]) -> SendResult:
        nonlocal most
        most = max(most, len(set(relay.arrived) & set(queued(tmp_path))))
        return Delivered()

    relay.answer = answer
    deliver(tmp_path, relay, 250, limit=1000)
    assert 0 < most < REMOVE_GROUP <= 20


@pytest.mark.parametrize(("pause", "tries"), [(5 * 60, 100), (3 * 3600, 9), (24 * 3600, 2), (30 * 24 * 3600, 2)])
@pytest.mark.parametrize("batch", [1, 10])
def test_an_event_that_is_refused_for_a_day_or_a_hundred_times_is_parked(
    tmp_path: Path, relay: Relay, pause: int, tries: int, batch: int, caplog: pytest.LogCaptureFixture
) -> None:
    """Between two refusals the relay is out of reach, and each run raises an event that it
    accepts."""
    relay.batch_size = batch
    for number in range(2 * tries):
        relay.answer = refuse(0) if number % 2 == 0 else lambda _events: Failed("connection refused", retryable=False)
        assert ("is not sent it again" in caplog.text) is (number > 2 * tries - 2)
        relay.clock.wall = number * pause * SECOND // 2
        deliver(tmp_path, relay, number)
    assert caplog.text.count("is not sent it again: 413 too large; arawn-cli doctor lists it") == 1
    relay.answer = refuse()
    deliver(tmp_path, relay)
    assert relay.arrived == ids(*range(1, 2 * tries))
    assert parked(tmp_path) == ids(0)


def test_an_event_for_a_relay_that_is_out_of_reach_is_never_parked(tmp_path: Path, relay: Relay) -> None:
    relay.answer = lambda _events: Failed("connection refused", retryable=False)
    for number in range(300):
        relay.clock.wall = number * DAY
        deliver(tmp_path, relay, number, limit=1000)
    assert parked(tmp_path) == []
    assert queued(tmp_path) == ids(*range(300))


@pytest.mark.parametrize("again", [True, False])
def test_parked_events_are_sent_again_or_dropped_on_request(tmp_path: Path, relay: Relay, again: bool) -> None:
    relay.answer = refuse(1, 2)
    for day in range(2):
        relay.clock.wall = day * DAY
        deliver(tmp_path, relay, *([1, 2, 3] if day == 0 else []))
    state = State(tmp_path, lambda: 0)
    assert (retry_parked(state) if again else drop_parked(state)) == 2
    state.close()
    assert parked(tmp_path) == []
    relay.answer = refuse()
    deliver(tmp_path, relay, 4)
    assert relay.arrived == (ids(3, 1, 2, 4) if again else ids(3, 4))


def test_a_full_outbox_drops_parked_events_first(tmp_path: Path, relay: Relay) -> None:
    relay.answer = refuse(1)
    for day in range(2):
        relay.clock.wall = day * DAY
        deliver(tmp_path, relay, *([1] if day == 0 else []))
    relay.answer = lambda _events: Failed("connection refused", retryable=False)
    deliver(tmp_path, relay, 2, 3, limit=2)
    assert (parked(tmp_path), queued(tmp_path)) == ([], ids(2, 3))


@pytest.mark.parametrize("batch", [1, 10])
def test_a_refused_event_blocks_no_later_one_and_is_tried_again(
    tmp_path: Path, relay: Relay, batch: int, caplog: pytest.LogCaptureFixture
) -> None:
    relay.batch_size = batch
    relay.answer = refuse(2)
    run = deliver(tmp_path, relay, 1, 2, 3)
    assert (run.stats.refused, run.stats.lost) == (1, 0)
    assert relay.arrived == ids(1, 3)
    assert queued(tmp_path) == ids(2)
    assert "refused event event-2 (disk_pressure scope-2 warning): 413 too large" in caplog.text
    assert "1 event in the outbox, 1 of them refused by the relay: 413 too large; the first is event-2" in caplog.text
    relay.answer = refuse()
    deliver(tmp_path, relay, 4)
    assert relay.arrived == ids(1, 3, 2, 4)


def test_the_same_refusal_of_many_events_is_logged_once(tmp_path: Path, relay: Relay, caplog: pytest.LogCaptureFixture) -> None:
    relay.answer = refuse(*range(9), answer="403 forbidden")
    deliver(tmp_path, relay, *range(9))
    assert caplog.text.count("the relay refused event") == 1
    assert "9 events in the outbox, 9 of them refused by the relay: 403 forbidden" in caplog.text


def test_old_refusals_cost_a_run_no_more_than_some_requests(tmp_path: Path, relay: Relay) -> None:
    count = REFUSED_TRIES + 20
    relay.answer = refuse(*range(count))
    deliver(tmp_path, relay, *range(count), limit=count + 1)
    relay.tried.clear()
    deliver(tmp_path, relay, count, limit=count + 1)
    assert len(relay.tried) == REFUSED_TRIES + 1
    assert relay.arrived == ids(count)


def test_refusals_that_cannot_be_recorded_are_logged_once_and_the_events_stay(
    tmp_path: Path, relay: Relay, caplog: pytest.LogCaptureFixture
) -> None:
    backlog(tmp_path, relay, 1, 2, 3)
    relay.answer = refuse(1, 2)
    caplog.set_level(logging.INFO)
    with locked_for_writing(tmp_path):
        stats = deliver(tmp_path, relay).stats
    assert "1 event delivered to the relay, 2 refused" in caplog.text
    assert (stats.refused, stats.delivered, stats.lost) == (2, 1, 0)
    assert caplog.text.count("refusals are not counted") == 1
    assert queued(tmp_path) == ids(1, 2, 3)


def test_a_relay_that_dies_while_a_refused_batch_is_tried_singly_keeps_the_rest(
    tmp_path: Path, relay: Relay, caplog: pytest.LogCaptureFixture
) -> None:
    def answer(events: Sequence[OutgoingEvent]) -> SendResult:
        if len(events) > 1:
            return Refused("413 too large")
        return Delivered() if events[0].event_id == "event-1" else Failed("connection refused", retryable=False)

    relay.batch_size, relay.answer = 10, answer
    assert deliver(tmp_path, relay, 1, 2, 3).stats.lost == 0
    assert queued(tmp_path) == ids(2, 3)
    assert "2 events in the outbox: connection refused; the first is event-2" in caplog.text


def test_when_the_relay_accepts_refused_events_everything_arrives_in_order_in_one_run(tmp_path: Path, relay: Relay) -> None:
    count = REFUSED_TRIES + 50
    relay.answer = refuse(*range(count), answer="403 forbidden")
    deliver(tmp_path, relay, *range(count), limit=1000)
    relay.answer = refuse()
    deliver(tmp_path, relay, count, limit=1000)
    assert relay.arrived == ids(*range(count + 1))


def test_the_client_is_made_only_if_there_is_an_event_to_send(tmp_path: Path, relay: Relay) -> None:
    made: list[Relay] = []

    def make() -> Relay:
        made.append(relay)
        return relay

    run = delivery(tmp_path, relay)
    run.make_client = make
    run.finish()
    assert made == []
    run.store(pressure(1))
    run.finish()
    run.outbox.state.close()
    assert (made, relay.closed) == ([relay], 1)


def test_a_client_that_cannot_be_made_keeps_the_events(tmp_path: Path, relay: Relay, caplog: pytest.LogCaptureFixture) -> None:
    def fail() -> Relay:
        raise ConfigurationError("the CA file is gone")

    run = delivery(tmp_path, relay)
    run.make_client = fail
    run.store(pressure(1))
    assert run.finish().lost == 0
    run.outbox.state.close()
    assert "1 event in the outbox: the CA file is gone" in caplog.text
    assert queued(tmp_path) == ids(1)


def test_storing_an_event_imports_no_client() -> None:
    code = "import sys, arawn_cli.delivery.sending; sys.exit(any(name in sys.modules for name in ('http.client', 'websockets', 'ssl')))"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_events_of_a_transaction_are_sent_in_their_order_and_none_of_one_that_fails(tmp_path: Path, relay: Relay) -> None:
    run = delivery(tmp_path, relay)
    run.store(pressure(1))
    with contextlib.suppress(ZeroDivisionError), run.outbox.state.transaction() as connection:
        run.add(connection, [pressure(2)])
        raise ZeroDivisionError
    with run.outbox.state.transaction() as connection:
        run.add(connection, [pressure(3), Event(type="disk_check", timestamp="", host="", root=None, dry_run=False), pressure(4)])
    run.store(pressure(5))
    run.finish()
    run.outbox.state.close()
    assert relay.arrived == ids(1, 3, 4, 5)
