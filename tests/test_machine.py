"""Installed for real: systemd as PID 1, timers that fire, sandboxes that hold, and a cron whose clock the test turns."""

from __future__ import annotations

import json
import os
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from functools import partial
from pathlib import Path

import pytest

from arawn_cli.instants import DAY
from arawn_cli.sample_tree import set_age
from arawn_cli.schedule.ownership import sealed
from tests.conftest import needs
from tests.machine import COMMAND, ROOT, Machine, machine, needs_machine

__all__ = ["machine"]

pytestmark = [needs_machine, pytest.mark.slow]
FAKETIME = next(iter(Path("/usr/lib").glob("*/faketime/libfaketime.so.1")), None)
needs_cron = needs(FAKETIME is not None and all(shutil.which(name) for name in ("cron", "strace")), "cron, faketime and strace")

ARAWN = 1500
FILE = "/etc/arawn/config.toml"
UNITS = "/etc/systemd/system"
OFTEN = '[maintenance.schedule]\nscratch_cleanup = "2s"\ndisk_check = "2s"\n'
WATCHED = ("/etc", "/var/lib/systemd", "/var/lib/arawn-cli", "/var/spool/cron", "/home/arawn", os.path.expanduser("~root/.config"))

RELAY = """
import glob, http.server, json
class Relay(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    def may(self):
        return self.headers.get("Authorization", "") == "Bearer tok-3"
    def handle_expect_100(self):
        if not self.may():
            self.send_error(401)
            return False
        return super().handle_expect_100()
    def do_POST(self):
        promised = int(self.headers["Content-Length"])
        body = self.rfile.read(promised).decode()
        if len(body) < promised:
            self.close_connection = True
            return
        seen = []
        for path in glob.glob("/proc/[0-9]*/environ"):
            try:
                seen += [path] if b"tok-3" in open(path, "rb").read() else []
            except OSError:
                pass
        open("/run/relay.log", "a").write(json.dumps([self.headers["Authorization"], body, seen]) + "\\n")
        self.send_response(202 if self.may() else 401)
        self.send_header("Content-Length", "0")
        self.end_headers()
    def log_message(self, *arguments):
        pass
http.server.ThreadingHTTPServer(("127.0.0.1", 8099), Relay).serve_forever()
"""


@pytest.fixture(autouse=True)
def clean(machine: Machine) -> Iterator[None]:
    """A configuration with timers far away, an empty tree, and afterwards nothing installed."""
    configure(machine)
    yield
    for flags in (("--systemd",), ("--cron",)):
        machine.output(COMMAND, "schedule", "remove", *flags, "--system", "--yes", "--force", "--quiet")
    machine.output(
        "sh",
        "-c",
        f"rm -rf {ROOT}/workstreams/scratch/sessions/* /var/lib/arawn-cli /home/arawn/.local {UNITS}/arawn-*.d; chmod o-w {ROOT}",
    )


def configure(machine: Machine, text: str = "", root: str = ROOT) -> None:
    machine.path(FILE).write_text(f'[paths]\nbase_path = "{root}"\n{text}')


def session(machine: Machine, name: str, age_days: float) -> Path:
    directory = machine.path(f"{ROOT}/workstreams/scratch/sessions/{name}")
    directory.mkdir()
    (directory / "file").write_bytes(b"x" * 1000)
    set_age(directory, time.time_ns() - int(age_days * DAY))
    for path in (directory, directory / "file"):
        os.chown(path, ARAWN, ARAWN)
    return directory


def install(machine: Machine, *flags: str, user: str | None = None) -> None:
    machine.output(COMMAND, "schedule", "install", "--yes", *flags, user=user)


def files(machine: Machine) -> dict[str, tuple[object, ...]]:
    """Everything that stands in the places where installing could leave something: mode, owner, content."""
    found: dict[str, tuple[object, ...]] = {}
    for top in WATCHED:
        for directory, _, names in os.walk(machine.path(top)):
            for path in (directory, *(os.path.join(directory, name) for name in names)):
                status = os.lstat(path)
                content = os.readlink(path) if os.path.islink(path) else Path(path).read_bytes() if os.path.isfile(path) else None
                found[path] = (status.st_mode, status.st_uid, status.st_gid, content)
    return found


