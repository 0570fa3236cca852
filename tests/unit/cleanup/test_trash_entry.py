"""Names of trash entries: session, time and state, and names that this tool did not create."""

from __future__ import annotations

import pytest

from arawn_cli.cleanup.trash_entry import TrashState, confirmed_name, deleting_name, parse_entry, pending_name


@pytest.mark.parametrize("prefix", ["", ".trash."])
def test_a_name_holds_session_time_and_state(prefix: str) -> None:
    second = 1_700_000_000_000_000_000
    pending = pending_name("a-b_c", second, prefix=prefix)
    confirmed = confirmed_name(pending)
    states = {
        pending: TrashState.PENDING,
        confirmed: TrashState.CONFIRMED,
        deleting_name(pending): TrashState.DELETING,
        deleting_name(confirmed): TrashState.DELETING,
        deleting_name(deleting_name(confirmed)): TrashState.DELETING,
    }
    for name, state in states.items():
        entry = parse_entry(("scratch", ".trash"), name)
        assert entry is not None
        assert (entry.session, entry.removed_at, entry.state) == ("a-b_c", second, state)
        assert entry.path == ("scratch", ".trash", name)


@pytest.mark.parametrize(
    ("name", "state"),
    [
        ("held.a.20260101T000000Z.01234567", TrashState.PENDING),
        ("a.20260101T000000Z.01234567", TrashState.CONFIRMED),
        ("gone.a.20260101T000000Z.01234567", TrashState.DELETING),
        (".trash.held.a.20260101T000000Z.01234567", TrashState.PENDING),
    ],
)
def test_names_that_earlier_versions_wrote_are_read(name: str, state: TrashState) -> None:
    entry = parse_entry((), name)
    assert entry is not None
    assert (entry.session, entry.state) == ("a", state)


def test_a_name_too_long_for_the_trash_is_cut_and_marked() -> None:
    name = pending_name("x" * 255, 0)
    assert len(name) <= 255
    entry = parse_entry((), name)
    assert entry is not None
    assert entry.session.endswith("+")
    assert entry.state is TrashState.CONFIRMED


@pytest.mark.parametrize(
    "name", ["a", ".trash", "a.b.c", "a.20260101T000000Z.xyz", "a.99999999T999999Z.01234567", "held.held.a.20260101T000000Z.01234567"]
)
def test_other_names_are_ignored(name: str) -> None:
    assert parse_entry((), name) is None
