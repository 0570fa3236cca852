"""Scopes, their limits, and their levels: a table of all steps of a level, and laws over any
sequence of checks."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from arawn_cli.arawn.database import WorkstreamRow
from arawn_cli.arawn.root import opened_root
from arawn_cli.diskcheck.levels import (
    FIXED,
    NO_ALERT,
    Alert,
    Rules,
    ScopeUsage,
    StoredAlert,
    Verdict,
    can_cleanup_help,
    judge,
    judge_all,
    level_of,
    limit_of,
    next_limit,
    scope_of,
    unchanged,
    unmatched_limits,
    vanished_scopes,
)
from arawn_cli.events import Level
from arawn_cli.fs.mounts import filesystem_of, with_figures
from arawn_cli.timestamps import SECOND
from tests.support.in_process import checked, configuration_of
from tests.support.limits import configured
from tests.support.tree import SampleTree

__all__ = ["configured"]

OK, WARNING, CRITICAL = Level.OK, Level.WARNING, Level.CRITICAL
LIMIT, CRITICAL_LIMIT = 1000, 2000


def usage(amount: int, *, complete: bool = True, scope: str = "total") -> ScopeUsage:
    return ScopeUsage(scope, scope, amount, LIMIT, CRITICAL_LIMIT, complete)


def at(level: Level) -> Alert:
    """An alert at a level with an event at time 0 and no checks in a row."""
    return Alert(level, notified_at=None if level is OK else 0)


# Bands of usage, with 5 % to recover: below all, in the band of the warning limit, above it, in the
# band of the critical limit, above that; each with its edges.
BANDS = {"calm": (0, 950), "warning band": (951, 1000), "above": (1001, 1900), "critical band": (1901, 2000), "over": (2001, 10**9)}
STEPS = {
    (OK, "calm"): OK,
    (OK, "warning band"): OK,
    (OK, "above"): WARNING,
    (OK, "critical band"): WARNING,
    (OK, "over"): CRITICAL,
    (WARNING, "calm"): OK,
    (WARNING, "warning band"): WARNING,
    (WARNING, "above"): WARNING,
    (WARNING, "critical band"): WARNING,
    (WARNING, "over"): CRITICAL,
    (CRITICAL, "calm"): OK,
    (CRITICAL, "warning band"): WARNING,
    (CRITICAL, "above"): WARNING,
    (CRITICAL, "critical band"): CRITICAL,
    (CRITICAL, "over"): CRITICAL,
}


def test_the_table_names_every_step() -> None:
    assert set(STEPS) == {(level, band) for level in (OK, WARNING, CRITICAL) for band in BANDS}


@pytest.mark.parametrize(("before", "band"), STEPS)
def test_every_step_of_one_check(before: Level, band: str) -> None:
    after = STEPS[before, band]
    for amount in BANDS[band]:
        verdict = judge(usage(amount), at(before), Rules(), now=0)
        assert (verdict.level, verdict.before) == (after, before)
        assert verdict.notify is (after is not before or after is not OK), (
            "an event for every change, and by default for every check above a limit"
        )


@pytest.mark.parametrize(("before", "band"), STEPS)
def test_an_incomplete_measurement_lowers_nothing_and_proves_what_it_shows(before: Level, band: str) -> None:
    for amount in BANDS[band]:
        verdict = judge(usage(amount, complete=False), at(before), Rules(), now=0)
        assert verdict.level is max(before, level_of(usage(amount)), key=[OK, WARNING, CRITICAL].index)
        assert not (verdict.notify and verdict.level is OK)


def test_an_incomplete_measurement_below_the_limit_changes_nothing_at_all() -> None:
    rules = Rules(for_checks=3, repeat=SECOND)
    before = Alert(OK, warnings=2, criticals=1)
    assert judge(usage(0, complete=False), before, rules, now=5).alert == before
    held = Alert(WARNING, warnings=3, criticals=1, notified_at=5)
    assert judge(usage(0, complete=False), held, rules, now=5).alert == held


def test_an_incomplete_measurement_below_the_limit_raises_nothing_when_fewer_checks_are_required_than_before() -> None:
    verdict = judge(usage(0, complete=False), Alert(OK, warnings=2, criticals=2), Rules(for_checks=1), now=5)
    assert (verdict.alert, verdict.notify) == (Alert(OK, warnings=1, criticals=1), False)


@pytest.mark.parametrize(
    ("scope", "expected"), [("filesystem", True), ("filesystem:/mnt", True), ("inodes:/mnt", True), ("blog", False), ("filesystems", False)]
)
def test_each_filesystem_has_scopes_that_a_cleanup_can_help(scope: str, expected: bool) -> None:
    assert can_cleanup_help(scope) is expected


def levels(amounts: list[int], rules: Rules) -> list[Level]:
    return [verdict.level for verdict in course([(amount, True) for amount in amounts], rules)]


def course(checks: list[tuple[int, bool]], rules: Rules, step: int = SECOND) -> list[Verdict]:
    """What a sequence of checks comes to, one each `step`."""
    alert, verdicts = NO_ALERT, []
    for number, (amount, complete) in enumerate(checks):
        verdicts.append(judge(usage(amount, complete=complete), alert, rules, number * step))
        alert = verdicts[-1].alert
    return verdicts


def test_a_level_is_raised_after_so_many_checks_in_a_row() -> None:
    rules = Rules(for_checks=3)
    assert levels([1500, 1500, 0, 1500, 1500, 1500], rules) == [OK] * 5 + [WARNING]
    assert levels([2500, 1500, 2500, 2500, 2500], rules) == [OK, OK, WARNING, WARNING, CRITICAL]
    assert levels([2500, 2500, 2500], rules) == [OK, OK, CRITICAL]


def test_leaving_takes_one_check() -> None:
    assert levels([1500, 1500, 950], Rules(for_checks=2)) == [OK, WARNING, OK]


def test_an_unchanged_level_is_silent_for_the_interval_and_a_change_is_not() -> None:
    rules = Rules(repeat=3 * SECOND)
    notified = [verdict.notify for verdict in course([(1500, True)] * 5 + [(2500, True), (1500, True), (0, True), (0, True)], rules)]
    assert notified == [True, False, False, True, False, True, True, True, False]


def test_an_event_is_repeated_after_the_interval() -> None:
    assert judge(usage(1500), Alert(WARNING, 1, 0, notified_at=0), Rules(repeat=3 * SECOND), now=10 * SECOND).notify


def test_a_clock_that_went_back_does_not_silence_an_alert() -> None:
    assert judge(usage(1500), Alert(WARNING, 1, 0, notified_at=10**18), Rules(repeat=SECOND), now=0).notify


@pytest.mark.parametrize("level", [WARNING, CRITICAL])
def test_a_scope_that_disappears_recovers_under_its_name(level: Level) -> None:
    gone = StoredAlert(at(level), usage(9000, scope="session:x"))
    silent = StoredAlert(Alert(OK, warnings=1), usage(1500, complete=False, scope="session:y"))
    before = {"session:x": gone, "session:y": silent}
    verdicts = judge_all([usage(5)], before, Rules(), 0, vanished=list(before))
    notified = [(verdict.usage.scope, verdict.level, verdict.usage.usage, verdict.usage.limit) for verdict in verdicts if verdict.notify]
    assert notified == [("session:x", OK, 0, LIMIT)]
    assert all(verdict.alert == NO_ALERT and verdict.usage.complete is True for verdict in verdicts)
    assert [verdict.before for verdict in verdicts] == [OK, level, OK]
    assert [verdict.usage.scope for verdict in judge_all([usage(5)], before, Rules(), 0, vanished=set())] == ["total"]


def test_each_scope_is_judged_by_its_own_alert() -> None:
    before = {"total": StoredAlert(Alert(WARNING, 1, 0, notified_at=7 * SECOND), usage(1500))}
    (first, second) = judge_all([usage(1500), usage(1500, scope="new")], before, Rules(repeat=10 * SECOND), 9 * SECOND, vanished=())
    assert (first.notify, first.alert.notified_at) == (False, 7 * SECOND)
    assert (second.notify, second.alert.notified_at) == (True, 9 * SECOND)


def test_the_time_of_the_last_event_is_cleared_on_recovery() -> None:
    verdict = judge(usage(0), Alert(WARNING, 1, 0, notified_at=5), Rules(), now=9)
    assert (verdict.notify, verdict.alert) == (True, NO_ALERT)


def test_an_event_is_not_repeated_at_the_same_time() -> None:
    assert not judge(usage(1500), Alert(WARNING, 1, 0, notified_at=9), Rules(repeat=SECOND), now=9).notify


@pytest.mark.parametrize(
    ("scope", "level", "expected"),
    [("session:x", OK, True), ("session:x", WARNING, False), ("session:x", CRITICAL, False), ("total", OK, False)],
)
def test_only_a_scratch_session_below_its_limit_is_an_ok_session(scope: str, level: Level, expected: bool) -> None:
    assert Verdict(usage(5, scope=scope), OK, at(level), notify=False).is_ok_session is expected


def test_an_unchanged_scope_keeps_its_level_without_an_event() -> None:
    held = Alert(CRITICAL, 1, 1, notified_at=5)
    found = unchanged([usage(5), usage(9000, scope="new")], {"total": StoredAlert(held, usage(9000))})
    assert found == [Verdict(usage(5), CRITICAL, held, notify=False), Verdict(usage(9000, scope="new"), OK, NO_ALERT, notify=False)]


def test_a_check_at_the_limit_does_not_count_towards_a_level() -> None:
    assert judge(usage(LIMIT), NO_ALERT, Rules(for_checks=2), now=0).alert.warnings == 0
    assert judge(usage(CRITICAL_LIMIT), NO_ALERT, Rules(for_checks=2), now=0).alert.criticals == 0


def test_the_next_limit_is_the_one_that_is_not_passed() -> None:
    assert [next_limit(usage(5), OK), next_limit(usage(1500), OK), next_limit(usage(5), WARNING), next_limit(usage(2500), OK)] == [
        LIMIT,
        CRITICAL_LIMIT,
        CRITICAL_LIMIT,
        None,
    ]


CHECKS = st.lists(st.tuples(st.integers(0, 3000), st.booleans()), max_size=60)
RULES = st.builds(Rules, st.integers(1, 4), st.integers(0, 50), st.integers(0, 10).map(lambda seconds: seconds * SECOND))


@given(CHECKS, RULES)
def test_no_two_equal_alerts_within_the_interval(checks: list[tuple[int, bool]], rules: Rules) -> None:
    notified = [(number, verdict.level) for number, verdict in enumerate(course(checks, rules)) if verdict.notify]
    for (earlier, first), (later, second) in pairwise(notified):
        assert first is not second or (later - earlier) * SECOND >= rules.repeat


@given(CHECKS, RULES)
def test_every_raise_is_followed_by_exactly_one_recovery(checks: list[tuple[int, bool]], rules: Rules) -> None:
    notified = [verdict.level for verdict in course([*checks, (0, True)], rules) if verdict.notify]
    raises = sum(before is OK for before, after in pairwise([OK, *notified]) if after is not OK)
    assert notified.count(OK) == raises
    assert (OK, OK) not in pairwise([OK, *notified])


@given(st.lists(st.sampled_from([951, 975, 1000]), max_size=40), st.sampled_from([OK, WARNING]))
def test_nothing_flaps_inside_the_recovery_band(amounts: list[int], start: Level) -> None:
    alert = at(start)
    for amount in amounts:
        verdict = judge(usage(amount), alert, Rules(), 0)
        assert verdict.level is start
        alert = verdict.alert


@given(CHECKS, st.integers(1, 4), st.integers(0, 50), st.integers(1, 10**6), st.integers(1, 10**6))
def test_the_order_of_checks_is_all_that_matters(
    checks: list[tuple[int, bool]], for_checks: int, recover: int, one: int, other: int
) -> None:
    rules = Rules(for_checks, recover)
    first, second = (course(checks, rules, step) for step in (one, other))
    assert [(verdict.level, verdict.notify) for verdict in first] == [(verdict.level, verdict.notify) for verdict in second]


def test_a_limit_is_found_by_id_and_then_by_title(tree: SampleTree, configured: Callable[..., Path]) -> None:
    row = WorkstreamRow("w1", "Blog")
    found = [
        limit_of(configuration_of(tree, configured(workstream=9, limits=limits)), row)
        for limits in ({"w1": 1, "Blog": 2}, {"Blog": 2}, {"other": 3})
    ]
    assert found == [1, 2, 9]
    assert unmatched_limits([row], {"w1": 1, "Blog": 2, "other": 3}) == ["other"]


def test_a_workstream_with_the_name_of_a_fixed_scope_has_a_scope_with_a_prefix() -> None:
    assert [scope_of(name) for name in ("blog", *sorted(FIXED))] == [
        "blog",
        "workstream:filesystem",
        "workstream:inodes",
        "workstream:own_files",
        "workstream:total",
    ]


def test_names_of_scopes_are_readable_and_differ(tree: SampleTree) -> None:
    ids = ("7b1f3a52-9c6e-4d0b-8f27-1a5f0c3e9d11", "c2d84e90-55a1-4b7c-9e3d-60f1b2a7c8e4")
    for id_ in ids:
        tree.workstream(id_, "Blog", {"work/f": 1})
    tree.workstream("thesis", "Thesis", {"work/f": 1})
    tree.workstream("untitled", "", {"work/f": 1})
    for session in ("one", *ids):
        tree.session(session, files={"f": 1}, age_days=1)
    mountpoint = filesystem_of(tree.root).mountpoint
    names = [verdict.usage.name for verdict in checked(tree)[0].verdicts]
    assert names == [
        "all workstreams",
        "Arawn's own files",
        "Blog, 7b1f3a52…",
        "Blog, c2d84e90…",
        "Scratch",
        "Thesis",
        "untitled",
        "Scratch session 7b1f3a52…",
        "Scratch session c2d84e90…",
        "Scratch session one",
        f"Filesystem {mountpoint}",
        f"Inodes of {mountpoint}",
    ]


def test_a_scope_has_vanished_if_its_directory_does_not_exist(tree: SampleTree) -> None:
    for name in ("blog", "total", "filesystem"):
        tree.workstream(name, name, {"work/f": 1})
    tree.session("here", files={"f": 1}, age_days=1)
    (tree.workstreams / "link").symlink_to("nowhere")
    kept = {"blog", "workstream:total", "session:here", "link", "own_files", "x" * 300}
    vanished = {
        "gone",
        "filesystem",
        "workstream:inodes",
        "session:gone",
        "inodes",
        "session:../../blog",
        "session:",
        "../blog",
        "workstream:",
    }
    found = ("total",)
    with opened_root(tree.root, (tree.database,)) as root:
        assert vanished_scopes(root, kept | vanished | set(found), found, {}) == vanished
        silent = {"": with_figures("/")}
        assert vanished_scopes(root, {"filesystem", "inodes", "gone"}, [], silent) == {"gone"}