def last_event(machine: Machine, match: str, kind: str) -> dict[str, object]:
    messages = [str(entry["MESSAGE"]) for entry in machine.journal(match)]
    events = [json.loads(message) for message in messages if message.startswith("{")]
    return next(event for event in reversed(events) if event["type"] == kind)


def show(machine: Machine, unit: str, name: str) -> str:
    return machine.output("systemctl", "show", f"--property={name}", "--value", unit).strip()


@contextmanager
def standing_in(machine: Machine, directory: str) -> Iterator[None]:
    process = machine.start("sh", "-c", f"cd {directory} && echo there && exec sleep 60", user="arawn")
    assert process.stdout is not None
    assert process.stdout.readline() == "there\n"
    try:
        yield
    finally:
        process.kill()
        machine.run("pkill", "-x", "sleep")
        process.wait()


@contextmanager
def relay(machine: Machine) -> Iterator[Callable[[], list[list[object]]]]:
    """A relay inside that keeps what it is told, and looks for the token in every environment when it is."""
    log = machine.path("/run/relay.log")
    log.write_text("")
    process = machine.start("/opt/arawn-cli/bin/python3", "-c", RELAY)
    probe = ("/opt/arawn-cli/bin/python3", "-c", "import socket; socket.create_connection(('127.0.0.1', 8099))")
    machine.until(lambda: machine.run(*probe).returncode == 0)
    try:
        yield lambda: [json.loads(line) for line in log.read_text().splitlines()]
    finally:
        process.kill()
        machine.run("pkill", "-f", "BaseHTTPRequestHandler")
        process.wait()


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
    assert summary["sessions_skipped"] == {"in_use": 1, "recent_files": 1, "future_timestamp": 1}
    check = last_event(machine, "--unit=arawn-disk-check", "disk_check")
    assert (check["complete"], check["total_usage_bytes"]) == (True, 3000)
    priorities = {(str(entry["MESSAGE"]).split(":")[0], entry["PRIORITY"]) for entry in machine.journal("--unit=arawn-scratch-cleanup")}
    assert ("deleted session old (expired)", "6") in priorities
    assert ("skipped session future (future_timestamp)", "4") in priorities
    assert not any("priorities stay" in message for message, _ in priorities)
    changed = machine.output(
        "find", "/etc", "/home", "/opt", "/root", "/srv", "/var", "-xdev", "-cnewer", "/srv/mark", "-type", "f"
    ).split()
    written = {path for path in changed if not path.startswith((f"{UNITS}/", "/var/lib/systemd/", "/etc/arawn/"))}
    assert written
    assert all(path.startswith((f"{ROOT}/", "/var/lib/arawn-cli/")) for path in written), written


def test_what_the_kernel_hides_from_the_service_keeps_every_session(machine: Machine) -> None:
    """A server with a capability is hidden from a service of its account without; an agent that guards itself stops nothing."""
    install(machine)
    for name in ("old", "served"):
        session(machine, name, 30)
    served = f"--property=WorkingDirectory={ROOT}/workstreams/scratch/sessions/served"
    capable = "--property=AmbientCapabilities=CAP_NET_BIND_SERVICE"
    machine.output("systemd-run", "--quiet", "--uid=arawn", "--unit=server", capable, served, "sleep", "60")
    assert machine.run("systemctl", "start", "arawn-scratch-cleanup.service").returncode != 0
    machine.output("systemctl", "stop", "server.service")
    summary = last_event(machine, "--unit=arawn-scratch-cleanup", "scratch_cleanup")
    assert summary["sessions_skipped"] == {"activity_unknown": 2}
    guarded = "import ctypes, time; ctypes.CDLL(None).prctl(4, 0); time.sleep(60)"  # PR_SET_DUMPABLE
    library = "--setenv=LD_LIBRARY_PATH=/opt/python/lib"
    machine.output("systemd-run", "--quiet", "--uid=arawn", "--unit=agent", library, "/opt/arawn-cli/bin/python3", "-c", guarded)
    pid = show(machine, "agent.service", "MainPID")
    machine.until(lambda: os.lstat(machine.path(f"/proc/{pid}/cwd")).st_uid == 0)
    machine.output("systemctl", "start", "arawn-scratch-cleanup.service")
    machine.output("systemctl", "stop", "agent.service")
    assert os.listdir(machine.path(f"{ROOT}/workstreams/scratch/sessions")) == []


