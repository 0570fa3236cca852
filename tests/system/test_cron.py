"""A real cron whose clock the test sets: how often it runs the jobs, and when it mails."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import time
from datetime import UTC, datetime, timedelta
from functools import partial
from itertools import pairwise
from pathlib import Path

import pytest

from arawn_cli.events import JobName
from tests.conftest import needs
from tests.support.installed import clean, configure, install, session
from tests.support.machine import COMMAND, ROOT, Machine, machine, needs_machine

__all__ = ["clean", "machine"]

pytestmark = [needs_machine, pytest.mark.slow]
FAKETIME = next(iter(Path("/usr/lib").glob("*/faketime/libfaketime.so.1")), None)
needs_cron = needs(FAKETIME is not None and all(shutil.which(name) for name in ("cron", "strace")), "cron, faketime and strace")


class Cron:
    """A real cron whose clock is the mtime of a file, and whose sleeps end at once.

    Each minute is handed to it.
    """

    def __init__(self, machine: Machine, start: datetime, zone: str = "UTC") -> None:
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
            "TZ": zone,
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
        """End cron after its jobs have ended; return the jobs in the order of their start."""
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
@pytest.mark.parametrize("hours", [2, pytest.param(24, marks=pytest.mark.long)])
def test_each_hour_of_cron_has_12_checks_and_a_day_one_cleanup(machine: Machine, hours: int) -> None:
    """The lines run a stub: real runs would show nothing more about them."""
    install(machine, "--cron")
    lines = machine.path("/etc/cron.d/arawn-cli")
    stub = machine.path("/opt/arawn-cli/bin/stub")
    stub.write_text("#!/bin/sh\n")
    stub.chmod(0o755)
    text = lines.read_text().replace(COMMAND, "/opt/arawn-cli/bin/stub")
    lines.write_text(text)
    cleanup = next(int(line.split()[1]) for line in text.splitlines() if "stub scratch-cleanup" in line)
    begin = datetime(2026, 3, 2, cleanup, 2, tzinfo=UTC) - timedelta(minutes=30)
    marks = {"begins": begin, "ends": begin + timedelta(hours=hours)}
    machine.path("/etc/cron.d/a-mark").write_text("".join(f"{at:%M %H %d %m} * root : {name}\n" for name, at in marks.items()))
    cron = Cron(machine, begin - timedelta(minutes=3, seconds=30))
    cron.minutes(hours * 60 + 6)
    jobs = cron.stop()
    first, last = (next(i for i, job in enumerate(jobs) if f": {name}" in job) for name in marks)
    machine.path("/etc/cron.d/a-mark").unlink()
    assert sum("disk-check" in job for job in jobs[first:last]) == 12 * hours
    assert sum("scratch-cleanup" in job for job in jobs[first:last]) == 1


@needs_cron
def test_cron_mails_when_something_is_wrong_and_only_then(machine: Machine) -> None:
    configure(machine, '[maintenance.schedule]\nscratch_cleanup = "2m"\ndisk_check = "2m"\n')
    mailer = machine.path("/usr/sbin/sendmail")
    mailer.write_text("#!/bin/sh\ncat >>/tmp/mail\n")
    mailer.chmod(0o755)
    mail = machine.path("/tmp/mail")  # noqa: S108 - the temporary directory of the private machine
    old = session(machine, "mailed", 30)  # the journal has the sessions of other tests
    install(machine, "--cron")
    for hour, state in enumerate(("well", "overlap", "broken"), start=10):
        if state == "overlap":
            state = machine.output("find", "/root", "/home", "/var/lib", "-name", "scratch-cleanup.*.lock", "-printf", "%h").strip()
            locks = (f"flock {state}/{job}.*.lock" for job in ("scratch-cleanup", "disk-check"))
            holder = machine.start("sh", "-c", f"exec {' '.join(locks)} -c 'echo held; exec sleep 60'")
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
        assert not old.exists(), machine.run("journalctl", "-n", "60", "--no-pager").stdout
        assert mail.exists() is (state == "broken")
    text = mail.read_text()
    assert "To: root\n" in text
    assert text.count("writable by everyone: refused") == 2
    assert "disk_check" in machine.output("journalctl", "-t", "arawn-disk-check", "-o", "cat")
    events = map(json.loads, machine.output("journalctl", "-t", "arawn-scratch-cleanup", "-o", "cat").splitlines())
    assert [(event["action"], event["reason"]) for event in events if event.get("session_id") == "mailed"] == [("trashed", "expired")]
    logger = next(line for line in machine.path("/etc/cron.d/arawn-cli").read_text().splitlines() if "disk-check" in line).rpartition(
        " | "
    )[2]
    machine.output("sh", "-c", f"printf '%0100000d\\n' 1 | {logger}")
    machine.until(lambda: f"{1:0100000}" in machine.output("journalctl", "-t", "arawn-disk-check", "-o", "cat", "--all").splitlines())
    machine.output("chmod", "o-w", ROOT)
    status = machine.run(COMMAND, "schedule", "status", "--cron")
    assert {(event["result"], *event["problems"]) for event in map(json.loads, status.stdout.splitlines())} == {
        ("success", "cron is not running, so no job runs: run systemctl enable --now cron")
    }


def _has_checks(ran: Path, count: int) -> bool:
    return ran.read_text().count("disk-check") >= count


@needs_cron
@pytest.mark.long
@pytest.mark.parametrize("change", [datetime(2026, 3, 29, 1, tzinfo=UTC), datetime(2026, 10, 25, 1, tzinfo=UTC)], ids=["never", "twice"])
def test_an_hour_that_is_there_twice_or_never_has_no_run_too_much_or_too_little(machine: Machine, change: datetime) -> None:
    configure(machine, '[maintenance.schedule]\nscratch_cleanup = "2h"\ndisk_check = "5m"\n')
    install(machine, "--cron")
    lines, ran = machine.path("/etc/cron.d/arawn-cli"), machine.path("/run/ran")
    ran.write_text("")
    ran.chmod(0o666)
    for path, text in (
        ("/opt/arawn-cli/bin/stub", 'echo "$1 $(stat -c %Y /run/cron-clock)" >>/run/ran'),
        ("/usr/local/sbin/date", "exec stat -c %Y /run/cron-clock"),
    ):
        machine.path(path).write_text(f"#!/bin/sh\n{text}\n")
        machine.path(path).chmod(0o755)
    lines.write_text(lines.read_text().replace(COMMAND, "/opt/arawn-cli/bin/stub"))
    first = {job: int(next(line for line in lines.read_text().splitlines() if job in line).split("-")[0].split()[0]) for job in JobName}
    begin = change - timedelta(hours=3, seconds=30)
    cron = Cron(machine, begin, "Europe/Berlin")
    checks = 0
    try:
        for minute in range(1, 6 * 60 + 1):
            cron.minutes(1)
            time_of_hour = (minute - 1) % 60
            if time_of_hour % 5 == first[JobName.DISK_CHECK]:
                checks += 1
                machine.until(partial(_has_checks, ran, checks))
            elif time_of_hour == first[JobName.SCRATCH_CLEANUP]:
                time.sleep(0.5)  # its condition reads the clock
    finally:
        cron.stop()
        machine.path("/usr/local/sbin/date").unlink()
    found = [line.split() for line in ran.read_text().splitlines()]
    for job, minutes, count in ((JobName.DISK_CHECK, 5, 72), (JobName.SCRATCH_CLEANUP, 120, 3)):
        times = [int(second) for name, second in found if name == job]
        assert len(times) == count
        assert {round((after - before) / 60) for before, after in pairwise(times)} <= {minutes - 1, minutes, minutes + 1}, times


BUSYBOX = Path("/usr/bin/busybox") if Path("/usr/bin/busybox").exists() else Path("/bin/busybox")
has_crond = BUSYBOX.exists() and "\ncrond\n" in subprocess.run([BUSYBOX, "--list"], capture_output=True, text=True, check=False).stdout


@needs(has_crond, "busybox with crond, as in Debian's busybox-static")
def test_busybox_runs_the_lines_of_an_account_and_never_those_in_cron_d(machine: Machine) -> None:
    configure(machine, '[maintenance.schedule]\nscratch_cleanup = "1m"\ndisk_check = "1m"\n')
    for program in ("crond", "crontab"):
        machine.path(f"/usr/local/sbin/{program}").symlink_to(BUSYBOX)
    environment = ("env", "PATH=/usr/local/sbin:/usr/sbin:/usr/bin:/sbin:/bin")
    old = session(machine, "old", 30)
    machine.output("mkdir", "-p", "/var/spool/cron/crontabs")
    machine.output(*environment, "crond", "-b", "-L", "/run/crond.log")
    try:
        done = machine.run(*environment, COMMAND, "schedule", "install", "--cron", "--system", "--yes")
        said = "the cron that runs is busybox's, which does not read /etc/cron.d: run "
        assert (done.returncode, said in done.stderr, machine.path("/etc/cron.d/arawn-cli").exists()) == (1, True, True)
        assert said in machine.run(*environment, COMMAND, "schedule", "status", "--cron", "--system").stdout
        machine.output(*environment, COMMAND, "schedule", "remove", "--cron", "--system", "--yes")
        machine.output(*environment, COMMAND, "schedule", "install", "--cron", "--user", "--yes")
        machine.until(lambda: not old.exists(), 90)
        assert machine.run(*environment, COMMAND, "schedule", "status", "--cron", "--user").returncode == 0
    finally:
        machine.run("pkill", "-x", "crond")
        machine.run(*environment, COMMAND, "schedule", "remove", "--cron", "--user", "--yes")
        for program in ("crond", "crontab"):
            machine.path(f"/usr/local/sbin/{program}").unlink()
