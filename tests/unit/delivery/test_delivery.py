"""Delivery from the outbox to a simulated relay: order, what waits, what is dropped, and who delivers."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest

from arawn_cli.delivery.message import Answer, Delivered, Parcel, Undelivered
from arawn_cli.delivery.outbox import Outbox
from arawn_cli.delivery.sending import REMOVED_TOGETHER, Delivery, Terms
from arawn_cli.events import Event
from arawn_cli.state import State, exclusive_lock
from tests.support.simulated_relay import Clock, Relay, deliver, delivery, ids, pressure, relay, waiting

__all__ = ["relay"]

pytestmark = pytest.mark.usefixtures("told")


def test_events_arrive_in_order_and_are_forgotten(tmp_path: Path, relay: Relay) -> None:
    run = deliver(tmp_path, relay, 1, 2, 3)
    assert relay.arrived == ids(1, 2, 3)
    assert run.tally.delivered == 3
    assert waiting(tmp_path) == []


def test_only_wanted_types_are_stored(tmp_path: Path, relay: Relay) -> None:
    run = delivery(tmp_path / "state", relay)
    run.emit(Event(type="disk_check", timestamp="", host="", root=None, dry_run=False))
    assert not (tmp_path / "state").exists()


def test_an_event_is_stored_before_anything_is_sent(tmp_path: Path, relay: Relay) -> None:
    run = delivery(tmp_path, relay)
    run.emit(pressure(1))
    assert waiting(tmp_path) == ids(1)
    assert relay.tried == []
    run.finish()


def test_a_dead_relay_keeps_events_for_the_next_run_in_order(tmp_path: Path, relay: Relay, caplog: pytest.LogCaptureFixture) -> None:
    relay.answer = lambda _parcels: Undelivered("nobody listens")
    assert deliver(tmp_path, relay, 1, 2).tally.lost == 0
    assert "2 events wait in the outbox: nobody listens" in caplog.text
    relay.answer = lambda _parcels: Delivered()
    deliver(tmp_path, relay, 3)
    assert relay.arrived == ids(1, 2, 3)


def test_each_drop_of_a_full_outbox_is_logged_and_counted(tmp_path: Path, relay: Relay, caplog: pytest.LogCaptureFixture) -> None:
    relay.answer = lambda _parcels: Undelivered("nobody listens", hopeless=True)
    run = deliver(tmp_path, relay, 1, 2, 3, 4, limit=2)
    assert run.tally.dropped == 2
    assert caplog.text.count("the outbox is full (2 events): dropped event-") == 2


def test_a_second_run_leaves_delivering_to_the_first(tmp_path: Path, relay: Relay, caplog: pytest.LogCaptureFixture) -> None:
    with exclusive_lock(tmp_path) as ours:
        assert ours
        deliver(tmp_path, relay, 1)
    assert relay.tried == []
    assert "another run is delivering" in caplog.text
    assert waiting(tmp_path) == ids(1)


def test_a_live_relay_gets_more_events_than_the_outbox_keeps(tmp_path: Path, relay: Relay) -> None:
    run = deliver(tmp_path, relay, 1, 2, limit=1)
    assert relay.arrived == ids(1, 2)
    assert (run.tally.dropped, run.tally.lost) == (0, 0)


def test_a_drop_of_this_run_is_a_loss_and_one_of_an_earlier_run_is_not(
    tmp_path: Path, relay: Relay, caplog: pytest.LogCaptureFixture
) -> None:
    relay.answer = lambda _parcels: Undelivered("nobody listens", hopeless=True)
    assert deliver(tmp_path, relay, 1, 2, limit=2).tally.lost == 0
    run = deliver(tmp_path, relay, 3, 4, limit=2)
    assert waiting(tmp_path) == ids(3, 4)
    assert (run.tally.dropped, run.tally.lost) == (2, 0)
    assert "2 events were dropped: the outbox is full (outbox_max_events = 2)" in caplog.text
    assert deliver(tmp_path, relay, 5, 6, 7, limit=2).tally.lost == 1


def test_a_backlog_goes_to_the_relay_that_it_was_for(tmp_path: Path, relay: Relay) -> None:
    relay.answer = lambda _parcels: Undelivered("nobody listens", hopeless=True)
    deliver(tmp_path, relay, 1)
    other = Relay(Clock())
    run = Delivery(other, Outbox(State(tmp_path, lambda: 0), 100, target="another"), Terms(("disk_pressure",), 5, 30), other.clock.pace())
    run.emit(pressure(2))
    run.finish()
    run.outbox.state.close()
    assert other.arrived == ids(2)
    assert waiting(tmp_path) == ids(1)


def test_a_signal_in_a_drain_keeps_the_rest_and_says_so(tmp_path: Path, relay: Relay, caplog: pytest.LogCaptureFixture) -> None:
    def answer(parcels: Sequence[Parcel]) -> Answer:
        relay.clock.stopping = parcels[0].event_id == "event-2"
        return Delivered()

    relay.answer = answer
    assert deliver(tmp_path, relay, 1, 2, 3, 4).tally.lost == 0
    assert waiting(tmp_path) == ids(3, 4)
    assert "2 events wait in the outbox: interrupted" in caplog.text


def test_of_a_long_queue_a_killed_run_repeats_few(tmp_path: Path, relay: Relay) -> None:
    relay.answer = lambda _parcels: Undelivered("nobody listens", hopeless=True)
    deliver(tmp_path, relay, *range(250), limit=1000)
    most = 0

    def answer(parcels: Sequence[Parcel]) -> Answer:
        nonlocal most
        most = max(most, len(set(relay.arrived) & set(waiting(tmp_path))))
        return Delivered()

    relay.answer = answer
    deliver(tmp_path, relay, 250, limit=1000)
    assert 0 < most < REMOVED_TOGETHER <= 20


def test_tries_in_vain_are_counted(tmp_path: Path, relay: Relay) -> None:
    relay.answer = lambda _parcels: Undelivered("nobody listens", hopeless=True)
    for _ in range(3):
        run = deliver(tmp_path, relay, *([1] if not (tmp_path / "state.db").exists() else []))
    assert [event.attempts for event in run.outbox.next(0, 10)] == [3]
    run.outbox.state.close()
