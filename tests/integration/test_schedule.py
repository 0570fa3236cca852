"""What `schedule` refuses. tests/system shows what systemd and cron do with what it installs."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from tests.conftest import Run
from tests.support.tree import SampleTree


def test_a_name_that_no_root_can_have_reaches_no_file(run: Callable[..., Run]) -> None:
    done = run("schedule", "remove", "--cron", "--user", "--root", "../x")
    assert (done.code, done.stderr) == (2, "ERROR: --root ../x: not a valid name of a root\n")


def test_wrong_usage_is_exit_2_in_one_line(run: Callable[..., Run], tree: SampleTree) -> None:
    for words in (("install", "--cron", "--systemd"), ("install", "--cron", "--system"), ("install", "--systemd", "--user", "--yes")):
        done = run("schedule", *words, "--base-path", tree.root)
        assert (done.code, done.stderr.count("\n")) == (2, 1), done.stderr


def test_an_interval_that_cron_cannot_express_is_told_by_show(run: Callable[..., Run], tree: SampleTree, tmp_path: Path) -> None:
    config = tmp_path / "c.toml"
    config.write_text("[maintenance.schedule]\ndisk_check = '90s'\n")
    done = run("schedule", "show", "--cron", "--config", config, "--base-path", tree.root)
    assert (done.code, done.stdout) == (78, "")
    assert "maintenance.schedule.disk_check = '90s': cron counts in whole minutes" in done.stderr
    shown = run("schedule", "show", "--systemd", "--user", "--config", config, "--base-path", tree.root)
    assert "OnUnitActiveSec=90s" in shown.stdout
    assert f"--config {config} --base-path {tree.root}" in shown.stdout


def test_an_account_without_a_manager_is_told_what_its_login_lacks(run: Callable[..., Run], tree: SampleTree) -> None:
    found = run("schedule", "install", "--systemd", "--user", "--yes", "--base-path", tree.root)
    assert (found.code, "sudo apt install libpam-systemd" in found.stderr) == (2, True)


@pytest.mark.parametrize(("scheduler", "fix"), [("--cron", "install cron, or use --systemd"), ("--systemd", "use --cron")])
def test_a_scheduler_that_is_not_on_the_machine_is_a_usage_error(
    run: Callable[..., Run], tree: SampleTree, tmp_path: Path, scheduler: str, fix: str
) -> None:
    found = run("schedule", "install", scheduler, "--user", "--yes", "--base-path", tree.root, PATH=str(tmp_path))
    assert found.code == 2
    assert fix in " ".join(found.stderr.split())
