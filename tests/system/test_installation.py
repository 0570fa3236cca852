"""Units and crontabs of a booted machine.

Installed, edited, read again by systemd, and removed to the last byte.
"""

from __future__ import annotations

import json
import shutil

import pytest

from arawn_cli.schedule.managed_files import with_header
from tests.support.installed import ARAWN, FILE, UNITS, clean, configure, files, install, last_event, show
from tests.support.machine import COMMAND, ROOT, Machine, machine, needs_machine

__all__ = ["clean", "machine"]

pytestmark = [needs_machine, pytest.mark.slow]


def test_installing_twice_changes_nothing_and_removing_leaves_every_byte_as_it_was(machine: Machine) -> None:
    for flags in (("--systemd",), ("--cron",), ("--cron", "--user")):
        before = files(machine)
        install(machine, *flags)
        once = files(machine)
        assert once != before
        again = machine.run(COMMAND, "schedule", "install", *flags)
        assert ("Installed already" in again.stdout, again.returncode) == (True, 1 if "--cron" in flags else 0)  # no cron runs here
        assert files(machine) == once
        machine.output(COMMAND, "schedule", "remove", *flags, "--yes")
        assert files(machine) == before
        assert "Nothing is installed" in machine.output(COMMAND, "schedule", "remove", *flags)


def test_what_systemd_has_not_read_yet_is_told_and_mended_by_installing_again(machine: Machine) -> None:
    """As after an installation that was interrupted between its files and systemd."""
    install(machine)
    configure(machine, '[maintenance.schedule]\ndisk_check = "12h"\n')
    shown = machine.output(COMMAND, "schedule", "show", "--systemd").split("# arawn-disk-check.timer\n")[1].split("\n# arawn-")[0]
    machine.path(f"{UNITS}/arawn-disk-check.timer").write_text(with_header(shown))
    status = machine.run(COMMAND, "schedule", "status")
    assert "arawn-disk-check.timer has changed since systemd read it: run systemctl daemon-reload" in status.stdout
    assert (status.returncode, show(machine, "arawn-disk-check.timer", "NeedDaemonReload")) == (1, "yes")
    install(machine)
    assert show(machine, "arawn-disk-check.timer", "NeedDaemonReload") == "no"
    assert "00/12:00:00" in show(machine, "arawn-disk-check.timer", "TimersCalendar")
    assert machine.run(COMMAND, "schedule", "status").returncode == 0


def test_an_edit_is_noticed_and_neither_overwritten_nor_removed_without_a_question(machine: Machine) -> None:
    install(machine)
    unit = machine.path(f"{UNITS}/arawn-disk-check.service")
    unit.write_text(unit.read_text().replace("TimeoutStartSec=30min", "TimeoutStartSec=2min"))
    edited = unit.read_text()
    assert "edited by hand" in machine.run(COMMAND, "schedule", "status").stdout
    for action in ("install", "remove"):
        refused = machine.run(COMMAND, "schedule", action, "--yes")
        assert (refused.returncode, unit.read_text()) == (77, edited)
        assert "was edited by hand" in refused.stderr
        assert "TimeoutStartSec=2min" in refused.stdout
    machine.output(COMMAND, "schedule", "install", "--yes", "--force")
    assert "TimeoutStartSec=30min" in unit.read_text()


def test_a_path_full_of_syntax_reaches_the_command_as_it_is(machine: Machine) -> None:
    strange = "/srv/a b%h$HOME'\"\\%-ä;#"
    machine.output("cp", "-a", ROOT, strange)
    configure(machine)
    machine.path(f"{strange}/config.toml").write_text(f"[paths]\nbase_path = {json.dumps(strange, ensure_ascii=False)}\n")
    options = ("--config", f"{strange}/config.toml", "--yes")
    for flags, code in (("--systemd", 0), ("--cron", 1)):  # no cron runs in this machine
        assert machine.run(COMMAND, "schedule", "install", flags, *options).returncode == code
    machine.output("systemctl", "start", "arawn-scratch-cleanup.service", "arawn-disk-check.service")
    assert last_event(machine, "--unit=arawn-scratch-cleanup", "scratch_cleanup")["failures"] == []
    line = next(line for line in machine.path("/etc/cron.d/arawn-cli").read_text().splitlines() if "scratch-cleanup" in line)
    command = line.split(" ", 6)[6].replace("\\%", "%").rpartition(" | ")[0] + " --dry-run"
    assert json.loads(machine.output("sh", "-c", command).splitlines()[-1])["type"] == "scratch_cleanup"
    status = machine.run(COMMAND, "schedule", "status", *options[:2])
    assert (status.returncode, [json.loads(line)["problems"] for line in status.stdout.splitlines()]) == (0, [[], []])
    machine.output("rm", "-rf", strange)


def test_timers_that_end_with_the_login_are_told_with_what_the_account_may_type(machine: Machine) -> None:
    machine.path(FILE).unlink()
    machine.output("sh", "-c", f"mv {ROOT} /home/arawn/.arawn; systemctl start user@{ARAWN}.service")
    has_polkit = shutil.which("pkcheck") is not None
    fix = f"{'' if has_polkit else 'sudo '}loginctl enable-linger arawn"
    try:
        for _ in range(2):
            assert fix in machine.output(COMMAND, "schedule", "install", "--user", "--yes", user="arawn")
        status = machine.run(COMMAND, "schedule", "status", user="arawn")
        assert (status.returncode, status.stdout.count(f"stop when it logs out: run {fix}")) == (1, 2)
        checks = [json.loads(line) for line in machine.run(COMMAND, "doctor", user="arawn").stdout.splitlines()]
        assert {check["fix"] for check in checks if check.get("check") == "disk-check timer"} == {fix}
        if has_polkit:
            machine.output("sh", "-c", fix, user="arawn")
        else:
            machine.output("sh", "-c", fix.removeprefix("sudo "))
        assert fix not in machine.output(COMMAND, "schedule", "install", "--user", "--yes", user="arawn")
        machine.output(COMMAND, "schedule", "remove", "--yes", user="arawn")
    finally:
        machine.output(
            "sh", "-c", f"systemctl stop user@{ARAWN}.service; rm -f /var/lib/systemd/linger/arawn; mv /home/arawn/.arawn {ROOT}"
        )


def test_a_configuration_of_the_owner_that_is_its_alone_is_mended_as_root(machine: Machine) -> None:
    own = "/home/arawn/.config/arawn/config.toml"
    machine.output("sh", "-c", f"chmod 755 /home/arawn; install -D -m 600 -o arawn /dev/null {own}")
    checks = [json.loads(line) for line in machine.run(COMMAND, "doctor", "--base-path", ROOT, user="nobody").stdout.splitlines()]
    (fix,) = [check["fix"] for check in checks if check.get("check") == "configuration of the owner"]
    assert fix.startswith(f"sudo {COMMAND} doctor --config {own} --base-path {ROOT}")
    machine.output("rm", "-r", "/home/arawn/.config")
