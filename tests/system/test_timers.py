"""Timers of a booted systemd: they elapse, catch up and fail, for each account that can have
them."""

from __future__ import annotations

import json
import os
import shutil
import time
from datetime import UTC, datetime
from functools import partial
from itertools import pairwise
from pathlib import Path

import pytest

from arawn_cli.timestamps import DAY
from tests.conftest import needs
from tests.support.installed import ARAWN, FILE, UNITS, clean, configure, files, install, last_event, session, show, standing_in
from tests.support.machine import COMMAND, ROOT, Machine, machine, needs_machine

__all__ = ["clean", "machine"]

pytestmark = [needs_machine, pytest.mark.slow]
OFTEN = '[maintenance.schedule]\nscratch_cleanup = "2s"\ndisk_check = "2s"\n'


def test_both_timers_fire_and_their_jobs_do_their_work_inside_their_sandboxes(machine: Machine) -> None:
    configure(machine, OFTEN)
    old, used, fresh, future = (session(machine, name, age) for name, age in (("old", 30), ("used", 30), ("fresh", 1), ("future", -30)))
    machine.path("/srv/mark").touch()
    with standing_in(machine, f"{ROOT}/workstreams/scratch/sessions/used"):
        install(machine)
        machine.until(lambda: not old.exists())
        for job in ("scratch-cleanup", "disk-check"):
            machine.until(partial(show, machine, f"arawn-{job}.service", "ExecMainExitTimestamp"))
            assert show(machine, f"arawn-{job}.service", "Result") == "success"
        machine.output("systemctl", "start", "arawn-scratch-cleanup.service", "arawn-disk-check.service")
        machine.output("systemctl", "stop", "arawn-scratch-cleanup.timer", "arawn-disk-check.timer")
        services = ("arawn-scratch-cleanup.service", "arawn-disk-check.service")
        machine.until(lambda: all(show(machine, service, "ActiveState") == "inactive" for service in services))
    doctor = machine.run(COMMAND, "doctor")
    findings = {event["check"]: event["status"] for event in map(json.loads, doctor.stdout.splitlines()) if event["type"] == "doctor_check"}
    assert {check for check, status in findings.items() if status == "fail"} == {"scratch-cleanup timer", "disk-check timer"}  # stopped
    assert (findings["scratch-cleanup last success"], findings["disk-check last success"]) == ("ok", "ok")
    assert used.exists()
    assert fresh.exists()
    assert future.exists()
    summary = last_event(machine, "--unit=arawn-scratch-cleanup", "scratch_cleanup")
    assert summary["sessions_kept"] == {"in_use": 1, "recent_files": 1, "future_timestamp": 1}
    check = last_event(machine, "--unit=arawn-disk-check", "disk_check")
    assert (check["complete"], check["total_usage_bytes"]) == (True, 3000 + int(str(check["trash_bytes"])))
    priorities = {(str(entry["MESSAGE"]).split(":")[0], entry["PRIORITY"]) for entry in machine.journal("--unit=arawn-scratch-cleanup")}
    assert ("trashed session old (expired", "6") in priorities
    assert ("kept session future (future_timestamp", "4") in priorities
    assert not any("priorities stay" in message for message, _ in priorities)
    changed = machine.output(
        "find", "/etc", "/home", "/opt", "/root", "/srv", "/var", "-xdev", "-cnewer", "/srv/mark", "-type", "f"
    ).split()
    written = {path for path in changed if not path.startswith((f"{UNITS}/", "/var/lib/systemd/", "/etc/arawn/"))}
    assert written
    assert all(path.startswith((f"{ROOT}/", "/var/lib/arawn-cli/")) for path in written), written


