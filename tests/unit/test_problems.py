"""Persistent problems: logged when they start, once a day and when they end, over simulated days of
runs."""

from __future__ import annotations

import io
import logging
import shutil
import time
from collections.abc import Callable
from contextlib import closing
from functools import partial
from pathlib import Path

import pytest
import tomli_w
from hypothesis import given
from hypothesis import strategies as st

from arawn_cli.cleanup.job import clean
from arawn_cli.cli.options import Format, Output
from arawn_cli.cli.runner import JobResult, run_job
from arawn_cli.config.loader import Config, Flags
from arawn_cli.context import RunContext
from arawn_cli.diskcheck.job import check
from arawn_cli.events import JobName
from arawn_cli.problems import STATE, Noted, Problem, ProblemLog, decide, persistent
from arawn_cli.state import State
from arawn_cli.timestamps import DAY, SECOND
from tests.conftest import Run
from tests.support.tree import SampleTree, set_age

START = 1_700_006_400 * SECOND  # at the full hour, 2023-11-15 00:00 UTC
HOUR = 3600 * SECOND
MINUTE = 60 * SECOND
PERIOD = 5 * MINUTE
NONE = Output(format=Format.NONE)
log = logging.getLogger("arawn_cli.tests")


@given(
    present=st.lists(st.booleans(), min_size=1, max_size=100),
    late=st.lists(st.integers(-60, 60), min_size=100, max_size=100),
    period=st.sampled_from([5 * MINUTE, HOUR, 6 * HOUR, DAY]),
)
def test_a_problem_is_due_when_it_starts_and_once_a_day_and_over_once(present: list[bool], late: list[int], period: int) -> None:
    problem = Problem("a problem")
    known: dict[str, Noted] = {}
    logged: int | None = None
    for number, is_present in enumerate(present):
        now = START + number * period + late[number] * SECOND
        decision = decide(frozenset({problem} if is_present else ()), known, now, period, complete=True)
        assert bool(decision.ended) is (not is_present and logged is not None)
        if decision.due:
            assert is_present
            assert logged is None or DAY - HOUR <= now - logged <= DAY + period
            logged = now
            known = {problem.key: Noted(now, "over")}
        elif is_present:
            assert logged is not None
            assert now - logged < DAY
        else:
            known, logged = {}, None


def test_a_problem_with_another_object_starts_again() -> None:
    first, second = Problem("relay", about="http://one/"), Problem("relay", about="http://two/")
    known = {"relay": Noted(START, "over", "http://one/")}
    assert decide(frozenset({first}), known, START, PERIOD, complete=True).due == frozenset()
    assert decide(frozenset({second}), known, START, PERIOD, complete=True).due == {second}


def test_a_run_that_did_not_end_shows_the_end_of_no_problem() -> None:
    known = {"a": Noted(START, "over")}
    assert decide(frozenset(), known, START, PERIOD, complete=False).ended == {}
    assert decide(frozenset(), known, START, PERIOD, complete=True).ended == {"a": "over"}


def test_a_clock_that_was_set_back_hides_no_problem() -> None:
    problem = Problem("a")
    assert decide(frozenset({problem}), {"a": Noted(START, "")}, START - DAY, PERIOD, complete=True).due == {problem}


@pytest.fixture
def logged(tmp_path: Path) -> Callable[..., list[str]]:
    """What a run logs above information; `act` logs."""
    logger, stream = logging.getLogger("arawn_cli"), io.StringIO()
    logger.handlers, logger.propagate = [logging.StreamHandler(stream)], False
    logger.setLevel(logging.WARNING)

    def run(act: Callable[[], None], now: int, *, job: JobName = JobName.DISK_CHECK, root: str = "/a", complete: bool = True) -> list[str]:
        stream.seek(0)
        stream.truncate()
        with closing(State(tmp_path / "state", lambda: now)) as state:
            problems = ProblemLog(state, job, Path(root), PERIOD)
            problems.begin()
            act()
            problems.end(now, complete=complete)
        return stream.getvalue().splitlines()

    return run


def about(*keys: str, shared: bool = False) -> Callable[[], None]:
    def act() -> None:
        for key in keys:
            log.warning("about %s", key, extra=persistent(key, shared=shared))

    return act