def test_a_tree_of_root_is_cleaned_and_what_any_account_uses_stays(machine: Machine) -> None:
    machine.output("chown", "-R", "root:", ROOT)
    install(machine)
    for name in ("old", "root", "nobody"):
        session(machine, name, 30)
    machine.output("chown", "-R", "root:", ROOT)
    for account in ("root", "nobody"):
        place = f"--property=WorkingDirectory={ROOT}/workstreams/scratch/sessions/{account}"
        machine.output("systemd-run", "--quiet", f"--uid={account}", f"--unit=user-{account}", place, "sleep", "60")
    machine.output("systemctl", "start", "arawn-scratch-cleanup.service")
    machine.output("systemctl", "stop", "user-root.service", "user-nobody.service")
    machine.output("chown", "-R", "arawn:", ROOT)
    assert sorted(os.listdir(machine.path(f"{ROOT}/workstreams/scratch/sessions"))) == ["nobody", "root"]


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
    assert [(event["check"], event["mend"]) for event in failed] == [("scratch-cleanup timer", "journalctl -u arawn-scratch-cleanup -n 50")]


def test_the_second_of_two_runs_is_a_success_with_75(machine: Machine) -> None:
    install(machine)
    holder = machine.start("flock", f"{ROOT}/workstreams", "-c", "echo held; exec sleep 60")
    assert holder.stdout is not None
    assert holder.stdout.readline() == "held\n"
    machine.output("systemctl", "start", "arawn-scratch-cleanup.service")
    machine.run("pkill", "-x", "sleep")
    holder.wait()
    assert show(machine, "arawn-scratch-cleanup.service", "ExecMainStatus") == "75"
    assert show(machine, "arawn-scratch-cleanup.service", "Result") == "success"
    status = machine.run(COMMAND, "schedule", "status")
    assert json.loads(status.stdout.splitlines()[0])["result"] == "another run was at work"
    assert status.returncode == 0


def test_a_job_that_did_not_run_for_days_is_overdue(machine: Machine) -> None:
    install(machine)
    machine.output("systemctl", "start", "arawn-scratch-cleanup.service")
    statement = f"UPDATE runs SET last_success = {time.time_ns() - 3 * DAY}"
    program = f"import sqlite3; base = sqlite3.connect('/var/lib/arawn-cli/state.db'); base.execute('{statement}'); base.commit()"
    machine.output("/opt/arawn-cli/bin/python3", "-c", program)
    events = map(json.loads, machine.run(COMMAND, "doctor").stdout.splitlines())
    (overdue,) = [event for event in events if event.get("status") == "fail"]
    assert (overdue["check"], overdue["mend"]) == ("scratch-cleanup last success", "systemctl start arawn-scratch-cleanup.service")
    assert "which is overdue: it runs daily" in overdue["detail"]


def test_the_token_arrives_as_a_credential_and_stands_in_no_environment(machine: Machine) -> None:
    token = machine.path("/etc/arawn/relay.token")
    token.write_text("tok-3\n")
    token.chmod(0o600)
    table = 'url = "http://127.0.0.1:8099/pub"\ntoken_file = "/etc/arawn/relay.token"\nevents = ["disk_check", "scratch_cleanup"]\n'
    configure(machine, f"[maintenance.relay]\n{table}")
    install(machine)
    with relay(machine) as told:
        for job in ("scratch-cleanup", "disk-check"):
            machine.output("systemctl", "start", f"arawn-{job}.service")
        doctor = machine.run(COMMAND, "doctor")
        posts = told()
    assert [(token, seen) for token, _, seen in posts] == [("Bearer tok-3", [])] * 2
    assert [json.loads(str(body))["type"] for _, body, _ in posts] == ["scratch_cleanup", "disk_check"]
    assert "tok-3" not in show(machine, "arawn-disk-check.service", "Environment")
    (said,) = [event for event in map(json.loads, doctor.stdout.splitlines()) if event.get("check") == "relay"]
    assert (said["status"], said["detail"]) == ("ok", "http://127.0.0.1:8099/pub is reachable and accepts the token")


