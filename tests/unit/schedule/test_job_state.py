"""Where the installed jobs of a root keep their state."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from arawn_cli.config.loader import Flags, load
from arawn_cli.schedule import places
from arawn_cli.schedule.job_state import state_of_jobs
from arawn_cli.schedule.places import Scheduler
from tests.support.in_process import NOWHERE
from tests.support.tree import SampleTree

CRONTAB = """#!/bin/sh
touch "$0.was-read"
echo '# BEGIN arawn-cli schedule'
echo '@daily arawn-cli scratch-cleanup'
echo '# END arawn-cli schedule'
"""


def test_a_crontab_is_only_read_if_its_jobs_may_have_another_state(
    tree: SampleTree, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    home, crontab = tmp_path / "home", tmp_path / "bin" / "crontab"
    for directory in (home, crontab.parent):
        directory.mkdir()
    crontab.write_text(CRONTAB)
    crontab.chmod(0o755)
    monkeypatch.setenv("HOME", str(home))
    monkeypatch.setenv("PATH", f"{crontab.parent}:{os.environ['PATH']}")
    for name in ("_SYSTEM_UNITS", "_CRON_DIRECTORY"):
        monkeypatch.setattr(places, name, tmp_path / "nowhere")
    for environment, state, is_read in (
        ({}, None, False),
        ({"STATE_DIRECTORY": "/given", "XDG_STATE_HOME": "/xdg"}, None, False),
        ({"XDG_STATE_HOME": "/xdg"}, home / ".local" / "state" / "arawn-cli", True),
    ):
        config = load(Flags(base_path=str(tree.root)), environment, system_file=NOWHERE)
        assert state_of_jobs(config, environment) == state
        assert crontab.with_name("crontab.was-read").exists() is is_read


@pytest.mark.parametrize("scheduler", list(Scheduler))
def test_jobs_of_a_root_whose_path_only_begins_alike_have_another_state(
    tree: SampleTree, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, scheduler: Scheduler
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    for name in ("_SYSTEM_UNITS", "_CRON_DIRECTORY"):
        monkeypatch.setattr(places, name, tmp_path)
    line = f"scratch-cleanup --base-path {tree.root}%s"
    file = tmp_path / ("arawn-cli" if scheduler is Scheduler.CRON else "arawn-scratch-cleanup.service")
    config = load(Flags(base_path=str(tree.root)), {"XDG_STATE_HOME": "/xdg"}, system_file=NOWHERE)
    for rest, is_own in (("\n", True), (" --unless-running\n", True), ("2\n", False), ("/below --unless-running\n", False)):
        file.write_text(line % rest)
        assert (state_of_jobs(config, {}) is not None) is is_own
