"""What `schedule` refuses. tests/system shows what systemd and cron do with what it installs."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.conftest import Run, needs_root
from tests.support.tree import SampleTree


def test_a_name_that_no_root_can_have_reaches_no_file(run: Callable[..., Run]) -> None:
    done = run("schedule", "remove", "--cron", "--user", "--root", "../x")
    assert (done.code, done.stderr) == (2, "ERROR: --root ../x: not a valid name of a root\n")


def test_wrong_usage_is_exit_2_in_one_line(run: Callable[..., Run], tree: SampleTree) -> None:
    for words in (("install", "--cron", "--systemd"), ("install", "--cron", "--system")):
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


def test_an_account_without_a_manager_is_told_what_its_login_lacks(
    run: Callable[..., Run], tree: SampleTree, environment: dict[str, str]
) -> None:
    Path(environment["HOME"], "machine", "booted").mkdir(parents=True)
    found = run("schedule", "install", "--systemd", "--user", "--yes", "--base-path", tree.root)
    assert (found.code, "sudo apt install libpam-systemd" in found.stderr) == (2, True)


@pytest.mark.parametrize(("scheduler", "fix"), [("--cron", "sudo apt-get install cron"), ("--systemd", "use --cron")])
def test_a_scheduler_that_is_not_on_the_machine_is_a_usage_error(
    run: Callable[..., Run], tree: SampleTree, tmp_path: Path, scheduler: str, fix: str
) -> None:
    found = run("schedule", "install", scheduler, "--user", "--yes", "--base-path", tree.root, PATH=str(tmp_path))
    assert found.code == 2
    assert fix in " ".join(found.stderr.split())


@pytest.mark.skipif(shutil.which("systemctl") is None, reason="needs systemctl")
@pytest.mark.parametrize("scope", ["user", pytest.param("system", marks=needs_root)])
def test_units_are_written_and_enabled_where_systemd_does_not_run_and_that_is_exit_1(
    run: Callable[..., Run], tree: SampleTree, environment: dict[str, str], scope: str
) -> None:
    where = ("--systemd", f"--{scope}", "--base-path", tree.root)
    real = {"PATH": os.environ["PATH"]}  # of the machine, because systemctl(1) enables units without a manager
    if scope == "system":  # whose units would be those of this machine
        real = {"PATH": f"{tree.root.parent}/bin:{os.environ['PATH']}"}
        Path(tree.root.parent, "bin").mkdir()
        Path(tree.root.parent, "bin", "systemctl").write_text('#!/bin/sh\ncase "$*" in *is-enabled*) echo enabled ;; esac\n')
        Path(tree.root.parent, "bin", "systemctl").chmod(0o755)
    said = "systemd is not running, so no timer runs"
    for _ in range(2):
        installed = run("schedule", "install", *where, "--yes", **real)
        assert (installed.code, said in installed.stderr) == (1, True), installed
    home = Path(environment["HOME"])
    units = home / ".config" / "systemd" / "user" if scope == "user" else home / "machine" / "units"
    assert (units / "arawn-disk-check.timer").is_file()
    assert scope == "system" or (units / "timers.target.wants" / "arawn-disk-check.timer").is_symlink()
    status = run("schedule", "status", *where, **real)
    assert (status.code, status.stdout.count(said)) == (1, 2)
    doctor = run("doctor", "--base-path", tree.root, **real)
    assert {event["status"] for event in doctor.of_type("doctor_check") if str(event["check"]).endswith(" timer")} == {"fail"}
    assert run("schedule", "remove", *where[:2], "--yes", **real).code == 0
    assert not (units / "arawn-disk-check.timer").exists()


COMMANDS = (
    ("disk-check",),
    ("scratch-cleanup",),
    ("scratch-cleanup", "-n"),
    ("trash", "list"),
    ("report",),
    ("doctor",),
    ("config", "show"),
)


@pytest.mark.parametrize(
    ("where", "state"),
    [
        (("--cron", "--user"), ".local/state/arawn-cli"),
        pytest.param(("--systemd", "--system"), "machine/lib/arawn-cli", marks=needs_root),
        pytest.param(("--cron", "--system"), ".local/state/arawn-cli", marks=needs_root),
    ],
    ids=str,
)
def test_every_command_uses_the_state_of_the_installed_jobs(
    run: Callable[..., Run], tree: SampleTree, environment: dict[str, str], tmp_path: Path, where: tuple[str, str], state: str
) -> None:
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin" / "systemctl").write_text('#!/bin/sh\ncase "$*" in *is-enabled*) echo enabled ;; esac\n')
    (tmp_path / "bin" / "systemctl").chmod(0o755)
    home = Path(environment["HOME"])
    for name in ("booted", "cron.d"):
        (home / "machine" / name).mkdir(parents=True)
    shell = {"XDG_STATE_HOME": str(tmp_path / "xdg"), "PATH": f"{tmp_path}/bin:{environment['PATH']}"}
    tree.session("old", files={"f": 10}, age_days=30)
    located = ("--base-path", str(tree.root))
    done = run("schedule", "install", *where, "--yes", *located, **shell)
    assert done.code == 0, done
    for words in COMMANDS:
        done = run(*words, *located, **shell)
        assert not (tmp_path / "xdg").exists(), (words, done)
    assert (home / state / "state.db").exists()
    settings = {event["key"]: event["value"] for event in run("config", "show", *located, **shell).of_type("effective_setting")}
    assert str(home / state) in str(settings["maintenance.state_dir"])
    other = SampleTree(tmp_path / "other", tree.now)
    assert run("disk-check", "--base-path", other.root, **shell).code == 0
    assert (tmp_path / "xdg" / "arawn-cli" / "state.db").exists(), "the jobs of another root do not matter"