def test_a_report_follows_the_state_that_the_timers_keep_and_says_where_it_cannot(machine: Machine) -> None:
    configure(machine, "[paths.usage]\nsession_warning_mb = 0.0001\n")
    session(machine, "large", 1)
    install(machine)
    machine.output("systemctl", "start", "arawn-disk-check.service")
    alert, unread = "ok to critical", "the timers keep their history in /var/lib/arawn-cli, which this account cannot read"
    for enter in ((), ("setpriv", "--reuid=arawn", "--regid=arawn", "--init-groups", "env", "HOME=/home/arawn")):
        done = machine.run(*enter, COMMAND, "report")
        assert (done.returncode, alert in done.stdout, unread in done.stdout) == (0, True, False), done
    done = machine.run("setpriv", "--reuid=nobody", "--regid=nogroup", "--clear-groups", "env", "HOME=/tmp", COMMAND, "report")
    assert (done.returncode, alert in done.stdout, " ".join(done.stdout.split()).count(unread)) == (1, False, 1), done


def test_a_root_that_the_unit_may_not_write_to_is_told_before_the_first_night(machine: Machine) -> None:
    install(machine)
    assert machine.run(COMMAND, "schedule", "status").returncode == 0
    machine.output("sh", "-c", "mkdir -p /srv/other/workstreams && chown -R arawn: /srv/other")
    configure(machine, root="/srv/other")
    status = machine.run(COMMAND, "schedule", "status")
    assert status.returncode == 1
    sentence = "/srv/other lies outside what arawn-scratch-cleanup.service may write to: it would fail"
    assert sentence in status.stdout
    doctor = machine.run(COMMAND, "doctor")
    assert (doctor.returncode, sentence in doctor.stdout) == (1, True)
    install(machine)
    assert machine.run(COMMAND, "schedule", "status").returncode == 0


def test_metrics_and_a_state_directory_of_any_name_are_written_by_both_jobs(machine: Machine) -> None:
    configure(machine, '[maintenance]\nstate_dir = "/var/lib/arawn_state.d"\n[maintenance.metrics]\ntextfile_dir = "/var/lib/metrics"\n')
    machine.output("install", "-d", "-o", "arawn", "/var/lib/metrics")
    install(machine)
    machine.output("systemctl", "start", "arawn-scratch-cleanup.service", "arawn-disk-check.service")
    assert set(os.listdir(machine.path("/var/lib/metrics"))) == {"arawn_scratch_cleanup.prom", "arawn_disk_check.prom"}
    assert machine.path("/var/lib/arawn_state.d/state.db").exists()
    machine.output("rm", "-rf", "/var/lib/metrics", "/var/lib/arawn_state.d")


def test_a_root_in_a_home_that_a_link_leads_to_is_open_to_the_jobs(machine: Machine) -> None:
    machine.output("sh", "-c", f"mv /home /var/home && ln -s var/home /home && cp -a {ROOT} /home/arawn/.arawn")
    configure(machine, root="/home/arawn/.arawn")
    install(machine)
    machine.output("systemctl", "start", "arawn-scratch-cleanup.service", "arawn-disk-check.service")
    assert machine.run(COMMAND, "schedule", "status").returncode == 0
    drop_in = machine.path(f"{UNITS}/arawn-disk-check.service.d")
    drop_in.mkdir()
    (drop_in / "closed.conf").write_text("[Service]\nProtectHome=yes\n")
    machine.output("systemctl", "daemon-reload")
    status = machine.run(COMMAND, "schedule", "status")
    assert "/var/home/arawn/.arawn is hidden from arawn-disk-check.service by ProtectHome=" in status.stdout
    machine.output("sh", "-c", "rm -rf /home/arawn/.arawn && rm /home && mv /var/home /home")


def test_what_the_account_of_the_jobs_cannot_read_is_told_before_the_first_night(machine: Machine) -> None:
    machine.path(FILE).chmod(0o600)
    sentence = f"arawn, the account that the jobs run as, has no access to {FILE}: they would fail"
    installed = machine.run(COMMAND, "schedule", "install", "--yes")
    assert (installed.returncode, installed.stderr.count(sentence)) == (0, 1)
    status = machine.run(COMMAND, "schedule", "status")
    assert (status.returncode, sentence in status.stdout) == (1, True)
    machine.path(FILE).chmod(0o644)
    assert machine.run(COMMAND, "schedule", "status").returncode == 0


