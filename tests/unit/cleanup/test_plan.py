from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from arawn_cli.arawn.messages import Damage
from arawn_cli.cleanup.plan import (
    Policy,
    RemovalLimit,
    block_all,
    contents,
    decide,
    decide_all,
    keep_unapproved,
    reason_without_files,
    revalidate,
    sessions_to_measure,
)
from arawn_cli.cleanup.sessions import Decision, ScratchSession, TurnEvidence
from arawn_cli.errors import Failure
from arawn_cli.events import Reason
from arawn_cli.fs.openat import FileKind
from arawn_cli.fs.usage import Usage
from arawn_cli.timestamps import DAY, SECOND, minute

NOW = 1_700_000_000_000_000_000
POLICY = Policy(7, ("keep-*",))
CUTOFF = POLICY.cutoff(NOW)
MINUTE = 60 * SECOND
FAILURE = (Failure("open", "x", 13),)

ages = st.none() | st.integers(CUTOFF - 3, CUTOFF + 3) | st.integers(NOW - 40 * DAY, NOW + 40 * DAY)
damage = st.none() | st.builds(Damage, st.integers(CUTOFF - 3, CUTOFF + 3), st.just("m"), st.just(0))
sessions = st.builds(
    ScratchSession,
    st.sampled_from(["a", "keep-me"]),
    st.sampled_from(FileKind),
    st.just((1, 2)),
    st.sampled_from(["", "a/m"]),
    st.builds(
        TurnEvidence, ages, ages, st.sampled_from([(), FAILURE]), st.sampled_from([(), FAILURE]), st.sampled_from([None, "blog"]), damage
    ),
    st.none() | st.builds(Usage, newest_mtime=ages, failures=st.sampled_from([(), FAILURE])),
    st.booleans(),
    st.sampled_from(["", ".keep"]),
)