@needs(shutil.which("zic", path="/usr/sbin:/usr/bin") is not None, "zic")
@pytest.mark.parametrize(("before", "after"), [("2:00", "1:00"), ("1:00", "2:00")], ids=["twice", "never"])
def test_a_timer_goes_on_evenly_when_the_clock_of_its_zone_changes(machine: Machine, before: str, after: str) -> None:
    """The clock of the machine is real; its time zone changes the offset from UTC in a few
    seconds."""
    configure(machine, OFTEN)
    change = datetime.fromtimestamp(int(time.time()) + 8, UTC)
    source = f"Zone Test/Zone {before} - BEF {change:%Y %b %d %H:%M:%S}u\n {after} - AFT\n"
    machine.path("/run/zone").write_text(source)
    machine.output(
        "sh", "-c", "zic -d /run/zones /run/zone && cp -P /etc/localtime /run/localtime && ln -sf /run/zones/Test/Zone /etc/localtime"
    )
    try:
        machine.output("systemctl", "daemon-reload")
        install(machine)
        expected = change.timestamp() + 8
        time.sleep(expected - time.time())
        machine.output("systemctl", "stop", "arawn-disk-check.timer", "arawn-scratch-cleanup.timer")
        started = [
            int(str(entry["__REALTIME_TIMESTAMP"])) / 1e6
            for entry in machine.journal("UNIT=arawn-disk-check.service")
            if entry.get("JOB_TYPE") == "start"
        ]
    finally:
        machine.output("sh", "-c", "mv /run/localtime /etc/localtime; systemctl daemon-reload")
    times = sorted({round(each) for each in started if change.timestamp() - 5 <= each <= expected})
    assert len(times) >= 5
    assert all(following - previous <= 4 for previous, following in pairwise(times)), times


def test_a_run_that_was_missed_for_three_days_is_made_up_for(machine: Machine) -> None:
    old = session(machine, "old", 30)
    install(machine)
    assert old.exists()
    machine.output("systemctl", "stop", "arawn-scratch-cleanup.timer")
    machine.output("touch", "-d", "3 days ago", "/var/lib/systemd/timers/stamp-arawn-scratch-cleanup.timer")
    drop_in = machine.path(f"{UNITS}/arawn-scratch-cleanup.timer.d")
    drop_in.mkdir()
    (drop_in / "now.conf").write_text("[Timer]\nRandomizedDelaySec=0\n")  # a delay of up to an hour is the only thing taken away
    machine.output("systemctl", "daemon-reload")
    machine.output("systemctl", "start", "arawn-scratch-cleanup.timer")
    machine.until(lambda: not old.exists())


def test_a_failing_run_calls_the_notifier_and_status_and_doctor_say_so(machine: Machine) -> None:
    def alerts() -> list[dict[str, str]]:
        lines = machine.output("journalctl", "-t", "arawn-notify", "-o", "json").splitlines()
        return [entry for entry in map(json.loads, lines) if entry["MESSAGE"].startswith("arawn-scratch-cleanup.service has failed")]

    before = len(alerts())
    install(machine)
    machine.output("chmod", "o+w", ROOT)
    assert machine.run("systemctl", "start", "arawn-scratch-cleanup.service").returncode != 0
    assert show(machine, "arawn-scratch-cleanup.service", "ExecMainStatus") == "77"
    machine.until(lambda: len(alerts()) > before)
    (alert,) = alerts()[before:]
    assert alert["PRIORITY"] == "1"
    assert alert["MESSAGE"].startswith("arawn-scratch-cleanup.service has failed; see: journalctl")
    refused = [entry for entry in machine.journal("--unit=arawn-scratch-cleanup") if "writable by everyone" in str(entry["MESSAGE"])]
    assert refused[-1]["PRIORITY"] == "3"
    machine.output("chmod", "o-w", ROOT)
    status = machine.run(COMMAND, "schedule", "status")
    assert (status.returncode, json.loads(status.stdout.splitlines()[0])["result"]) == (1, "failed")
    doctor = machine.run(COMMAND, "doctor")
    assert doctor.returncode == 1
    failed = [event for event in map(json.loads, doctor.stdout.splitlines()) if event.get("status") == "fail"]
    assert [(event["check"], event["fix"]) for event in failed] == [("scratch-cleanup timer", "journalctl -u arawn-scratch-cleanup -n 50")]