def test_installing_twice_changes_nothing_and_removing_leaves_every_byte_as_it_was(machine: Machine) -> None:
    for flags in (("--systemd",), ("--cron",), ("--cron", "--user")):
        before = files(machine)
        install(machine, *flags)
        once = files(machine)
        assert once != before
        assert "Installed already" in machine.output(COMMAND, "schedule", "install", *flags)
        assert files(machine) == once
        machine.output(COMMAND, "schedule", "remove", *flags, "--yes")
        assert files(machine) == before
        assert "Nothing is installed" in machine.output(COMMAND, "schedule", "remove", *flags)


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


def test_what_systemd_has_not_read_yet_is_told_and_mended_by_installing_again(machine: Machine) -> None:
    """As after an installation that was interrupted between its files and systemd."""
    install(machine)
    configure(machine, '[maintenance.schedule]\ndisk_check = "12h"\n')
    shown = machine.output(COMMAND, "schedule", "show", "--systemd").split("# arawn-disk-check.timer\n")[1].split("\n# arawn-")[0]
    machine.path(f"{UNITS}/arawn-disk-check.timer").write_text(sealed(shown))
    status = machine.run(COMMAND, "schedule", "status")
    assert "arawn-disk-check.timer has changed since systemd read it: run systemctl daemon-reload" in status.stdout
    assert (status.returncode, show(machine, "arawn-disk-check.timer", "NeedDaemonReload")) == (1, "yes")
    install(machine)
    assert show(machine, "arawn-disk-check.timer", "NeedDaemonReload") == "no"
    assert "00/12:00:00" in show(machine, "arawn-disk-check.timer", "TimersCalendar")
    assert machine.run(COMMAND, "schedule", "status").returncode == 0


def test_a_missing_notifier_and_a_drop_in_that_closes_the_root_are_told(machine: Machine) -> None:
    install(machine)
    machine.path(f"{UNITS}/arawn-notify@.service").unlink()
    drop_in = machine.path(f"{UNITS}/arawn-scratch-cleanup.service.d")
    drop_in.mkdir()
    (drop_in / "closed.conf").write_text(f"[Service]\nReadOnlyPaths={ROOT}/workstreams\n")
    machine.output("systemctl", "daemon-reload")
    status = machine.run(COMMAND, "schedule", "status")
    assert status.returncode == 1
    assert "arawn-notify@.service is missing, so that nobody is told of a run that fails" in status.stdout
    assert f"{ROOT} lies outside what arawn-scratch-cleanup.service may write to" in status.stdout


def test_an_edit_is_noticed_and_neither_overwritten_nor_removed_without_a_question(machine: Machine) -> None:
    install(machine)
    unit = machine.path(f"{UNITS}/arawn-disk-check.service")
    unit.write_text(unit.read_text().replace("TimeoutStartSec=30min", "TimeoutStartSec=2min"))
    edited = unit.read_text()
    assert "changed by hand" in machine.run(COMMAND, "schedule", "status").stdout
    for action in ("install", "remove"):
        refused = machine.run(COMMAND, "schedule", action, "--yes")
        assert (refused.returncode, unit.read_text()) == (77, edited)
        assert "was edited since the tool wrote it" in refused.stderr
        assert "TimeoutStartSec=2min" in refused.stdout
    machine.output(COMMAND, "schedule", "install", "--yes", "--force")
    assert "TimeoutStartSec=30min" in unit.read_text()


