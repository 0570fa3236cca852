"""What doctor says of timers, of a cron and what it has run, and of the account of the jobs."""

from __future__ import annotations

import shutil
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest

import arawn_cli
from arawn_cli.cli.demo import SampleTree
from arawn_cli.doctor import timers
from arawn_cli.doctor.findings import Finding
from arawn_cli.doctor.timers import timer_findings
from arawn_cli.events import JobName, Status
from arawn_cli.runs import Run as LastRun
from arawn_cli.runs import record
from arawn_cli.schedule import status
from arawn_cli.schedule.cron import cron_file
from arawn_cli.schedule.install import Place
from arawn_cli.schedule.managed_files import FileStore, with_header
from arawn_cli.schedule.settings import Account, Scheduler, Scope, own_account
from arawn_cli.schedule.status import InstalledPlace
from arawn_cli.state import State
from arawn_cli.timestamps import DAY
from tests.conftest import needs_root
from tests.support.contrib_settings import SYSTEM
from tests.support.doctor_inputs import NOBODY, config_of, open_to_all, shell_of


def test_no_timers_fail_with_the_command_that_installs_them(tree: SampleTree) -> None:
    (finding,) = timer_findings([], config_of(tree), 0, "host", shell_of(tree))
    assert finding.status is Status.FAIL
    assert finding.fix is not None
    assert finding.fix.endswith(f"schedule install --user --base-path {tree.root}")


@pytest.fixture
def cron(monkeypatch: pytest.MonkeyPatch) -> list[bool]:
    """Whether a cron runs: what one of this machine does is not the test's."""
    runs = [True]
    for module in (timers, status):
        monkeypatch.setattr(module, "cron_runs", lambda: runs[0])
    return runs


def cron_findings(
    tree: SampleTree,
    directory: Path,
    now: int,
    account: Account | None = None,
    command: tuple[str, ...] = (sys.executable,),
    reads: tuple[Path, ...] = (),
) -> dict[str, Finding]:
    """What doctor says of lines for cron in a directory of the test's own."""
    own = replace(SYSTEM, account=account or own_account(), command=command, root=tree.root, reads=reads, logger=None)
    settings = replace(own, state=directory / "state")
    place = Place(Scheduler.CRON, Scope.SYSTEM, FileStore(directory, ("arawn-cli",)), None)
    (directory / "arawn-cli").write_text(with_header(cron_file(settings)))
    found = timer_findings([InstalledPlace(place, settings)], config_of(tree), now, settings.host, shell_of(tree))
    return {finding.check: finding for finding in found}


def noted(directory: Path, root: Path, last_run: int, last_success: int | None) -> None:
    state = State(directory / "state", time.time_ns)
    record(state, JobName.SCRATCH_CLEANUP, root, LastRun(last_run, last_success, 0, 0))
    state.close()


@pytest.mark.usefixtures("cron")
def test_a_job_of_cron_that_never_succeeds_is_no_longer_news_after_two_periods(tree: SampleTree, tmp_path: Path) -> None:
    now = time.time_ns()
    assert cron_findings(tree, tmp_path, now)["scratch-cleanup last success"].status is Status.WARN
    late = cron_findings(tree, tmp_path, now + 3 * DAY)["scratch-cleanup last success"]
    assert (late.status, "none since the timer was installed" in late.detail) == (Status.FAIL, True)
    assert late.fix is not None
    assert "scratch-cleanup --base-path" in late.fix


def test_without_a_cron_the_lines_are_told_not_to_run(cron: list[bool], tree: SampleTree, tmp_path: Path) -> None:
    assert cron_findings(tree, tmp_path, 0)["disk-check timer"].status is Status.OK
    cron[0] = False
    found = cron_findings(tree, tmp_path, 0)
    assert {found[name].status for name in ("cron", "disk-check timer", "scratch-cleanup timer")} == {Status.FAIL}
    assert found["disk-check timer"].detail == "cron is not running: run service cron start"


def test_what_is_not_readable_is_not_told_as_never_run(tree: SampleTree, tmp_path: Path) -> None:
    (tmp_path / "state").mkdir()
    (tmp_path / "state" / "state.db").write_bytes(b"x" * 4096)
    found = cron_findings(tree, tmp_path, time.time_ns() + 3 * DAY)["disk-check last success"]
    assert (found.status, found.detail.startswith("not known, ")) == (Status.WARN, True)


@pytest.mark.usefixtures("cron")
@pytest.mark.parametrize(
    ("run_ago", "success_ago", "check", "words"),
    [
        (0, 3 * DAY, "scratch-cleanup timer", "its last run failed"),
        (3 * DAY, 3 * DAY, "scratch-cleanup last success", "overdue"),
        (-DAY, -DAY, "scratch-cleanup last success", "refuses to run by a clock that went back"),
    ],
)
def test_what_cron_has_run_is_told_by_what_the_runs_have_noted(
    run_ago: int, success_ago: int, check: str, words: str, tree: SampleTree, tmp_path: Path
) -> None:
    now = time.time_ns()
    noted(tmp_path, tree.root, now - run_ago, now - success_ago)
    found = cron_findings(tree, tmp_path, now)[check]
    assert (found.status, words in found.detail) == (Status.FAIL, True), found
    noted(tmp_path, tree.root, now, now)
    assert cron_findings(tree, tmp_path, now)[check].status is Status.OK


@needs_root
def test_what_the_account_of_the_jobs_cannot_reach_is_told_though_root_reaches_it(
    tree: SampleTree, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    program = tmp_path / "program"
    shutil.copy("/bin/true", program)
    tmp_path.chmod(0o700)
    found = cron_findings(tree, tmp_path, 0, account=NOBODY, command=(str(program),))["account"]
    assert (found.status, found.detail) == (Status.FAIL, f"nobody cannot run {program}")
    open_to_all(tmp_path)
    # Where Python and the package of the tests stand is not the test's: an account may be kept from both.
    monkeypatch.setattr(sys, "executable", str(program))
    monkeypatch.setattr(arawn_cli, "__file__", str(program))
    folders = [tree.workstreams, tree.sessions.parent, tree.sessions]
    for number in range(len(folders)):
        found = cron_findings(tree, tmp_path, 0, account=NOBODY, command=(str(program),), reads=(tmp_path,))["account"]
        assert (found.status, found.detail) == (Status.FAIL, f"nobody has no access to {', '.join(map(str, folders[number:]))}")
        folders[number].chmod(0o777)
    found = cron_findings(tree, tmp_path, 0, account=NOBODY, command=(str(program),), reads=(tmp_path,))["account"]
    assert (found.status, found.detail) == (Status.OK, "the jobs run as nobody")