def test_the_second_of_two_runs_is_a_success_with_75(machine: Machine) -> None:
    install(machine)
    machine.output("systemctl", "start", "arawn-scratch-cleanup.service")
    holder = machine.start("sh", "-c", "exec flock /var/lib/arawn-cli/scratch-cleanup.*.lock -c 'echo held; exec sleep 60'")
    assert holder.stdout is not None
    assert holder.stdout.readline() == "held\n"
    machine.output("systemctl", "start", "arawn-scratch-cleanup.service")
    machine.run("pkill", "-x", "sleep")
    holder.wait()
    assert show(machine, "arawn-scratch-cleanup.service", "ExecMainStatus") == "75"
    assert show(machine, "arawn-scratch-cleanup.service", "Result") == "success"
    status = machine.run(COMMAND, "schedule", "status")
    assert json.loads(status.stdout.splitlines()[0])["result"] == "locked"
    assert status.returncode == 0


def test_a_job_that_did_not_run_for_days_is_overdue(machine: Machine) -> None:
    install(machine)
    machine.output("systemctl", "start", "arawn-scratch-cleanup.service")
    statement = f"UPDATE runs SET last_success = {time.time_ns() - 3 * DAY}"
    program = f"import sqlite3; base = sqlite3.connect('/var/lib/arawn-cli/state.db'); base.execute('{statement}'); base.commit()"
    machine.output("/opt/arawn-cli/bin/python3", "-c", program)
    events = map(json.loads, machine.run(COMMAND, "doctor").stdout.splitlines())
    (overdue,) = [event for event in events if event.get("status") == "fail"]
    assert (overdue["check"], overdue["fix"]) == ("scratch-cleanup last success", "systemctl start arawn-scratch-cleanup.service")
    assert "overdue: it runs daily" in overdue["detail"]


def test_timers_of_two_roots_of_two_accounts_run_beside_each_other_and_go_alone(machine: Machine) -> None:
    lab = "/srv/lab"
    machine.output("sh", "-c", f"useradd --create-home lab && cp -a {ROOT} {lab} && chown -R lab: {lab}")
    configure(machine, f'[[maintenance.roots]]\nname = "lab"\npath = "{lab}"\nscratch_cleanup_days = 50\n')
    old = session(machine, "old", 30)
    machine.output("cp", "-a", f"{ROOT}/workstreams/scratch/sessions/old", f"{lab}/workstreams/scratch/sessions/old")
    before = files(machine)
    install(machine, "--root", "lab")
    only_lab = files(machine)
    install(machine)
    for words in ((), ("--root", "lab")):
        assert machine.run(COMMAND, "schedule", "status", *words).returncode == 0
    machine.output("systemctl", "start", *(f"arawn-{job}{of}.service" for job in ("scratch-cleanup", "disk-check") for of in ("", "-lab")))
    assert (old.exists(), machine.path(f"{lab}/workstreams/scratch/sessions/old").exists()) == (False, True)
    for unit, root in (("arawn-disk-check", None), ("arawn-disk-check-lab", "lab")):
        assert last_event(machine, f"--unit={unit}", "disk_check")["root"] == root
    owners = {path: machine.output("stat", "-c", "%U", f"/var/lib/{path}/state.db").strip() for path in ("arawn-cli", "arawn-cli-lab")}
    assert owners == {"arawn-cli": "arawn", "arawn-cli-lab": "lab"}
    doctor = machine.run(COMMAND, "doctor", "--root", "lab")
    assert (doctor.returncode, doctor.stdout.count("as configured, next run")) == (0, 2), doctor.stdout
    machine.output("rm", "-rf", "/var/lib/arawn-cli", "/var/lib/arawn-cli-lab")
    machine.output(COMMAND, "schedule", "remove", "--yes")
    assert files(machine) == only_lab
    assert show(machine, "arawn-disk-check-lab.timer", "ActiveState") == "active"
    machine.output(COMMAND, "schedule", "remove", "--root", "lab", "--yes")
    assert files(machine) == before
    machine.output("sh", "-c", f"userdel -r lab 2>/dev/null; rm -rf {lab}")