def test_each_problem_has_days_of_its_own(logged: Callable[..., list[str]]) -> None:
    assert logged(about("a"), START) == ["about a"]
    assert logged(about("a", "b"), START + HOUR) == ["about b"]
    assert logged(about("a", "b"), START + DAY) == ["about a"]
    assert logged(about("b"), START + DAY + HOUR) == ["about b", "no longer: about a"]
    assert logged(about(), START + DAY + 2 * HOUR) == ["no longer: about b"]
    assert logged(about(), START + DAY + 3 * HOUR) == []


def test_jobs_and_roots_share_only_the_problems_of_all(logged: Callable[..., list[str]]) -> None:
    assert logged(about("relay", shared=True), START) == ["about relay"]
    assert logged(about("relay", shared=True), START + HOUR, job=JobName.SCRATCH_CLEANUP, root="/b") == []
    assert logged(about("a"), START) == ["about a", "no longer: about relay"]
    assert logged(about("a"), START, root="/b") == ["about a"]
    assert logged(about(), START, job=JobName.SCRATCH_CLEANUP) == []
    assert logged(about(), START) == ["no longer: about a"]


def test_a_run_that_fails_keeps_what_is_known(logged: Callable[..., list[str]]) -> None:
    assert logged(about("a"), START) == ["about a"]
    assert logged(about(), START + HOUR, complete=False) == []
    assert logged(about("a"), START + 2 * HOUR) == []


def test_the_end_of_some_problems_is_not_told(logged: Callable[..., list[str]]) -> None:
    def park() -> None:
        log.warning("parked", extra=persistent("parked", ended=""))

    assert [logged(act, START + number * PERIOD) for number, act in enumerate((park, park, about(), park))] == [
        ["parked"],
        [],
        [],
        ["parked"],
    ]


def test_other_records_are_logged_at_once(logged: Callable[..., list[str]]) -> None:
    def act() -> None:
        log.warning("first", extra=persistent("a"))
        log.warning("second")

    assert logged(act, START) == ["second", "first"]


def test_thousands_of_problems_are_counted(logged: Callable[..., list[str]]) -> None:
    lines = logged(about(*map(str, range(5000))), START)
    assert (len(lines), lines[-1]) == (1001, "and 4,000 more warnings")