def session(turn: int | None = None, row: int | None = None, mtime: int = 0, name: str = "a") -> ScratchSession:
    return ScratchSession(
        name, FileKind.DIRECTORY, (1, 2), evidence=TurnEvidence(turn, row), usage=Usage(newest_mtime=mtime, newest_path=b"work/f")
    )


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
        (replace(session(), keep_file=".keep"), Reason.PROTECTED),
        (replace(session(name="-bad"), is_foreign=True), Reason.FOREIGN_NAME),
        (ScratchSession("a", FileKind.DIRECTORY, (1, 2), evidence=TurnEvidence(workstream="blog")), Reason.ATTACHED),
        (ScratchSession("a", FileKind.DIRECTORY, (1, 2), evidence=TurnEvidence(CUTOFF, workstream="blog")), Reason.ACTIVE),
        (ScratchSession("keep-me", FileKind.DIRECTORY, (1, 2), evidence=TurnEvidence(workstream="blog")), Reason.PROTECTED),
        (ScratchSession("a", FileKind.LINK, (1, 2)), Reason.NOT_A_DIRECTORY),
        (ScratchSession("a", FileKind.DIRECTORY, (1, 2), mount_point="a/m"), Reason.MOUNT_INSIDE),
        (
            ScratchSession("a", FileKind.DIRECTORY, (1, 2), "", TurnEvidence(own_failures=FAILURE), Usage(newest_mtime=0)),
            Reason.ACTIVITY_UNKNOWN,
        ),
        (
            ScratchSession("a", FileKind.DIRECTORY, (1, 2), "", TurnEvidence(), Usage(newest_mtime=0, failures=FAILURE)),
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
        assert found.evidence.damage is None or found.evidence.damage.at < CUTOFF
        assert not found.mount_point
        assert not found.evidence.is_attached
        assert not found.is_foreign
        assert not found.keep_file
        assert found.name == "a"
        assert found.kind is FileKind.DIRECTORY


@given(st.lists(sessions))
def test_a_plan_has_a_decision_for_each_session(found: list[ScratchSession]) -> None:
    decisions = [decide(one, POLICY, NOW) for one in found]
    assert [decision.session for decision in decisions] == found
    for decision in decisions:
        assert decision.is_removal == (decision.reason is Reason.EXPIRED)
    assert all(decide(one, POLICY, NOW).is_removal <= (one in sessions_to_measure(found, POLICY, NOW)) for one in found)


def test_damage_that_keeps_a_session_is_named() -> None:
    decision = decide(replace(session(), evidence=TurnEvidence(damage=Damage(NOW, "m.jsonl", 7))), POLICY, NOW)
    assert decision.detail == f"m.jsonl: the line at byte 7 is not a message, and counts as a turn of {minute(NOW)}"


def test_damage_that_other_evidence_outweighs_is_no_reason() -> None:
    newer = TurnEvidence(damage=Damage(NOW, "m", 0))
    assert decide(replace(session(mtime=NOW), evidence=newer), POLICY, NOW).reason is Reason.RECENT_FILES
    assert decide(replace(session(), evidence=replace(newer, last_turn=NOW)), POLICY, NOW).reason is Reason.ACTIVE
    assert decide(replace(session(), evidence=newer), POLICY, NOW).reason is Reason.ACTIVITY_UNKNOWN


@given(st.builds(session, *[st.integers(NOW - 40 * DAY, CUTOFF - 1)] * 3), sessions)
def test_the_second_look_keeps_all_that_a_plan_would_keep_and_all_that_has_changed(planned: ScratchSession, found: ScratchSession) -> None:
    assert planned.usage
    for evidence in (planned.evidence, found.evidence):
        for usage in (planned.usage, found.usage or Usage()):
            fresh = replace(planned, evidence=evidence, usage=usage)
            decision, again = decide(fresh, POLICY, NOW), revalidate(planned, evidence, usage, POLICY, NOW)
            has_changed = fresh.last_activity != planned.last_activity or contents(usage) != contents(planned.usage)
            assert again.session == fresh
            assert again.is_removal == (decision.is_removal and not has_changed)
            assert again.reason in {decision.reason, Reason.CHANGED_SINCE_PLAN}


def test_damage_that_is_gone_since_the_plan_is_no_reason() -> None:
    planned = replace(session(), evidence=TurnEvidence(damage=Damage(5, "m", 0)))
    assert planned.usage
    assert revalidate(planned, TurnEvidence(), planned.usage, POLICY, NOW).is_removal
    assert revalidate(planned, TurnEvidence(damage=Damage(CUTOFF, "m", 0)), planned.usage, POLICY, NOW).reason is Reason.ACTIVITY_UNKNOWN


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
        (TurnEvidence(5 * DAY, workstream="blog"), Usage(newest_mtime=7 * DAY), Reason.ATTACHED),
        (TurnEvidence(5 * DAY, shared_failures=FAILURE), Usage(newest_mtime=7 * DAY), Reason.ACTIVITY_UNKNOWN),
    ],
)
def test_a_removal_is_valid_only_if_nothing_has_changed(evidence: TurnEvidence, usage: Usage, reason: Reason) -> None:
    planned = ScratchSession("a", FileKind.DIRECTORY, (1, 2), "", TurnEvidence(5 * DAY), Usage(newest_mtime=7 * DAY))
    again = revalidate(planned, evidence, usage, POLICY, NOW)
    assert (again.reason, again.session.usage, again.session.evidence) == (reason, usage, evidence)


def test_what_was_planned_without_being_measured_is_kept() -> None:
    planned = ScratchSession("a", FileKind.DIRECTORY, (1, 2), "", TurnEvidence(5))
    assert revalidate(planned, TurnEvidence(5), Usage(), POLICY, NOW).reason is Reason.CHANGED_SINCE_PLAN


def test_only_approved_removals_stay_in_a_plan() -> None:
    decisions = [Decision(session(), Reason.EXPIRED), Decision(session(name="b"), Reason.EXPIRED), Decision(session(), Reason.ACTIVE)]
    kept = Decision(session(name="b"), Reason.CHANGED_SINCE_PLAN, "other")
    assert keep_unapproved(decisions, lambda one: None if one.name == "a" else "other") == [decisions[0], kept, decisions[2]]


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
    blocked = block_all(decisions, "too many")
    assert not any(decision.is_removal for decision in blocked)
    assert sum(decision.reason is Reason.REMOVAL_LIMIT and decision.detail == "too many" for decision in blocked) == removals


def test_what_is_no_session_is_not_one_of_those_that_were_used_last() -> None:
    link = ScratchSession("link", FileKind.LINK, (1, 2), evidence=TurnEvidence(NOW))
    decisions = decide_all([link, session(turn=CUTOFF - 2), session(turn=CUTOFF - 1, name="b")], Policy(7, keep_last=1), NOW)
    assert [decision.reason for decision in decisions] == [Reason.NOT_A_DIRECTORY, Reason.EXPIRED, Reason.KEPT_LAST]


