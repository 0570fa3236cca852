"""Notifications: what people are told, how often, in which order, and what never reaches them."""

from __future__ import annotations

from dataclasses import replace
from itertools import groupby

from hypothesis import given
from hypothesis import strategies as st

from arawn_cli.cleanup_events import ChatResult, ExpiringSession, ScratchCleanup
from arawn_cli.delivery.notify import (
    Line,
    Notice,
    Notices,
    Urgency,
    cleaned_lines,
    compose,
    expiring_lines,
    job_lines,
    level_lines,
    why_failed,
    why_incomplete,
)
from arawn_cli.errors import ExitCode
from arawn_cli.events import FailureReport, JobName, Level, Unit
from arawn_cli.timestamps import SECOND
from tests.support.simulated_relay import pressure

LEVELS = st.sampled_from([Level.OK, Level.WARNING, Level.CRITICAL])


def summary(**values: object) -> ScratchCleanup:
    defaults: dict[str, object] = {
        "timestamp": "2026-03-18T09:30:00Z",
        "host": "host",
        "root": None,
        "dry_run": False,
        "sessions_checked": 3,
        "sessions_cleaned": 0,
        "bytes_freed": 0,
        "bytes_trashed": 0,
        "trash_until": None,
        "database_found": True,
        "chats": ChatResult.WITHOUT_FILES,
        "over_budget_bytes": 0,
        "expiring": None,
        "no_sessions": None,
        "cleaned_session_ids": (),
        "sessions_restored": 0,
        "sessions_kept": {},
        "failures": (),
        "failure_count": 0,
        "trash_bytes": 0,
        "duration_ms": 1,
    }
    return ScratchCleanup(**{**defaults, **values})  # type: ignore[arg-type]


@given(st.lists(st.lists(LEVELS, min_size=3, max_size=3), max_size=8))
def test_people_are_told_of_each_change_of_a_level_once(checks: list[list[Level]]) -> None:
    """A check has an event for each scope above its limit, and for each that has recovered."""
    notices: Notices = {}
    told: dict[str, list[str]] = {"scope-0": [], "scope-1": [], "scope-2": []}
    before = [Level.OK] * 3
    for now, levels in enumerate(checks):
        events = [
            pressure(number, level)
            for number, (level, last) in enumerate(zip(levels, before, strict=True))
            if level is not Level.OK or last is not Level.OK
        ]
        lines, notices = level_lines([replace(event, workstream_name=event.scope) for event in events], notices, repeats=False, now=now)
        for line in lines:
            level, _, scope = line.full.partition(":")[0], None, line.full.partition(": ")[2].partition(",")[0]
            told[scope].append("ok" if level == "ok again" else level)
        before = levels
    for number, (_, heard) in enumerate(sorted(told.items())):
        history = [Level.OK, *(levels[number] for levels in checks)]
        assert heard == [level.value for level, _ in groupby(history)][1:]


def test_an_event_that_is_repeated_is_told_again() -> None:
    lines, notices = level_lines([pressure(1)], {}, repeats=True, now=1)
    again, after = level_lines([pressure(1)], notices, repeats=True, now=2)
    assert [len(lines), len(again)] == [1, 1]
    assert "as before" in again[0].full
    # A scope whose repetition is not due yet has no event, and keeps its notice.
    assert level_lines([], after, repeats=True, now=3) == ([], after)
    recovered, none = level_lines([pressure(1, Level.OK)], after, repeats=True, now=4)
    assert [line.urgency for line in recovered] == [Urgency.RECOVERED]
    assert none == {}


def test_notices_of_scopes_that_recovered_while_nobody_was_told_are_forgotten() -> None:
    assert level_lines([], {"gone": Notice("critical", 1)}, repeats=False, now=2) == ([], {})


@given(st.lists(st.sampled_from([ExitCode.DONE, ExitCode.PARTIAL, ExitCode.REFUSED]), max_size=8))
def test_people_are_told_of_a_failure_when_it_begins_and_when_it_ends(codes: list[ExitCode]) -> None:
    other = {str(JobName.SCRATCH_CLEANUP): Notice("1", 0)}
    notices: Notices = dict(other)
    heard = []
    for now, code in enumerate(codes):
        lines, notices = job_lines(JobName.DISK_CHECK, code, "reason", notices, root="", repeat_secs=0, now=now)
        heard += [code for _ in lines]
        assert [notice.value for name, notice in notices.items() if name not in other] == (
            [] if code is ExitCode.DONE else [str(int(code))]
        )
        assert other.items() <= notices.items()
    assert heard == [code for code, _ in groupby([ExitCode.DONE, *codes])][1:]


def test_a_failure_that_lasts_is_told_again_after_the_interval() -> None:
    last: Notices = {JobName.DISK_CHECK: Notice("1", 0)}
    for now, expected in ((59, 0), (60, 1), (-1, 1)):  # the last time, the clock was wrong
        lines, after = job_lines(JobName.DISK_CHECK, ExitCode.PARTIAL, "reason", last, root="", repeat_secs=60, now=now * SECOND)
        assert len(lines) == expected
        assert after == {JobName.DISK_CHECK: Notice("1", now * SECOND if expected else 0)}


