"""The outbox: its limit, the order of dropping, and the cost of an event."""

from __future__ import annotations

from pathlib import Path

import pytest

from arawn_cli.delivery.message import OutgoingEvent
from arawn_cli.delivery.outbox import COUNT_FOR_RELAYS, NOTIFY, Outbox
from arawn_cli.state import State
from tests.support.simulated_relay import queued


def event(number: int, scope: str = "", level: str = "") -> OutgoingEvent:
    return OutgoingEvent(f"event-{number}", "disk_pressure", "2026-01-01T00:00:00Z", "//host/arawn-cli", b"{}", scope, level)


@pytest.mark.parametrize(
    ("order", "kept"),
    [
        # Repeats of a level go first, oldest first.
        ([("a", "warning"), ("a", "warning"), ("b", "warning"), ("a", "warning")], [0, 2, 3]),
        # Then events that are no pressure.
        ([("", ""), ("a", "warning"), ("b", "warning"), ("c", "warning")], [1, 2, 3]),
        # Transitions go last, oldest first; a new repeat goes before an old transition.
        ([("a", "warning"), ("a", "critical"), ("a", "warning"), ("a", "ok")], [1, 2, 3]),
        ([("a", "warning"), ("b", "warning"), ("c", "warning"), ("a", "warning")], [0, 1, 2]),
    ],
)
def test_a_full_outbox_drops_the_least_important_events(tmp_path: Path, order: list[tuple[str, str]], kept: list[int]) -> None:
    state = State(tmp_path, lambda: 0)
    outbox = Outbox(state, 3)
    for number, (scope, level) in enumerate(order):
        assert outbox.append(event(number, scope, level)) == []
    dropped = [old.event_id for old in outbox.trim()]
    state.close()
    assert queued(tmp_path) == [f"event-{number}" for number in kept]
    assert dropped == [f"event-{number}" for number in range(4) if number not in kept]


def test_a_run_may_go_to_twice_the_limit_and_no_further(tmp_path: Path) -> None:
    state = State(tmp_path, lambda: 0)
    dropped = [len(Outbox(state, 3).append(event(number))) for number in range(9)]
    assert dropped == [0] * 6 + [1] * 3
    assert len(Outbox(state, 3).trim()) == 3
    state.close()
    assert queued(tmp_path) == ["event-6", "event-7", "event-8"]


def test_a_smaller_limit_applies_at_the_end_of_a_run(tmp_path: Path) -> None:
    state = State(tmp_path, lambda: 0)
    for number in range(9):
        Outbox(state, 9).append(event(number))
    Outbox(state, 9).append(event(9))
    assert len(Outbox(state, 2).trim()) == 8
    state.close()
    assert queued(tmp_path) == ["event-8", "event-9"]


def test_events_and_notifications_do_not_displace_each_other(tmp_path: Path) -> None:
    state = State(tmp_path, lambda: 0)
    relay, notify = Outbox(state, 2), Outbox(state, 2, f"{NOTIFY}1")
    for number in range(4):
        assert relay.append(event(number)) == []
    for number in range(10, 14):
        assert notify.append(event(number)) == []
    assert [old.event_id for old in notify.trim()] == ["event-10", "event-11"]
    assert [old.event_id for old in relay.trim()] == ["event-0", "event-1"]
    assert state.select(COUNT_FOR_RELAYS, ()) == [(2,)]
    state.close()
    assert queued(tmp_path) == ["event-2", "event-3"]


def test_a_level_that_is_queued_for_another_root_or_relay_is_not_a_repeat(tmp_path: Path) -> None:
    state = State(tmp_path, lambda: 0)
    for number, (target, root) in enumerate((("", "a"), ("", "b"), ("x", "a"), ("", "a"))):
        Outbox(state, 10, target, root).append(event(number, "total", "warning"))
    priorities = [row[0] for row in state.select("SELECT drop_priority FROM outbox ORDER BY sequence", ())]
    state.close()
    assert priorities == [2, 2, 2, 0]


def test_a_run_counts_the_events_once(tmp_path: Path) -> None:
    state = State(tmp_path, lambda: 0)
    outbox = Outbox(state, 1000)
    statements: list[str] = []
    with state.transaction() as connection:
        connection.set_trace_callback(statements.append)
    for number in range(50):
        outbox.append(event(number))
    with state.transaction() as connection:
        outbox.add(connection, [event(number) for number in range(50, 100)])
    outbox.append(event(100))
    state.close()
    assert sum("count(*)" in statement for statement in statements) == 1


def test_events_that_another_process_removed_make_room(tmp_path: Path) -> None:
    """The running number is too high then, and the rows are counted before any is dropped."""
    state, other = State(tmp_path, lambda: 0), State(tmp_path, lambda: 0)
    outbox, elsewhere = Outbox(state, 2), Outbox(other, 2)
    for number in range(4):
        outbox.append(event(number))
    elsewhere.remove(elsewhere.next(0, 4))
    assert [outbox.append(event(number)) for number in range(4, 8)] == [[]] * 4
    assert [old.event_id for old in outbox.append(event(8))] == ["event-4"]
    state.close()
    other.close()