def test_timers_of_an_account_run_in_its_own_manager(machine: Machine) -> None:
    """Cleanup sees who stands in a session; the check is confined in a user namespace."""
    machine.path(FILE).unlink()
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
            for job in ("scratch-cleanup", "disk-check"):
                machine.output("systemctl", "--user", "start", f"arawn-{job}.service", user="arawn")
        assert os.listdir(machine.path("/home/arawn/.arawn/workstreams/scratch/sessions")) == ["used"]
        check = last_event(machine, "_SYSTEMD_USER_UNIT=arawn-disk-check.service", "disk_check")
        assert check["complete"] is True
        assert machine.run(COMMAND, "schedule", "status", user="arawn").returncode == 0
        doctor = map(json.loads, machine.run(COMMAND, "doctor", user="arawn").stdout.splitlines())
        assert {event["check"] for event in doctor if event.get("mend")} <= {"clock"}
        machine.output("sh", "-c", "rm -rf /home/arawn/.local/state/arawn-cli/* /home/arawn/.arawn/workstreams/scratch/sessions/*")
        machine.output(COMMAND, "schedule", "remove", "--user", "--yes", user="arawn")
        after = files(machine)
        assert {path for path in before.keys() ^ after.keys() if "/.arawn/" not in path} == set()
    finally:
        machine.output(
            "sh", "-c", f"systemctl stop user@{ARAWN}.service; rm -f /var/lib/systemd/linger/arawn; mv /home/arawn/.arawn {ROOT}"
        )


def test_a_path_full_of_syntax_reaches_the_command_as_it_is(machine: Machine) -> None:
    strange = "/srv/a b%h$HOME'\"\\%-ä;#"
    machine.output("cp", "-a", ROOT, strange)
    configure(machine)
    machine.path(f"{strange}/config.toml").write_text(f"[paths]\nbase_path = {json.dumps(strange, ensure_ascii=False)}\n")
    options = ("--config", f"{strange}/config.toml", "--yes")
    for flags in ("--systemd", "--cron"):
        machine.output(COMMAND, "schedule", "install", flags, *options)
    machine.output("systemctl", "start", "arawn-scratch-cleanup.service", "arawn-disk-check.service")
    assert last_event(machine, "--unit=arawn-scratch-cleanup", "scratch_cleanup")["failures"] == []
    line = next(line for line in machine.path("/etc/cron.d/arawn-cli").read_text().splitlines() if "scratch-cleanup" in line)
    command = line.split(" ", 6)[6].replace("\\%", "%").rpartition(" | ")[0] + " --dry-run"
    assert json.loads(machine.output("sh", "-c", command).splitlines()[-1])["type"] == "scratch_cleanup"
    status = machine.run(COMMAND, "schedule", "status", *options[:2])
    assert (status.returncode, [json.loads(line)["problems"] for line in status.stdout.splitlines()]) == (0, [[], []])
    machine.output("rm", "-rf", strange)


class Cron:
    """A real cron whose clock is the mtime of a file, and whose sleeps end at once: each minute is handed to it."""

    def __init__(self, machine: Machine, start: datetime) -> None:
        self._machine = machine
        self._clock = machine.path("/run/cron-clock")
        self._now = int(start.timestamp())
        self._clock.touch()
        self._turn(0)
        preload = {
            "LD_PRELOAD": str(FAKETIME),
            "FAKETIME": "%",
            "FAKETIME_FOLLOW_FILE": "/run/cron-clock",
            "FAKETIME_NO_CACHE": "1",
            "TZ": "UTC",
        }
        words = [word for key, value in preload.items() for word in ("-E", f"{key}={value}")]
        traced = ("-e", "trace=clock_nanosleep", "-e", "inject=clock_nanosleep:retval=0:delay_enter=300")
        trace = machine.path("/run/cron-trace")
        trace.unlink(missing_ok=True)
        machine.output("sh", "-c", "rm -rf /etc/cron.d/[!a]* /etc/cron.*ly/*; : >/etc/crontab")
        self._mark = machine.output("journalctl", "-n", "0", "--show-cursor").split("cursor: ")[1].strip()
        self._tracer = machine.start("strace", *words, "-qq", "-o", "/run/cron-trace", *traced, "cron", "-f", "-L", "15")
        machine.until(lambda: trace.exists() and trace.stat().st_size > 1000)
        self._trace = trace.open("rb")

    def minutes(self, count: int) -> None:
        """Lets some minutes pass, each once cron has seen the one before."""
        for _ in range(count):
            self._turn(60)
            self._trace.read()
            seen = 0
            while seen < 3:
                seen += self._trace.read().count(b"clock_nanosleep(")
                time.sleep(0.0003)

    def stop(self) -> list[str]:
        """Ends cron, once its jobs have ended; what the jobs were, in the order in which they were started."""
        self._machine.output("pkill", "-o", "-x", "cron")
        self._machine.until(lambda: self._machine.run("pgrep", "-x", "cron").returncode == 1)
        self._tracer.wait()
        self._trace.close()
        lines = self._machine.output("journalctl", "-t", "CRON", "-o", "json", f"--after-cursor={self._mark}").splitlines()
        ended = [(int(entry["_PID"]), entry["MESSAGE"]) for entry in map(json.loads, lines) if " END (" in entry["MESSAGE"]]
        return [message for _, message in sorted(ended)]

    def _turn(self, seconds: int) -> None:
        self._now += seconds
        os.utime(self._clock, (self._now, self._now))


