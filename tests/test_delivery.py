"""Delivery with a relay, a clock and a chance of the test's own: nothing here waits."""

from __future__ import annotations

import contextlib
import logging
import os
import sqlite3
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from arawn_cli.bounded import OverdueError, Worker
from arawn_cli.courier import Courier, Pace
from arawn_cli.delivery import Delivery, Terms
from arawn_cli.disk_events import DiskPressure
from arawn_cli.drain import REFUSED_TRIES, REMOVED_TOGETHER
from arawn_cli.events import Event, Level
from arawn_cli.outbox import Outbox
from arawn_cli.parcels import Answer, Delivered, Parcel, Refused, Undelivered
from arawn_cli.state import State
from arawn_cli.state_file import StateUnavailableError, exclusive
from arawn_cli.vocabulary import Unit
from tests.conftest import needs_root


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


@pytest.mark.parametrize("batch", [1, 10])
def test_a_refused_event_blocks_none_behind_it_and_is_asked_about_again(
    tmp_path: Path, relay: Relay, batch: int, caplog: pytest.LogCaptureFixture
) -> None:
    relay.batch = batch
    relay.answer = refuse(2)
    run = deliver(tmp_path, relay, 1, 2, 3)
    assert (run.tally.refused, run.tally.lost) == (1, 0)
    assert relay.arrived == ids(1, 3)
    assert waiting(tmp_path) == ids(2)
    assert "refuses event event-2 (disk_pressure scope-2 warning): 413 too large" in caplog.text
    assert "1 event waits in the outbox, 1 of them refused by the relay: 413 too large; the first is event-2" in caplog.text
    relay.answer = refuse()
    deliver(tmp_path, relay, 4)
    assert relay.arrived == ids(1, 3, 2, 4)


def test_the_same_refusal_of_many_events_is_told_once(tmp_path: Path, relay: Relay, caplog: pytest.LogCaptureFixture) -> None:
    relay.answer = refuse(*range(9), answer="401 bad token")
    deliver(tmp_path, relay, *range(9))
    assert caplog.text.count("the relay refuses event") == 1
    assert "9 events wait in the outbox, 9 of them refused by the relay: 401 bad token" in caplog.text


def test_old_refusals_cost_a_run_no_more_than_some_requests(tmp_path: Path, relay: Relay) -> None:
    count = REFUSED_TRIES + 20
    relay.answer = refuse(*range(count))
    deliver(tmp_path, relay, *range(count), limit=count + 1)
    relay.tried.clear()
    deliver(tmp_path, relay, count, limit=count + 1)
    assert len(relay.tried) == REFUSED_TRIES + 1
    assert relay.arrived == ids(count)


def test_each_drop_of_a_full_outbox_is_logged_and_counted(tmp_path: Path, relay: Relay, caplog: pytest.LogCaptureFixture) -> None:
    relay.answer = lambda _parcels: Undelivered("nobody listens", hopeless=True)
    run = deliver(tmp_path, relay, 1, 2, 3, 4, limit=2)
    assert run.tally.dropped == 2
    assert caplog.text.count("the outbox is full (2 events): dropped event-") == 2


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


