"""Sending with a state file that cannot be made, read, written or trusted."""

from __future__ import annotations

import contextlib
import os
import sqlite3
import time
from pathlib import Path

import pytest

from arawn_cli.delivery.message import Delivered, Failed, OutgoingEvent
from arawn_cli.delivery.outbox import Outbox
from arawn_cli.delivery.sending import DeliveryStats
from arawn_cli.errors import StateUnavailableError
from tests.conftest import needs_root
from tests.support.simulated_relay import Relay, backlog, deliver, delivery, ids, locked_for_writing, pressure, queued, refuse, relay

__all__ = ["relay"]

pytestmark = pytest.mark.usefixtures("told")


class TestWithoutState:
    """The state directory cannot be made."""

    @pytest.fixture
    def nowhere(self, tmp_path: Path) -> Path:
        (tmp_path / "file").write_text("")
        return tmp_path / "file" / "state"

    def test_events_go_out_directly(self, nowhere: Path, relay: Relay, caplog: pytest.LogCaptureFixture) -> None:
        run = deliver(nowhere, relay, 1, 2)
        assert relay.arrived == ids(1, 2)
        assert run.stats.lost == 0
        assert caplog.text.count("events are sent without being stored first") == 1

    def test_undelivered_events_are_lost_and_named(self, nowhere: Path, relay: Relay, caplog: pytest.LogCaptureFixture) -> None:
        relay.answer = lambda _events: Failed("connection refused")
        assert deliver(nowhere, relay, 1, 2).stats.lost == 2
        for number in (1, 2):
            event = f"lost event event-{number} (disk_pressure scope-{number} warning)"
            assert f"{event}, neither delivered nor stored: connection refused; the state in {nowhere} cannot be used: Not" in caplog.text

    @pytest.mark.parametrize("batch", [1, 10])
    def test_a_refused_event_is_lost_and_the_rest_arrives(self, nowhere: Path, relay: Relay, batch: int) -> None:
        relay.batch_size = batch
        relay.answer = refuse(2)
        assert deliver(nowhere, relay, 1, 2, 3).stats.lost == 1
        assert relay.arrived == ids(1, 3)

    def test_memory_holds_no_more_than_the_outbox_would_during_a_run(self, nowhere: Path, relay: Relay) -> None:
        assert deliver(nowhere, relay, 1, 2, 3, 4, 5, limit=2).stats == DeliveryStats(delivered=4, dropped=1, lost=1)
        assert relay.arrived == ids(2, 3, 4, 5)

    def test_a_refused_batch_is_sent_singly(self, nowhere: Path, relay: Relay) -> None:
        relay.batch_size = 10
        relay.answer = refuse(1, 3)
        run = deliver(nowhere, relay, 1, 2, 3, 4)
        assert run.stats == DeliveryStats(delivered=2, refused=2, lost=2)
        assert relay.arrived == ids(2, 4)

    def test_no_event_is_stored_behind_one_that_could_not_be(self, nowhere: Path, relay: Relay) -> None:
        run = delivery(nowhere, relay)
        run.store(pressure(1))
        nowhere.parent.unlink()
        with pytest.raises(StateUnavailableError, match="earlier events"), run.outbox.state.transaction() as connection:
            run.add(connection, [pressure(2)])
        run.outbox.state.close()
        assert queued(nowhere) == []

    def test_a_signal_before_the_first_try_loses_what_is_not_stored_and_names_it(
        self, nowhere: Path, relay: Relay, caplog: pytest.LogCaptureFixture
    ) -> None:
        run = delivery(nowhere, relay)
        run.store(pressure(1))
        relay.clock.stopping = True
        assert run.finish().lost == 1
        assert relay.tried == []
        assert "lost event event-1 (disk_pressure scope-1 warning), neither delivered nor stored" in caplog.text

    def test_events_are_stored_after_all_when_there_is_room_again(self, tmp_path: Path, relay: Relay) -> None:
        (tmp_path / "state").write_text("in the way")
        relay.answer = lambda _events: Failed("connection refused")
        run = delivery(tmp_path / "state", relay)
        run.store(pressure(1))
        (tmp_path / "state").unlink()
        assert run.finish().lost == 0
        assert queued(tmp_path / "state") == ids(1)


def test_a_state_that_breaks_while_delivering_loses_nothing(tmp_path: Path, relay: Relay, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_arguments: object) -> None:
        raise StateUnavailableError("disk is full")

    with monkeypatch.context() as patched:
        patched.setattr(Outbox, "remove", fail)
        assert deliver(tmp_path, relay, 1).stats.lost == 0
    assert queued(tmp_path) == ids(1)