@needs_cron
def test_a_day_of_cron_has_288_checks_and_one_cleanup(machine: Machine) -> None:
    """What the lines run is a stub here: 289 real runs in five seconds say nothing more about the lines."""
    install(machine, "--cron")
    lines = machine.path("/etc/cron.d/arawn-cli")
    stub = machine.path("/opt/arawn-cli/bin/stub")
    stub.write_text("#!/bin/sh\n")
    stub.chmod(0o755)
    lines.write_text(lines.read_text().replace(COMMAND, "/opt/arawn-cli/bin/stub"))
    machine.path("/etc/cron.d/a-day").write_text("2 0 1 3 * root : begins\n2 0 2 3 * root : ends\n")
    cron = Cron(machine, datetime(2026, 2, 28, 23, 58, 30, tzinfo=UTC))
    cron.minutes(24 * 60 + 6)
    jobs = cron.stop()
    day = jobs[next(i for i, job in enumerate(jobs) if ": begins" in job) : next(i for i, job in enumerate(jobs) if ": ends" in job)]
    machine.path("/etc/cron.d/a-day").unlink()
    assert sum("disk-check" in job for job in day) == 288
    assert sum("scratch-cleanup" in job for job in day) == 1


@needs_cron
def test_cron_mails_when_something_is_wrong_and_only_then(machine: Machine) -> None:
    configure(machine, '[maintenance.schedule]\nscratch_cleanup = "2m"\ndisk_check = "2m"\n')
    mailer = machine.path("/usr/sbin/sendmail")
    mailer.write_text("#!/bin/sh\ncat >>/tmp/mail\n")
    mailer.chmod(0o755)
    mail = machine.path("/tmp/mail")  # noqa: S108 - the temporary directory of the private machine
    old = session(machine, "old", 30)
    install(machine, "--cron")
    for hour, state in enumerate(("well", "overlap", "broken"), start=10):
        if state == "overlap":
            holder = machine.start("flock", f"{ROOT}/workstreams", "flock", ROOT, "-c", "echo held; exec sleep 60")
            assert holder.stdout is not None
            assert holder.stdout.readline() == "held\n"
        if state == "broken":
            machine.run("pkill", "-x", "sleep")
            holder.wait()
            machine.output("chmod", "o+w", ROOT)
        cron = Cron(machine, datetime(2026, 3, 1, hour, 0, 30, tzinfo=UTC))
        cron.minutes(2)
        jobs = cron.stop()
        assert {job for job in ("scratch-cleanup", "disk-check") if any(job in line for line in jobs)} == {"scratch-cleanup", "disk-check"}
        assert not old.exists()
        assert mail.exists() is (state == "broken")
    text = mail.read_text()
    assert "To: root\n" in text
    assert text.count("writable by everyone: refused") == 2
    assert "disk_check" in machine.output("journalctl", "-t", "arawn-disk-check", "-o", "cat")
    events = map(json.loads, machine.output("journalctl", "-t", "arawn-scratch-cleanup", "-o", "cat").splitlines())
    assert [(event["action"], event["reason"]) for event in events if event.get("session_id") == "old"] == [("deleted", "expired")]
    machine.output("chmod", "o-w", ROOT)
    status = machine.run(COMMAND, "schedule", "status", "--cron")
    assert {(event["result"], *event["problems"]) for event in map(json.loads, status.stdout.splitlines())} == {
        ("success", "no cron runs: run service cron start")
    }
