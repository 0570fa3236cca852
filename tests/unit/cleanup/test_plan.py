from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from arawn_cli.cleanup.plan import (
    Policy,
    RemovalLimit,
    block_all,
    decide,
    keep_unapproved,
    reason_without_files,
    revalidate,
    sessions_to_measure,
)
from arawn_cli.cleanup.sessions import Decision, ScratchSession, TurnEvidence
from arawn_cli.errors import Failure
from arawn_cli.events import Reason
from arawn_cli.fs.measure import Usage
from arawn_cli.fs.openat import FileKind
from arawn_cli.timestamps import DAY, SECOND

NOW = 1_700_000_000_000_000_000
POLICY = Policy(7, ("keep-*",))
CUTOFF = POLICY.cutoff(NOW)
MINUTE = 60 * SECOND
FAILURE = (Failure("open", "x", 13),)

ages = st.none() | st.integers(CUTOFF - 3, CUTOFF + 3) | st.integers(NOW - 40 * DAY, NOW + 40 * DAY)
sessions = st.builds(
    ScratchSession,
    st.sampled_from(["a", "keep-me"]),
    st.sampled_from(FileKind),
    st.just((1, 2)),
    st.booleans(),
    st.builds(TurnEvidence, ages, ages, st.sampled_from([(), FAILURE]), st.sampled_from([(), FAILURE]), st.booleans()),
    st.none() | st.builds(Usage, newest_mtime=ages, failures=st.sampled_from([(), FAILURE])),
    st.booleans(),
)


def session(turn: int | None = None, row: int | None = None, mtime: int = 0, name: str = "a") -> ScratchSession:
    return ScratchSession(name, FileKind.DIRECTORY, (1, 2), evidence=TurnEvidence(turn, row), usage=Usage(newest_mtime=mtime))


@pytest.mark.parametrize(
    ("found", "reason"),
    [
        (session(), Reason.EXPIRED),
        (session(turn=CUTOFF - 1, row=CUTOFF - 1, mtime=CUTOFF - 1), Reason.EXPIRED),
        (session(turn=CUTOFF), Reason.ACTIVE),
        (session(row=CUTOFF), Reason.ACTIVE),
        (session(mtime=CUTOFF), Reason.RECENT_FILES),
        (session(turn=NOW + MINUTE), Reason.ACTIVE),
        (session(turn=NOW + MINUTE + 1), Reason.FUTURE_TIMESTAMP),
        (session(mtime=NOW + MINUTE), Reason.RECENT_FILES),
        (session(mtime=NOW + MINUTE + 1), Reason.FUTURE_TIMESTAMP),
        (session(name="keep-me"), Reason.PROTECTED),
        (replace(session(name="-bad"), is_foreign=True), Reason.FOREIGN_NAME),
        (ScratchSession("a", FileKind.DIRECTORY, (1, 2), evidence=TurnEvidence(is_attached=True)), Reason.ATTACHED),
        (ScratchSession("a", FileKind.DIRECTORY, (1, 2), evidence=TurnEvidence(CUTOFF, is_attached=True)), Reason.ACTIVE),
        (ScratchSession("keep-me", FileKind.DIRECTORY, (1, 2), evidence=TurnEvidence(is_attached=True)), Reason.PROTECTED),
        (ScratchSession("a", FileKind.LINK, (1, 2)), Reason.NOT_A_DIRECTORY),
        (ScratchSession("a", FileKind.DIRECTORY, (1, 2), has_mount=True), Reason.MOUNT_INSIDE),
        (
            ScratchSession("a", FileKind.DIRECTORY, (1, 2), False, TurnEvidence(own_failures=FAILURE), Usage(newest_mtime=0)),
            Reason.ACTIVITY_UNKNOWN,
        ),
        (
            ScratchSession("a", FileKind.DIRECTORY, (1, 2), False, TurnEvidence(), Usage(newest_mtime=0, failures=FAILURE)),
            Reason.ACTIVITY_UNKNOWN,
        ),
        (ScratchSession("a", FileKind.DIRECTORY, (1, 2)), Reason.ACTIVITY_UNKNOWN),
        (
            ScratchSession("a", FileKind.DIRECTORY, (1, 2), usage=Usage(newest_mtime=0, other_filesystems=("a/sub",))),
            Reason.MOUNT_INSIDE,
        ),
    ],
)
def test_each_rule_gives_its_reason(found: ScratchSession, reason: Reason) -> None:
    assert decide(found, POLICY, NOW).reason is reason


@given(sessions)
def test_nothing_younger_than_the_cutoff_is_removed_and_nothing_in_doubt(found: ScratchSession) -> None:
    if decide(found, POLICY, NOW).is_removal:
        assert found.usage is not None
        assert found.last_activity is not None
        assert found.last_activity < CUTOFF
        assert found.usage.complete
        assert found.evidence.complete
        assert not found.has_mount
        assert not found.evidence.is_attached
        assert not found.is_foreign
        assert found.name == "a"
        assert found.kind is FileKind.DIRECTORY