@given(st.integers(0, 12), st.integers(0, 12), st.builds(RemovalLimit, st.integers(0, 12), st.integers(1, 100)))
def test_there_is_room_for_as_many_more_removals_as_do_not_exceed_the_limit(removals: int, kept: int, limit: RemovalLimit) -> None:
    def with_more(number: int) -> list[Decision]:
        reasons = [*[Reason.EXPIRED] * (removals + number), *[Reason.ACTIVE] * (kept - number), *[Reason.FOREIGN_NAME] * 5]
        return [Decision(session(), reason) for reason in reasons]

    allowed = [number for number in range(1, kept + 1) if limit.exceeded_by(with_more(number)) is None]
    assert min(limit.room(with_more(0)), kept) == len(allowed)


AT = 1_699_000_000 * SECOND
LATE = NOW + DAY


@pytest.mark.parametrize(
    ("found", "detail"),
    [
        (session(turn=CUTOFF, row=5), "turn, 2023-11-07 22:13 UTC"),
        (session(turn=5, row=CUTOFF), "database row, 2023-11-07 22:13 UTC"),
        (session(mtime=CUTOFF), "work/f, 2023-11-07 22:13 UTC"),
        (session(row=LATE), "database row, 2023-11-15 22:13 UTC"),
        (session(mtime=LATE), "work/f, 2023-11-15 22:13 UTC"),
        (session(name="keep-me"), "pattern keep-*"),
        (replace(session(name="-bad"), is_foreign=True), "a directory, and Arawn gives no session this name"),
        (ScratchSession("a", FileKind.LINK, (1, 2)), "a symbolic link"),
        (ScratchSession("a", FileKind.OTHER, (1, 2)), "a FIFO, socket or device"),
        (replace(session(), evidence=TurnEvidence(workstream="blog")), "workstream blog"),
        (replace(session(), evidence=TurnEvidence(workstream="")), "its database row names no workstream, not even scratch"),
        (replace(session(), mount_point="workstreams/scratch/sessions/a/m"), "workstreams/scratch/sessions/a/m"),
        (replace(session(), usage=Usage(newest_mtime=0, other_filesystems=("a/sub",))), "a/sub"),
        (replace(session(), evidence=TurnEvidence(own_failures=FAILURE)), "open x: Permission denied"),
        (replace(session(), usage=Usage(newest_mtime=0, failures=FAILURE)), "open x: Permission denied"),
        (replace(session(), usage=Usage(newest_mtime=CUTOFF)), "its directory, 2023-11-07 22:13 UTC"),
        (replace(session(), usage=None), "it was not measured"),
        (session(mtime=AT), "newest: work/f, 2023-11-03 08:26 UTC; touch it if it was copied in with old times"),
        (session(turn=AT, mtime=5), "newest: turn, 2023-11-03 08:26 UTC; touch it if it was copied in with old times"),
    ],
)
def test_the_detail_names_the_object_behind_the_reason(found: ScratchSession, detail: str) -> None:
    assert decide(found, POLICY, NOW).detail == detail


@given(sessions)
def test_every_decision_names_its_object(found: ScratchSession) -> None:
    decision = decide(found, POLICY, NOW)
    assert decision.detail or decision.reason is Reason.NOT_PERMITTED  # `explained` finds that object


def test_what_changed_since_the_plan_is_named() -> None:
    planned = session(mtime=AT)
    details = [
        revalidate(planned, evidence, usage, POLICY, NOW).detail
        for evidence, usage in (
            (TurnEvidence(NOW), Usage(newest_mtime=AT)),
            (TurnEvidence(), Usage(newest_mtime=NOW, newest_path=b"work/new")),
            (TurnEvidence(), Usage(newest_mtime=AT, files=1)),
            (TurnEvidence(), Usage()),
            (TurnEvidence(workstream="blog"), Usage(newest_mtime=AT)),
            (TurnEvidence(), Usage(newest_mtime=AT, other_filesystems=("a/sub",))),
            (TurnEvidence(own_failures=FAILURE), Usage(newest_mtime=AT)),
        )
    ]
    assert details == [
        "used meanwhile: turn, 2023-11-14 22:13 UTC",
        "used meanwhile: work/new, 2023-11-14 22:13 UTC",
        "files were added, removed or changed meanwhile",
        "it was moved or replaced meanwhile",
        "workstream blog",
        "a/sub",
        "open x: Permission denied",
    ]
