"""Names in the trash: the session and the time in them, and names that are not ours."""

from __future__ import annotations

import pytest

from arawn_cli.cleanup.trash import name_for, parse, settled


def test_names_in_the_trash_tell_session_and_time() -> None:
    second = 1_700_000_000_000_000_000
    entry = parse(("scratch", ".trash"), name_for("a-b_c", second))
    assert entry is not None
    assert (entry.session, entry.removed_at, entry.held) == ("a-b_c", second, True)
    released = parse(("scratch", ".trash"), settled(entry.name))
    assert released is not None
    assert (released.session, released.held) == ("a-b_c", False)


def test_a_name_too_long_for_the_trash_is_cut_and_marked() -> None:
    name = name_for("x" * 255, 0)
    assert len(name) <= 255
    entry = parse((), name)
    assert entry is not None
    assert entry.session.endswith("+")


@pytest.mark.parametrize(
    "name", ["a", ".trash", "a.b.c", "a.20260101T000000Z.xyz", "a.99999999T999999Z.01234567", "held.held.a.20260101T000000Z.01234567"]
)
def test_other_names_in_the_trash_are_not_ours(name: str) -> None:
    assert parse((), name) is None