class Days:
    """Runs of a job with a configuration, as a timer starts them."""

    def __init__(self, tree: SampleTree, folder: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> None:
        monkeypatch.setattr("arawn_cli.cli.runner.lower_priority", lambda _maintenance: None)
        self.tree, self.file, self.state, self._capfd = tree, folder / "config.toml", folder / "state", capfd
        self._now = START
        monkeypatch.setattr(time, "time_ns", lambda: self._now)

    def configure(self, **maintenance: object) -> None:
        self.file.write_text(tomli_w.dumps({"maintenance": {"state_dir": str(self.state), **maintenance}}))

    def logged(self, name: JobName, since: int, until: int, period: int) -> list[list[str]]:
        """What each run logged that logged something."""
        job: Callable[[Config, RunContext], JobResult] = check if name is JobName.DISK_CHECK else partial(clean, only=())
        runs = []
        for self._now in range(START + since, START + until, period):
            run_job(Flags(config=self.file, base_path=str(self.tree.root)), NONE, job, name=name)
            runs.append(self._capfd.readouterr().err.splitlines())
        return [lines for lines in runs if lines]


@pytest.fixture
def days(tree: SampleTree, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> Days:
    tree.workstream("thesis", "Thesis", {"work/data": 4000})
    return Days(tree, tmp_path, monkeypatch, capfd)


DOWN = {"url": "http://127.0.0.1:9/pub", "timeout_secs": 0.2, "deadline_secs": 0.1}


def test_a_relay_that_is_down_for_days_and_a_wrong_limit_are_logged_once_a_day(days: Days) -> None:
    """The relay is down for three days, and the limit is corrected after the first."""
    limits = {"total": "1kB", "limits": {"no-such": "1GiB"}}
    every = {"schedule": {"disk_check": "2h"}, "relay": DOWN}
    days.configure(pressure=limits, **every)
    first = days.logged(JobName.DISK_CHECK, 0, DAY, 2 * HOUR)
    assert [[line[:60].partition(" of ")[0].partition("box:")[0] for line in lines] for lines in first] == [
        [
            "WARNING: total rises from ok to critical: 3.9 KiB",
            "WARNING: [maintenance.pressure.limits] 'no-such' is neither ",
            "WARNING: 1 event in the out",
        ]
    ]
    days.configure(pressure={"total": "1kB"}, **every)
    second = days.logged(JobName.DISK_CHECK, DAY, 3 * DAY, 2 * HOUR)
    assert [len(lines) for lines in second] == [2, 1]
    assert second[0][1] == "WARNING: no longer: [maintenance.pressure.limits] 'no-such' is neither the id nor the title of a workstream"
    assert "13 events in the outbox: " in second[0][0]
    assert "25 events in the outbox: " in second[1][0]


def test_a_missing_database_is_still_missing_when_the_last_session_is_gone(days: Days) -> None:
    set_age(days.tree.session("old", files={"f": 1}, age_days=0), START - 30 * DAY)
    days.tree.turn("old", START - 30 * DAY)
    days.tree.database.unlink()
    days.configure(cleanup={"trash_days": 0})
    lines = days.logged(JobName.SCRATCH_CLEANUP, 0, HOUR, 20 * MINUTE)
    assert [[line.partition(":")[0] for line in of_run] for of_run in lines] == [["WARNING"]]
    assert "no database of Arawn's was found" in lines[0][0]
    assert list(days.tree.sessions.iterdir()) == []


def test_a_database_that_a_run_does_not_read_is_not_said_to_be_readable(days: Days) -> None:
    session = days.tree.session("old", files={"f": 1}, age_days=0)
    set_age(session, START - 30 * DAY)
    days.tree.database.write_bytes(b"no database" * 100)
    days.configure()
    first = days.logged(JobName.SCRATCH_CLEANUP, 0, 20 * MINUTE, 20 * MINUTE)
    shutil.rmtree(session)
    second = days.logged(JobName.SCRATCH_CLEANUP, 20 * MINUTE, 40 * MINUTE, 20 * MINUTE)
    assert ["file is not a database" in line for line in first[0]] == [True, False]
    assert [[line.partition(" (")[0] for line in of_run] for of_run in second] == [["WARNING: no longer: kept session old"]]


@pytest.mark.parametrize(("name", "runs"), [(JobName.DISK_CHECK, 3), (JobName.SCRATCH_CLEANUP, 9)])
def test_without_a_state_the_time_alone_decides(days: Days, name: JobName, runs: int) -> None:
    """In three hours a check is heard three times, whenever it begins; a cleanup is heard
    always."""
    days.state.write_text("no directory")
    for begin in (0, 4 * MINUTE, 17 * MINUTE, 59 * MINUTE):
        days.configure(pressure={"total": "1kB"}, relay=DOWN, schedule={"disk_check": "20m"})
        lines = days.logged(name, begin, begin + 3 * HOUR, 20 * MINUTE)  # a lost event is named in every run
        warnings = [[line for line in of_run if line.startswith("WARNING")] for of_run in lines]
        assert sum(any("the state in" in line for line in of_run) for of_run in warnings) == runs, begin


def test_what_the_state_lacks_again_is_told_when_it_can_be_used(logged: Callable[..., list[str]]) -> None:
    assert logged(lambda: log.warning("a moment ago it was busy", extra=STATE), START) == ["a moment ago it was busy"]
    assert logged(about(), START + PERIOD) == ["the state can be used again"]


def test_the_installed_command_tells_a_problem_once(tree: SampleTree, tmp_path: Path, run: Callable[..., Run]) -> None:
    tree.workstream("thesis", "Thesis", {"work/data": 4000})
    config = tmp_path / "config.toml"
    config.write_text(tomli_w.dumps({"maintenance": {"pressure": {"limits": {"no-such": "1GiB"}}}}))
    arguments = ("disk-check", "--config", config, "--base-path", tree.root)
    assert [("no-such" in run(*arguments, *more).stderr) for more in ((), (), ("-v",))] == [True, False, True]