def test_a_state_that_can_only_be_read_is_delivered_again_by_the_next_run(
    tmp_path: Path, relay: Relay, caplog: pytest.LogCaptureFixture
) -> None:
    backlog(tmp_path, relay, 1, 2)
    with locked_for_writing(tmp_path):
        assert deliver(tmp_path, relay).stats.delivered == 2
    assert "database is locked" in caplog.text
    assert caplog.text.count("the next run sends delivered events again, with the same ids") == 1
    deliver(tmp_path, relay)
    assert relay.arrived == ids(1, 2, 1, 2)
    assert queued(tmp_path) == []


def test_an_event_in_memory_that_arrived_is_not_lost_although_stored_ones_cannot_be_removed(tmp_path: Path, relay: Relay) -> None:
    backlog(tmp_path, relay, 1)
    with locked_for_writing(tmp_path):
        run = deliver(tmp_path, relay, 2)
    assert run.stats == DeliveryStats(delivered=2)
    assert relay.arrived == ids(1, 2)
    assert queued(tmp_path) == ids(1)


@pytest.mark.parametrize("how", ["open", "linked", pytest.param("owned", marks=needs_root)])
def test_what_others_can_have_planted_in_the_outbox_is_not_sent(
    tmp_path: Path, relay: Relay, how: str, caplog: pytest.LogCaptureFixture
) -> None:
    """With our token, to our relay."""
    state, file = tmp_path / "state", tmp_path / "state" / "state.db"
    backlog(state, relay, 1)
    if how == "open":
        state.chmod(0o777)
    elif how == "linked":
        file.symlink_to(file.rename(tmp_path / "planted"))
    else:
        os.chown(file, 65534, 65534)
    stats = deliver(state, relay, 2).stats
    assert (relay.arrived, stats.lost) == (ids(2), 0)
    assert ("renamed to" if how == "linked" else "stored events are sent by the next run") in caplog.text


def storing_only(monkeypatch: pytest.MonkeyPatch, *allowed: int) -> None:
    """The state takes so many of the next events: True for one that it takes."""
    real, calls = Outbox.append, iter(allowed)

    def append(self: Outbox, event: OutgoingEvent, answer: str | None = None) -> list[OutgoingEvent]:
        if self.state.directory != Path(":memory:") and not next(calls, 1):
            raise StateUnavailableError("disk is full")
        return real(self, event, answer)

    monkeypatch.setattr(Outbox, "append", append)


def test_once_an_event_is_not_stored_the_later_ones_stay_in_memory_too(
    tmp_path: Path, relay: Relay, monkeypatch: pytest.MonkeyPatch
) -> None:
    storing_only(monkeypatch, 1, 0, 1, 1)
    run = deliver(tmp_path, relay, 1, 2, 3, 4)
    assert relay.arrived == ids(1, 2, 3, 4)
    assert run.stats.lost == 0
    assert queued(tmp_path) == []


def test_undelivered_events_in_memory_are_stored_at_the_end_in_order(tmp_path: Path, relay: Relay, monkeypatch: pytest.MonkeyPatch) -> None:
    relay.answer = lambda _events: Failed("connection refused", retryable=False)
    storing_only(monkeypatch, 1, 0, 1, 1)
    assert deliver(tmp_path, relay, 1, 2, 3).stats.lost == 0
    assert queued(tmp_path) == ids(1, 2, 3)
    relay.answer = lambda _events: Delivered()
    deliver(tmp_path, relay, 4)
    assert relay.arrived == ids(1, 2, 3, 4)


def test_a_busy_state_is_waited_for_once(tmp_path: Path, relay: Relay) -> None:
    deliver(tmp_path, relay, 0)
    with contextlib.closing(sqlite3.connect(tmp_path / "state.db", isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        began = time.monotonic()
        run = deliver(tmp_path, relay, *range(1, 11))
        assert time.monotonic() - began < 10, "ten events, and two seconds for one"
    assert relay.arrived == ids(*range(11))
    assert run.stats.lost == 0


def test_a_refused_event_in_memory_is_stored_at_the_end_with_its_answer(
    tmp_path: Path, relay: Relay, monkeypatch: pytest.MonkeyPatch
) -> None:
    relay.answer = refuse(1)
    storing_only(monkeypatch, 0, 1)
    run = deliver(tmp_path, relay, 1, 2)
    assert run.stats == DeliveryStats(delivered=1, refused=1)
    assert [(left.event.event_id, left.answer) for left in run.outbox.next(0, 10)] == [("event-1", "413 too large")]
    run.outbox.state.close()
