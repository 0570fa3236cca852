"""Names of trash entries: session, time and state, and names that this tool did not create."""

from __future__ import annotations

from itertools import product

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from arawn_cli.cleanup.trash_entry import (
    Exchanged,
    TrashState,
    confirmed_name,
    deleting_name,
    exchanged_name,
    is_trash,
    parse_entry,
    pending_name,
)
from arawn_cli.names import is_valid_id
from arawn_cli.timestamps import DAY

IDS = st.one_of(
    st.sampled_from(["held", "gone", "trash", "held-", "gone_", "20260101T000000Z", "01234567"]),
    st.from_regex(r"[A-Za-z0-9_][A-Za-z0-9_-]{0,254}", fullmatch=True),
).filter(is_valid_id)


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


def test_an_entry_is_due_when_its_days_are_over_a_begun_deletion_at_once_and_a_pending_one_never() -> None:
    pending, confirmed, deleting = (parse_entry((), f"{state}a.20260101T000000Z.01234567") for state in ("held.", "", "gone."))
    assert pending
    assert confirmed
    assert deleting
    for days in (1, 3):
        end = confirmed.removed_at + days * DAY
        assert [confirmed.is_due(now, days) for now in (end - 1, end)] == [False, True]
    assert confirmed.is_due(confirmed.removed_at - DAY, 0), "without days in the trash the clock does not matter"
    assert deleting.is_due(deleting.removed_at, 3)
    assert not pending.is_due(pending.removed_at + 9 * DAY, 0)


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
    assert is_trash(name) == (name == ".trash")
    assert not is_trash(f".trash.{name}")


@given(IDS, st.sampled_from(["", ".trash."]), st.booleans())
@example("held", "", False)
@example("gone", ".trash.", True)
@example("held" * 60, "", True)
def test_every_name_of_every_session_is_read_as_that_session_and_that_state(session: str, prefix: str, is_exchanged: bool) -> None:
    pending = pending_name(session, 0, prefix=prefix, exchanged=is_exchanged)
    if is_exchanged:
        pending = exchanged_name(pending, Exchanged(2**63, 2**64 - 1, 7))
    names = {
        confirmed_name(pending): TrashState.CONFIRMED,
        deleting_name(pending): TrashState.DELETING,
        pending: TrashState.PENDING,
    }
    is_cut = "+" in pending
    assert len(names) == (2 if is_cut else 3)
    for name, again in product(names, (lambda name: name, deleting_name, confirmed_name)):
        entry = parse_entry((), again(name))
        assert entry is not None
        if again in (deleting_name, confirmed_name):
            assert entry.state is (TrashState.DELETING if again is deleting_name else TrashState.CONFIRMED)
        elif not is_cut:
            assert entry.state is names[name]
        assert len(entry.name) <= 255
        assert session.startswith(entry.session.removesuffix("+")) if is_cut else entry.session == session
        assert entry.exchanged == (Exchanged(2**63, 2**64 - 1, 7) if is_exchanged else None)