def test_the_reason_of_a_failure_comes_from_the_summary() -> None:
    failure = FailureReport(session_id="a", operation="open", path="a/b", errno=13, message="Permission denied")
    assert why_incomplete(summary(failures=(failure,), failure_count=3)) == "3 failures, the first: open a/b: Permission denied"
    assert "more than the removal limit" in str(why_incomplete(summary(sessions_kept={"removal_limit": 4})))
    assert why_incomplete(summary(sessions_kept={"activity_unknown": 2, "active": 5})) == "sessions stay that are due: 2 activity_unknown"
    assert why_incomplete(summary(over_budget_bytes=1024)) == "the budget is still exceeded by 1.0 KiB"
    assert why_incomplete(summary()) is None


def test_a_failure_that_is_not_of_the_result_has_the_reason_of_the_run() -> None:
    incomplete = summary(sessions_kept={"activity_unknown": 2})
    assert (
        why_failed(ExitCode.UNDELIVERED, incomplete, ["events neither delivered nor stored: 3"]) == "events neither delivered nor stored: 3"
    )
    assert why_failed(ExitCode.PARTIAL, incomplete, ["the metrics could not be written"]).startswith("sessions stay that are due")
    assert why_failed(ExitCode.PARTIAL, None, ["the lock is held for a day"]) == "the lock is held for a day"
    assert why_failed(ExitCode.INTERNAL, None, []) == "internal error, which is a bug"


def test_a_refused_cleanup_names_the_command_that_shows_the_sessions() -> None:
    (line,), _ = job_lines(JobName.SCRATCH_CLEANUP, ExitCode.REFUSED, "why", {}, root=" --root lab", repeat_secs=0, now=0)
    assert (line.short, line.step) == ("scratch-cleanup was refused", "arawn-cli scratch-cleanup --root lab -n -v")


def test_removed_sessions_are_named_with_the_command_that_undoes_it() -> None:
    removed = summary(
        sessions_cleaned=7, bytes_trashed=2048, trash_until="2026-03-21T09:30:00Z", cleaned_session_ids=tuple(f"s{n}" for n in range(7))
    )
    (line,) = cleaned_lines(removed, "")
    assert line.full == "7 sessions removed, 2.0 KiB in the trash until 2026-03-21 09:30 UTC: s0, s1, s2, s3, s4, and 2 more"
    assert line.step == "arawn-cli trash restore --last (to undo it)"
    assert cleaned_lines(summary(), "") == []


@given(st.lists(st.dictionaries(st.sampled_from("abc"), st.sampled_from(["2026-01-01T00:00:00Z", "2026-01-02T00:00:00Z"])), max_size=6))
def test_an_expiry_is_told_once_for_each_time_that_a_session_expires(runs: list[dict[str, str]]) -> None:
    notices: Notices = {}
    for now, soon in enumerate(runs):
        expiring = tuple(ExpiringSession(session_id=name, expires=at) for name, at in soon.items())
        lines, after = expiring_lines(summary(expiring=expiring), notices, "", now)
        news = {name for name, at in soon.items() if name not in notices or notices[name].value != at}
        assert {name for name in "abc" if any(f" {name} (" in line.full for line in lines)} == news
        assert {name: notice.value for name, notice in after.items()} == soon
        notices = after


@given(st.lists(st.sampled_from(Urgency), min_size=1, max_size=30))
def test_a_message_is_short_and_begins_with_the_worst(urgencies: list[Urgency]) -> None:
    lines = [Line(urgency, f"short {number}", f"full {number}", f"step {number}") for number, urgency in enumerate(urgencies)]
    message = compose(lines, "lab1", "lab")
    worst = min(lines, key=lambda line: line.urgency)
    assert message["title"].startswith(f"Arawn on lab1 (lab): {worst.short}")
    body = message["body"].splitlines()
    assert body[0] == worst.full
    assert len(body) <= 13
    assert sum(line.startswith("Next: ") for line in body) in (1, 2)


def test_a_name_cannot_add_lines_to_a_message() -> None:
    lines, _ = level_lines([replace(pressure(1), workstream_name="x\nSubject: y\x1b[31m")], {}, repeats=False, now=1)
    message = compose(lines, "lab1", None)
    assert "\n" not in message["title"]
    assert "\x1b" not in message["title"] + message["body"]


def test_inodes_are_counted_and_lower_bounds_are_named() -> None:
    event = replace(pressure(1), unit=Unit.INODES, complete=False, reclaimable_bytes=1024, root="lab")
    (line,), _ = level_lines([event], {}, repeats=False, now=1)
    assert line.full == "warning: A, at least 2,000,000 of 1,000,000 inodes (200 %)"
    assert line.step == "arawn-cli scratch-cleanup --root lab -n (it would free 1.0 KiB)"