@pytest.mark.parametrize("powers", ["", "CAP_WAKE_ALARM"])
def test_timers_of_an_account_run_in_its_own_manager(machine: Machine, powers: str) -> None:
    """Cleanup sees which sessions are in use; the check is confined in a user namespace.

    From systemd 254 on the manager has that power.
    """
    machine.path(FILE).unlink()
    drop_in = machine.path(f"{UNITS}/user@.service.d/powers.conf")
    drop_in.parent.mkdir()
    drop_in.write_text(f"[Service]\nAmbientCapabilities={powers}\n")
    machine.output("systemctl", "daemon-reload")
    machine.output("sh", "-c", f"mv {ROOT} /home/arawn/.arawn; touch /var/lib/systemd/linger/arawn; systemctl start user@{ARAWN}.service")
    try:
        before = files(machine)
        install(machine, "--user", user="arawn")
        machine.output(
            "sh",
            "-c",
            "cd /home/arawn/.arawn/workstreams/scratch/sessions; mkdir old used; touch -d '30 days ago' old used; chown arawn: *",
        )
        with standing_in(machine, "/home/arawn/.arawn/workstreams/scratch/sessions/used"):
            manager = show(machine, f"user@{ARAWN}.service", "MainPID")
            hidden = machine.run("readlink", f"/proc/{manager}/cwd", user="arawn").returncode != 0
            assert hidden is bool(powers)
            by_hand = machine.run(COMMAND, "scratch-cleanup", "--dry-run", user="arawn")
            assert (by_hand.returncode, by_hand.stderr) == (0, "")
            assert '"sessions_kept":{"in_use":1}' in by_hand.stdout
            for job in ("scratch-cleanup", "disk-check"):
                machine.output("systemctl", "--user", "start", f"arawn-{job}.service", user="arawn")
        assert os.listdir(machine.path("/home/arawn/.arawn/workstreams/scratch/sessions")) == ["used"]
        check = last_event(machine, "_SYSTEMD_USER_UNIT=arawn-disk-check.service", "disk_check")
        assert check["complete"] is True
        assert machine.run(COMMAND, "schedule", "status", user="arawn").returncode == 0
        doctor = map(json.loads, machine.run(COMMAND, "doctor", user="arawn").stdout.splitlines())
        assert {event["check"] for event in doctor if event.get("fix")} <= {"clock"}
        machine.output("sh", "-c", "rm -rf /home/arawn/.local/state/arawn-cli/* /home/arawn/.arawn/workstreams/scratch/sessions/*")
        machine.output(COMMAND, "schedule", "remove", "--user", "--yes", user="arawn")
        after = files(machine)
        changed = {path for path in before.keys() ^ after.keys() if "/.arawn/" not in path}
        assert {path for path in changed if not Path(path).is_dir()} == set()
    finally:
        stop = f"systemctl stop user@{ARAWN}.service; rm -rf {UNITS}/user@.service.d /var/lib/systemd/linger/arawn; systemctl daemon-reload"
        machine.output("sh", "-c", f"{stop}; mv /home/arawn/.arawn {ROOT}")


def test_a_check_that_turns_critical_starts_the_cleanup_without_any_privilege(machine: Machine) -> None:
    rare = '[maintenance.schedule]\nscratch_cleanup = "weekly"\ndisk_check = "1h"\n'
    configure(machine, f"{rare}[maintenance.pressure]\ntotal = 400\n[maintenance.cleanup]\ncleanup_on = 'critical'\n")
    install(machine)
    machine.output("systemctl", "start", "arawn-disk-check.service")  # below its limit
    old = session(machine, "old", 30)
    machine.output("systemctl", "start", "arawn-disk-check.service")
    machine.until(lambda: not old.exists())
    machine.until(lambda: show(machine, "arawn-scratch-cleanup.service", "ActiveState") == "inactive")
    assert show(machine, "arawn-scratch-cleanup.service", "Result") == "success"
    machine.output(COMMAND, "schedule", "remove", "--yes")
    assert not [path for path in machine.path(UNITS).iterdir() if path.suffix == ".path"]