class TestWithoutState:
    """The state directory cannot be made."""

    @pytest.fixture
    def nowhere(self, tmp_path: Path) -> Path:
        (tmp_path / "file").write_text("")
        return tmp_path / "file" / "state"

    def test_events_go_out_directly(self, nowhere: Path, relay: Relay, caplog: pytest.LogCaptureFixture) -> None:
        run = deliver(nowhere, relay, 1, 2)
        assert relay.arrived == ids(1, 2)
        assert run.tally.lost == 0
        assert caplog.text.count("events go to the relay directly") == 1

    def test_what_a_dead_relay_does_not_take_is_lost_and_named(self, nowhere: Path, relay: Relay, caplog: pytest.LogCaptureFixture) -> None:
        relay.answer = lambda _parcels: Undelivered("nobody listens")
        assert deliver(nowhere, relay, 1, 2).tally.lost == 2
        for number in (1, 2):
            assert f"lost event event-{number} (disk_pressure scope-{number} warning), neither delivered nor stored" in caplog.text

    @pytest.mark.parametrize("batch", [1, 10])
    def test_what_is_refused_is_lost_and_the_rest_arrives(self, nowhere: Path, relay: Relay, batch: int) -> None:
        relay.batch = batch
        relay.answer = refuse(2)
        assert deliver(nowhere, relay, 1, 2, 3).tally.lost == 1
        assert relay.arrived == ids(1, 3)

    def test_no_more_is_kept_at_hand_than_the_outbox_would_hold(self, nowhere: Path, relay: Relay) -> None:
        assert deliver(nowhere, relay, 1, 2, 3, limit=2).tally.lost == 1
        assert relay.arrived == ids(1, 2)

    def test_no_change_is_made_behind_events_that_could_not_be_stored(self, nowhere: Path, relay: Relay) -> None:
        asked: list[sqlite3.Connection] = []

        def change(connection: sqlite3.Connection) -> Sequence[Event]:
            asked.append(connection)
            return []

        run = delivery(nowhere, relay)
        run.emit(pressure(1))
        assert run.commit(change) is None
        assert asked == []

    def test_a_signal_before_the_first_try_loses_what_is_not_stored_and_names_it(
        self, nowhere: Path, relay: Relay, caplog: pytest.LogCaptureFixture
    ) -> None:
        run = delivery(nowhere, relay)
        run.emit(pressure(1))
        relay.clock.stopping = True
        assert run.finish().lost == 1
        assert relay.tried == []
        assert "lost event event-1 (disk_pressure scope-1 warning), neither delivered nor stored" in caplog.text

    def test_events_are_stored_after_all_when_there_is_room_again(self, tmp_path: Path, relay: Relay) -> None:
        (tmp_path / "state").write_text("in the way")
        relay.answer = lambda _parcels: Undelivered("nobody listens")
        run = delivery(tmp_path / "state", relay)
        run.emit(pressure(1))
        (tmp_path / "state").unlink()
        assert run.finish().lost == 0
        assert waiting(tmp_path / "state") == ids(1)


def test_a_state_that_breaks_while_delivering_loses_nothing(tmp_path: Path, relay: Relay, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_arguments: object) -> None:
        raise StateUnavailableError("disk is full")

    with monkeypatch.context() as patched:
        patched.setattr(Outbox, "remove", fail)
        assert deliver(tmp_path, relay, 1).tally.lost == 0
    assert waiting(tmp_path) == ids(1)


def test_a_state_that_can_only_be_read_is_delivered_again_by_the_next_run(
    tmp_path: Path, relay: Relay, caplog: pytest.LogCaptureFixture
) -> None:
    backlog(tmp_path, relay, 1, 2)
    with of_a_newer_version(tmp_path):
        assert deliver(tmp_path, relay).tally.delivered == 2
    assert "the state file is of a newer version" in caplog.text
    assert "what is stored may not outlive a power cut" in caplog.text
    assert caplog.text.count("what is delivered now is delivered again by the next run, with the same ids") == 1
    deliver(tmp_path, relay)
    assert relay.arrived == ids(1, 2, 1, 2)
    assert waiting(tmp_path) == []


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
    tally = deliver(state, relay, 2).tally
    assert (relay.arrived, tally.lost) == (ids(2), 0)
    assert "what waits in the outbox is tried again by the next run" in caplog.text


def test_refusals_that_cannot_be_noted_are_told_once_and_the_events_wait(
    tmp_path: Path, relay: Relay, caplog: pytest.LogCaptureFixture
) -> None:
    backlog(tmp_path, relay, 1, 2, 3)
    relay.answer = refuse(1, 2)
    caplog.set_level(logging.INFO)
    with of_a_newer_version(tmp_path):
        tally = deliver(tmp_path, relay).tally
    assert "1 event was delivered, and 2 refused by the relay" in caplog.text
    assert (tally.refused, tally.delivered, tally.lost) == (2, 1, 0)
    assert caplog.text.count("how often events were tried is not noted") == 1
    assert waiting(tmp_path) == ids(1, 2, 3)