@given(st.lists(sessions))
def test_a_plan_has_a_decision_for_each_session(found: list[ScratchSession]) -> None:
    decisions = [decide(one, POLICY, NOW) for one in found]
    assert [decision.session for decision in decisions] == found
    for decision in decisions:
        assert decision.is_removal == (decision.reason is Reason.EXPIRED)
    assert all(decide(one, POLICY, NOW).is_removal <= (one in sessions_to_measure(found, POLICY, NOW)) for one in found)


def test_the_cutoff_is_so_many_days_before_now() -> None:
    assert [Policy(days).cutoff(10 * DAY) for days in (1, 7)] == [9 * DAY, 3 * DAY]


def test_only_what_turns_and_rows_leave_open_is_measured() -> None:
    found = [session(), session(turn=NOW), session(name="keep-me"), session(mtime=NOW)]
    assert sessions_to_measure(found, POLICY, NOW) == [found[0], found[3]]
    assert [reason_without_files(one, POLICY, NOW) for one in found] == [None, Reason.ACTIVE, Reason.PROTECTED, None]


@given(sessions, st.integers(1, 60), st.integers(1, 60))
def test_a_longer_age_never_removes_more(found: ScratchSession, days: int, more: int) -> None:
    if decide(found, Policy(days + more), NOW).is_removal:
        assert decide(found, Policy(days), NOW).is_removal


@pytest.mark.parametrize(
    ("evidence", "usage", "reason"),
    [
        (TurnEvidence(5 * DAY), Usage(newest_mtime=7 * DAY), Reason.EXPIRED),
        (TurnEvidence(8 * DAY), Usage(newest_mtime=7 * DAY), Reason.CHANGED_SINCE_PLAN),
        (TurnEvidence(5 * DAY), Usage(newest_mtime=8 * DAY), Reason.CHANGED_SINCE_PLAN),
        (TurnEvidence(5 * DAY), Usage(newest_mtime=6 * DAY), Reason.CHANGED_SINCE_PLAN),
        (TurnEvidence(5 * DAY), Usage(newest_mtime=7 * DAY, files=1), Reason.CHANGED_SINCE_PLAN),
        (TurnEvidence(5 * DAY), Usage(newest_mtime=7 * DAY, other_filesystems=("a/sub",)), Reason.MOUNT_INSIDE),
        (TurnEvidence(5 * DAY), Usage(newest_mtime=7 * DAY, failures=FAILURE), Reason.ACTIVITY_UNKNOWN),
        (TurnEvidence(5 * DAY, is_attached=True), Usage(newest_mtime=7 * DAY), Reason.ATTACHED),
        (TurnEvidence(5 * DAY, shared_failures=FAILURE), Usage(newest_mtime=7 * DAY), Reason.ACTIVITY_UNKNOWN),
    ],
)
def test_a_removal_is_valid_only_if_nothing_has_changed(evidence: TurnEvidence, usage: Usage, reason: Reason) -> None:
    planned = ScratchSession("a", FileKind.DIRECTORY, (1, 2), False, TurnEvidence(5 * DAY), Usage(newest_mtime=7 * DAY))
    again = revalidate(planned, evidence, usage)
    assert (again.reason, again.session.usage, again.session.evidence) == (reason, usage, evidence)


def test_what_was_planned_without_being_measured_is_kept() -> None:
    planned = ScratchSession("a", FileKind.DIRECTORY, (1, 2), False, TurnEvidence(5))
    assert revalidate(planned, TurnEvidence(5), Usage()).reason is Reason.CHANGED_SINCE_PLAN


def test_only_approved_removals_stay_in_a_plan() -> None:
    decisions = [Decision(session(), Reason.EXPIRED), Decision(session(name="b"), Reason.EXPIRED), Decision(session(), Reason.ACTIVE)]
    kept = Decision(session(name="b"), Reason.CHANGED_SINCE_PLAN)
    assert keep_unapproved(decisions, lambda one: one.name == "a") == [decisions[0], kept, decisions[2]]


@pytest.mark.parametrize(
    ("removals", "kept", "limit", "exceeded"),
    [
        (3, 0, RemovalLimit(), None),
        (3, 7, RemovalLimit(max_sessions=3), None),
        (4, 6, RemovalLimit(max_sessions=3), "4 of 10 sessions are due, more than max_sessions = 3 allows"),
        (5, 5, RemovalLimit(max_percent=50), None),
        (6, 5, RemovalLimit(max_percent=50), "6 of 11 sessions are due, more than max_percent = 50 allows"),
        (101, 899, RemovalLimit(max_percent=10), "101 of 1000 sessions are due, more than max_percent = 10 allows"),
        (6, 5, RemovalLimit(5, 50), "6 of 11 sessions are due, more than max_sessions = 5 and max_percent = 50 allow"),
        (0, 0, RemovalLimit(1, 1), None),
    ],
)
def test_the_removal_limit_is_exceeded_by_more_than_is_allowed(removals: int, kept: int, limit: RemovalLimit, exceeded: str | None) -> None:
    decisions = [*[Decision(session(), Reason.EXPIRED)] * removals, *[Decision(session(), Reason.ACTIVE)] * kept]
    decisions += [Decision(session(), Reason.FOREIGN_NAME)] * 5
    assert limit.exceeded_by(decisions) == exceeded
    assert not any(decision.is_removal for decision in block_all(decisions))
    assert sum(decision.reason is Reason.REMOVAL_LIMIT for decision in block_all(decisions)) == removals
