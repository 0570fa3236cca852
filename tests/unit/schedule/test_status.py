"""What `schedule status` reports of systemd's timers, with a systemctl(1) of the test."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from arawn_cli.command_events import Condition, RunResult
from arawn_cli.events import JobName
from arawn_cli.schedule import systemd
from arawn_cli.schedule.install import Place, bodies_of
from arawn_cli.schedule.managed_files import FileStore, with_header
from arawn_cli.schedule.places import Scheduler, Scope
from arawn_cli.schedule.status import JobStatus, Schedule, is_healthy, last_run_of, statuses
from tests.support.contrib_settings import SYSTEM
from tests.support.doctor_inputs import shell_of
from tests.support.tree import SampleTree

NOW = 1_800_000_000 * 10**9
INSTALL = "arawn-cli schedule install --systemd --system"
SYSTEMCTL = """#!/bin/sh
case "$*" in
*is-enabled*.path) echo {path_enabled} ;;
*is-active*.path) echo {path_active} ;;
*is-enabled*) echo enabled ;;
*is-active*) echo {active} ;;
*Result*) printf '%s\\n' Result={result} ExecMainStatus={code} ExecMainExitTimestamp=@1799990000 ;;
*NeedDaemonReload*) echo NeedDaemonReload={reload} ;;
*LastTriggerUSec*) echo LastTriggerUSec=@1799980000 ;;
*list-timers*) echo '[{{"unit":"arawn-disk-check.timer","next":1800000300000000}}]' ;;
esac
"""


@pytest.fixture
def reported(tree: SampleTree, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., JobStatus]:
    """The status of the disk check, or of a cleanup that a check starts, from the answers of
    systemctl(1) and edits of the installed files."""
    units = tmp_path / "units"
    units.mkdir()
    (tmp_path / "bin").mkdir()
    monkeypatch.setenv("PATH", f"{tmp_path}/bin:{os.environ['PATH']}")
    monkeypatch.setattr(systemd, "_BOOTED", str(units))

    def report(
        *,
        booted: bool = True,
        active: str = "active",
        path_enabled: str = "enabled",
        path_active: str = "active",
        result: str = "success",
        code: int = 0,
        reload: str = "no",
        edits: dict[str, str | None] | None = None,
        cleanup_on_critical: bool = False,
    ) -> JobStatus:
        script = tmp_path / "bin" / "systemctl"
        answers = {"active": active, "path_enabled": path_enabled, "path_active": path_active}
        script.write_text(SYSTEMCTL.format(**answers, result=result, code=code, reload=reload))
        script.chmod(0o755)
        if not booted:
            monkeypatch.setattr(systemd, "_BOOTED", str(tmp_path / "nowhere"))
        settings = replace(SYSTEM, root=tree.root, cleanup_on_critical=cleanup_on_critical)
        bodies = bodies_of(Scheduler.SYSTEMD, settings)
        for name, text in {**{name: with_header(body) for name, body in bodies.items()}, **(edits or {})}.items():
            if text is not None:
                (units / name).write_text(text)
        place = Place(Scheduler.SYSTEMD, Scope.SYSTEM, FileStore(units, tuple(bodies)), systemd.Manager(Scope.SYSTEM))
        cleanup, check = statuses(Schedule(place, settings, tmp_path), NOW, shell_of(tree))
        return cleanup if cleanup_on_critical else check

    return report


def test_a_timer_that_runs_as_configured_is_healthy(reported: Callable[..., JobStatus]) -> None:
    event = reported().event
    assert is_healthy(event)
    assert (event.installed, event.enabled, event.result, event.problems) == (Condition.CURRENT, True, RunResult.SUCCESS, ())
    assert (event.next_run, event.last_run) == ("2027-01-15T08:05:00.000000Z", "2027-01-15T05:13:20.000000Z")


@pytest.mark.parametrize(
    ("result", "code", "expected", "healthy"),
    [("success", 75, RunResult.LOCKED, True), ("exit-code", 77, RunResult.FAILED, False), ("timeout", 0, RunResult.FAILED, False)],
)
def test_the_result_of_the_last_run(reported: Callable[..., JobStatus], result: str, code: int, expected: RunResult, healthy: bool) -> None:
    event = reported(result=result, code=code).event
    assert (event.result, is_healthy(event)) == (expected, healthy)


@pytest.mark.parametrize(
    ("answers", "problem", "command"),
    [
        ({"active": "inactive"}, "arawn-disk-check.timer is enabled but not running", "systemctl enable --now arawn-disk-check.timer"),
        ({"reload": "yes"}, "arawn-disk-check.timer has changed since systemd read it", "systemctl daemon-reload"),
        (
            {"edits": {"arawn-notify@.service": None}},
            "arawn-notify@.service is missing: nobody is notified of a failed run",
            INSTALL,
        ),
        (
            {"edits": {"arawn-disk-check.service": with_header("of another configuration\n")}},
            "the installed schedule does not match the configuration",
            INSTALL,
        ),
        (
            {"edits": {"arawn-disk-check.service": with_header("x\n") + "edited\n"}},
            "the installed schedule was edited by hand and does not match the configuration",
            INSTALL,
        ),
    ],
    ids=["not running", "not read", "no notifier", "outdated", "edited"],
)
def test_each_problem_names_the_command_that_fixes_it(
    reported: Callable[..., JobStatus], answers: dict[str, object], problem: str, command: str
) -> None:
    found = reported(**answers)
    (first, *_) = found.problems
    assert (first.text, command in first.command, is_healthy(found.event)) == (problem, True, False)
    assert first.command.startswith("sudo ") is (os.geteuid() != 0)
    assert found.event.problems[0] == f"{problem}: run {first.command}"


@pytest.mark.parametrize(("text", "expected"), [(None, Condition.MISSING), (with_header("old\n"), Condition.OUTDATED)])
def test_a_cleanup_that_no_check_could_start_is_not_as_configured(
    reported: Callable[..., JobStatus], text: str | None, expected: Condition
) -> None:
    event = reported(cleanup_on_critical=True, edits={"arawn-cleanup-on-critical.path": text}).event
    assert (event.installed, is_healthy(event)) == (expected, False)


@pytest.mark.parametrize(
    ("enabled", "active", "problem"),
    [
        ("enabled", "failed", "arawn-cleanup-on-critical.path is enabled but not running"),
        ("disabled", "active", "arawn-cleanup-on-critical.path is running but not enabled"),
        ("disabled", "inactive", None),
    ],
)
def test_a_path_unit_that_does_not_run_is_no_more_enabled_than_a_timer(
    reported: Callable[..., JobStatus], enabled: str, active: str, problem: str | None
) -> None:
    assert is_healthy(reported(cleanup_on_critical=True).event)
    found = reported(cleanup_on_critical=True, path_enabled=enabled, path_active=active)
    assert not found.event.enabled
    assert [each.text for each in found.problems] == ([] if problem is None else [problem])


def test_a_state_without_runs_and_without_a_file_has_no_last_run(tmp_path: Path) -> None:
    assert last_run_of(tmp_path / "missing", JobName.DISK_CHECK, tmp_path) is None
    (tmp_path / "file").touch()
    assert last_run_of(tmp_path / "file", JobName.DISK_CHECK, tmp_path) is None


def test_without_a_running_systemd_no_timer_is_enabled_and_cron_is_the_way_out(reported: Callable[..., JobStatus]) -> None:
    found = reported(booted=False)
    assert (found.event.installed, found.event.enabled, found.event.next_run) == (Condition.CURRENT, False, None)
    (problem,) = found.problems
    assert problem.text == "systemd is not running, so no timer runs"
    assert "schedule remove --systemd --system" in problem.command
    assert "schedule install --cron --system" in problem.command