def test_a_state_that_cannot_even_be_read_keeps_no_event_from_a_live_relay(
    tmp_path: Path, relay: Relay, caplog: pytest.LogCaptureFixture
) -> None:
    backlog(tmp_path, relay, 1)
    (tmp_path / "state.db").rename(tmp_path / "moved")
    (tmp_path / "state.db").mkdir()
    assert deliver(tmp_path, relay, 2).tally.lost == 0
    assert relay.arrived == ids(2)
    assert "what waits in the outbox is tried again by the next run" in caplog.text
    (tmp_path / "state.db").rmdir()
    (tmp_path / "moved").rename(tmp_path / "state.db")
    deliver(tmp_path, relay)
    assert relay.arrived == ids(2, 1)


def test_a_relay_that_dies_while_a_refused_batch_is_tried_singly_keeps_the_rest(
    tmp_path: Path, relay: Relay, caplog: pytest.LogCaptureFixture
) -> None:
    def answer(parcels: Sequence[Parcel]) -> Answer:
        if len(parcels) > 1:
            return Refused("413 too large")
        return Delivered() if parcels[0].event_id == "event-1" else Undelivered("nobody listens", hopeless=True)

    relay.batch, relay.answer = 10, answer
    assert deliver(tmp_path, relay, 1, 2, 3).tally.lost == 0
    assert waiting(tmp_path) == ids(2, 3)
    assert "2 events wait in the outbox: nobody listens; the first is event-2" in caplog.text


def test_a_second_run_leaves_delivering_to_the_first(tmp_path: Path, relay: Relay, caplog: pytest.LogCaptureFixture) -> None:
    with exclusive(tmp_path) as ours:
        assert ours
        deliver(tmp_path, relay, 1)
    assert relay.tried == []
    assert "another run is delivering" in caplog.text
    assert waiting(tmp_path) == ids(1)


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


def storing_only(monkeypatch: pytest.MonkeyPatch, *allowed: int) -> None:
    """The state takes so many of the next events: True for one that it takes."""
    real, calls = Outbox.add, iter(allowed)

    def add(self: Outbox, parcel: Parcel, answer: str | None = None) -> list[Parcel]:
        if not next(calls, 1):
            raise StateUnavailableError("disk is full")
        return real(self, parcel, answer)

    monkeypatch.setattr(Outbox, "add", add)


def test_once_an_event_is_not_stored_the_later_ones_stay_behind_it(tmp_path: Path, relay: Relay, monkeypatch: pytest.MonkeyPatch) -> None:
    storing_only(monkeypatch, 1, 0, 1, 1)
    run = deliver(tmp_path, relay, 1, 2, 3, 4)
    assert relay.arrived == ids(1, 2, 3, 4)
    assert run.tally.lost == 0
    assert waiting(tmp_path) == []


def test_what_was_not_stored_and_not_delivered_is_stored_at_the_end_in_order(
    tmp_path: Path, relay: Relay, monkeypatch: pytest.MonkeyPatch
) -> None:
    relay.answer = lambda _parcels: Undelivered("nobody listens", hopeless=True)
    storing_only(monkeypatch, 1, 0, 1, 1)
    assert deliver(tmp_path, relay, 1, 2, 3).tally.lost == 0
    assert waiting(tmp_path) == ids(1, 2, 3)
    relay.answer = lambda _parcels: Delivered()
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
    assert run.tally.lost == 0


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


def test_after_a_mended_token_everything_arrives_in_order_in_one_run(tmp_path: Path, relay: Relay) -> None:
    count = REFUSED_TRIES + 50
    relay.answer = refuse(*range(count), answer="401 bad token")
    deliver(tmp_path, relay, *range(count), limit=1000)
    relay.answer = refuse()
    deliver(tmp_path, relay, count, limit=1000)
    assert relay.arrived == ids(*range(count + 1))


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


@pytest.fixture(autouse=True)
def heard(caplog: pytest.LogCaptureFixture) -> None:
    """The package's records, which a command in the same process may have turned away from the root."""
    logging.getLogger("arawn_cli").propagate = True
    caplog.set_level(logging.INFO, "arawn_cli")
