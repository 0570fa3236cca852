"""What the services of a booted systemd can see, read and write, and which problems are
reported."""

from __future__ import annotations

import json
import os
import random
import shutil
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest

from tests.conftest import needs
from tests.support.installed import ARAWN, FILE, UNITS, clean, configure, install, last_event, session, show, standing_in
from tests.support.machine import COMMAND, ROOT, Machine, machine, needs_machine

__all__ = ["clean", "machine"]

pytestmark = [needs_machine, pytest.mark.slow]


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


@contextmanager
def relay(machine: Machine) -> Iterator[Callable[[], list[list[object]]]]:
    """A relay inside that keeps its requests, and searches all environments for the token."""
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


@pytest.mark.parametrize("power", ["CAP_NET_BIND_SERVICE", "CAP_WAKE_ALARM"])
def test_what_the_kernel_hides_from_the_service_keeps_the_sessions_that_it_names(machine: Machine, power: str) -> None:
    """A server with a capability is hidden from a service of its account without, as is one that
    guards itself."""
    install(machine)
    for name in ("old", "served"):
        session(machine, name, 30)
    served = f"{ROOT}/workstreams/scratch/sessions/served"
    capable = f"--property=AmbientCapabilities={power}"
    machine.output("systemd-run", "--quiet", "--uid=arawn", "--unit=server", capable, "sh", "-c", f"cd {served}; sleep 60")
    machine.output("systemctl", "start", "arawn-scratch-cleanup.service")
    machine.output("systemctl", "stop", "server.service")
    summary = last_event(machine, "--unit=arawn-scratch-cleanup", "scratch_cleanup")
    assert summary["sessions_kept"] == {"in_use": 1}
    assert os.listdir(machine.path(f"{ROOT}/workstreams/scratch/sessions")) == ["served"]
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


def test_the_token_arrives_as_a_credential_and_stands_in_no_environment(machine: Machine) -> None:
    token = machine.path("/etc/arawn/relay.token")
    token.write_text("tok-3\n")
    token.chmod(0o600)
    table = 'url = "http://127.0.0.1:8099/pub"\ntoken_file = "/etc/arawn/relay.token"\nevents = ["disk_check", "scratch_cleanup"]\n'
    configure(machine, f"[maintenance.relay]\n{table}")
    install(machine)
    with relay(machine) as requests:
        for job in ("scratch-cleanup", "disk-check"):
            machine.output("systemctl", "start", f"arawn-{job}.service")
        doctor = machine.run(COMMAND, "doctor")
        posts = requests()
    assert [(token, seen) for token, _, seen in posts] == [("Bearer tok-3", [])] * 2
    assert [json.loads(str(body))["type"] for _, body, _ in posts] == ["scratch_cleanup", "disk_check"]
    assert "tok-3" not in show(machine, "arawn-disk-check.service", "Environment")
    (said,) = [event for event in map(json.loads, doctor.stdout.splitlines()) if event.get("check") == "relay"]
    assert (said["status"], said["detail"]) == ("ok", "http://127.0.0.1:8099/pub is reachable and accepts the token")


def test_people_are_notified_from_inside_the_sandboxes_at_addresses_that_only_root_can_read(machine: Machine) -> None:
    urls = machine.path("/etc/arawn/notify.urls")
    urls.write_text("json://127.0.0.1:8099/pub?+Authorization=Bearer%20tok-3\n")
    urls.chmod(0o600)
    table = '[maintenance.notify]\nurls_file = "/etc/arawn/notify.urls"\non = ["level", "failed", "cleaned"]\n'
    configure(machine, f'{table}[maintenance.pressure]\ntotal = "100"\n')
    session(machine, "due", 30)
    install(machine)
    with relay(machine) as requests:
        for job in ("disk-check", "scratch-cleanup"):
            machine.output("systemctl", "start", f"arawn-{job}.service")
        doctor = machine.run(COMMAND, "doctor", "--notify-test")
        posts = requests()
    assert [(token, seen) for token, _, seen in posts] == [("Bearer tok-3", [])] * 3
    titles = [json.loads(str(body))["title"].partition(": ")[2] for _, body, _ in posts]
    assert "all workstreams is" in titles[0]
    assert titles[1:] == ["1 session removed", "test"]
    told = [event for event in map(json.loads, doctor.stdout.splitlines()) if event.get("check") == "notifications"]
    assert [(event["status"], event["detail"]) for event in told] == [("ok", "address 1 (json): a test message was sent")]


def test_a_job_with_a_ping_reaches_it_and_the_other_has_no_network(machine: Machine) -> None:
    configure(machine, '[maintenance.ping]\ndisk_check = "http://127.0.0.1:8099/uuid"\n')
    install(machine)
    with relay(machine) as requests:
        machine.output("systemctl", "start", "arawn-scratch-cleanup.service", "arawn-disk-check.service")
        bodies = [str(body) for _, body, _ in requests()]
    assert (bodies[0], [json.loads(body)["type"] for body in bodies[1:]]) == ("", ["disk_check"])
    assert [show(machine, f"arawn-{job}.service", "PrivateNetwork") for job in ("scratch-cleanup", "disk-check")] == ["yes", "no"]


def test_a_report_follows_the_state_that_the_timers_keep_and_says_where_it_cannot(machine: Machine) -> None:
    configure(machine, "[maintenance.pressure]\nsession = 104\n")
    session(machine, "large", 1)
    install(machine)
    machine.output("systemctl", "start", "arawn-disk-check.service")
    alert, unread = "ok to critical", "the timers keep their history in /var/lib/arawn-cli, which this account cannot read"
    for enter in ((), ("setpriv", "--reuid=arawn", "--regid=arawn", "--init-groups", "env", "HOME=/home/arawn")):
        done = machine.run(*enter, COMMAND, "report")
        assert (done.returncode, alert in done.stdout, unread in done.stdout) == (0, True, False), done
    done = machine.run("setpriv", "--reuid=nobody", "--regid=nogroup", "--clear-groups", "env", "HOME=/tmp", COMMAND, "report")
    assert (done.returncode, alert in done.stdout, " ".join(done.stdout.split()).count(unread)) == (1, False, 1), done


# How a run is started: the command before it, the account that starts it, and whether it sees what
# root uses.
STARTS = {
    "root": ((), None, True),
    "sudo": (("sudo", "-n"), "arawn", True),
    "sudo with the environment": (("sudo", "-n", "-E", "HOME=/home/arawn", "XDG_STATE_HOME=/home/arawn/x"), "arawn", True),
    "sudo to the owner": (("sudo", "-n", "-u", "arawn", "-H"), None, False),
    "setpriv": (("setpriv", "--reuid=arawn", "--regid=arawn", "--init-groups", "env", "HOME=/home/arawn"), None, False),
    "unit": (("systemd-run", "--pipe", "--wait", "--quiet", "--property=User=arawn"), None, False),
    "unit of root": (("systemd-run", "--pipe", "--wait", "--quiet"), None, True),
}


@pytest.mark.parametrize(
    "start", [pytest.param(name, marks=needs(not name.startswith("sudo") or shutil.which("sudo") is not None, "sudo")) for name in STARTS]
)
def test_every_start_acts_as_the_owner_and_sees_what_others_use(machine: Machine, start: str) -> None:
    """A process of root uses one session; only a run that root started can see that."""
    prefix, user, sees_root = STARTS[start]
    if start.startswith("sudo"):
        machine.path("/etc/sudoers.d/arawn").write_text("arawn ALL=(ALL) NOPASSWD: SETENV: ALL\n")
    for name in ("old", "own", "used"):
        session(machine, name, 30)
    place = f"{ROOT}/workstreams/scratch/sessions/used"
    holder = machine.start("sh", "-c", f"cd {place} && echo there && exec sleep 60")
    try:
        assert holder.stdout is not None
        holder.stdout.readline()
        with standing_in(machine, f"{ROOT}/workstreams/scratch/sessions/own"):
            done = machine.run(*prefix, COMMAND, "scratch-cleanup", "--format=json", f"--config={FILE}", user=user)
    finally:
        holder.kill()
        machine.run("pkill", "-x", "sleep")
        holder.wait()
    reasons = {event["session_id"]: event["reason"] for event in map(json.loads, done.stdout.splitlines()) if "session_id" in event}
    assert reasons == {"old": "expired", "own": "in_use", "used": "in_use" if sees_root else "expired"}, done
    state = machine.path("/home/arawn/.local/state/arawn-cli/state.db").stat()
    assert (state.st_uid, state.st_mode & 0o777) == (ARAWN, 0o600)


def test_root_of_a_user_namespace_of_the_owner_removes_nothing_that_it_cannot_judge(machine: Machine) -> None:
    for name in ("old", "used"):
        session(machine, name, 30)
    with standing_in(machine, f"{ROOT}/workstreams/scratch/sessions/used"):
        done = machine.run("unshare", "--user", "--map-root-user", COMMAND, "scratch-cleanup", "--format=json", user="arawn")
    reasons = {event["session_id"]: event["reason"] for event in map(json.loads, done.stdout.splitlines()) if "session_id" in event}
    assert (done.returncode, reasons) == (1, dict.fromkeys(("old", "used"), "activity_unknown")), done
    assert sorted(os.listdir(machine.path(f"{ROOT}/workstreams/scratch/sessions"))) == ["old", "used"]


def test_units_for_another_root_are_outdated(machine: Machine) -> None:
    install(machine)
    assert machine.run(COMMAND, "schedule", "status").returncode == 0
    machine.output("sh", "-c", "mkdir -p /srv/other/workstreams && chown -R arawn: /srv/other")
    configure(machine, root="/srv/other")
    status = machine.run(COMMAND, "schedule", "status")
    assert (status.returncode, json.loads(status.stdout.splitlines()[0])["installed"]) == (1, "outdated")
    sentence = "the installed schedule does not match the configuration"
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
    found = {name.rpartition(".arawn.")[0] for name in os.listdir(machine.path("/var/lib/metrics"))}
    assert found == {"arawn_scratch_cleanup", "arawn_disk_check"}
    assert machine.path("/var/lib/arawn_state.d/state.db").exists()
    machine.output("rm", "-rf", "/var/lib/metrics", "/var/lib/arawn_state.d")


def test_a_root_in_a_home_that_a_link_leads_to_is_open_to_the_jobs(machine: Machine) -> None:
    machine.output("sh", "-c", f"mv /home /var/home && ln -s var/home /home && cp -a {ROOT} /home/arawn/.arawn")
    configure(machine, root="/home/arawn/.arawn")
    install(machine)
    machine.output("systemctl", "start", "arawn-scratch-cleanup.service", "arawn-disk-check.service")
    assert machine.run(COMMAND, "schedule", "status").returncode == 0
    machine.output("sh", "-c", "rm -rf /home/arawn/.arawn && rm /home && mv /var/home /home")


def test_what_the_account_of_the_jobs_cannot_read_is_told_before_the_first_night(machine: Machine) -> None:
    machine.path(FILE).chmod(0o600)
    sentence = f"arawn, the account of the jobs, cannot access {FILE}: they would fail"
    installed = machine.run(COMMAND, "schedule", "install", "--yes")
    assert (installed.returncode, installed.stderr.count(sentence)) == (0, 1)
    status = machine.run(COMMAND, "schedule", "status")
    assert (status.returncode, sentence in status.stdout) == (1, True)
    machine.path(FILE).chmod(0o644)
    assert machine.run(COMMAND, "schedule", "status").returncode == 0


def test_status_reports_a_missing_notifier(machine: Machine) -> None:
    install(machine)
    machine.path(f"{UNITS}/arawn-notify@.service").unlink()
    status = machine.run(COMMAND, "schedule", "status")
    assert status.returncode == 1
    assert "arawn-notify@.service is missing: nobody is notified of a failed run" in status.stdout


def test_a_drop_in_that_makes_the_root_read_only_is_reported_after_the_run_that_it_makes_fail(machine: Machine) -> None:
    install(machine)
    kept = session(machine, "old", 30)
    drop_in = machine.path(f"{UNITS}/arawn-scratch-cleanup.service.d")
    drop_in.mkdir()
    (drop_in / "closed.conf").write_text(f"[Service]\nReadOnlyPaths={ROOT}/workstreams\n")
    machine.output("systemctl", "daemon-reload")
    assert machine.run(COMMAND, "schedule", "status").returncode == 0
    assert machine.run("systemctl", "start", "arawn-scratch-cleanup.service").returncode != 0
    status = machine.run(COMMAND, "schedule", "status")
    assert (status.returncode, json.loads(status.stdout.splitlines()[0])["result"], kept.exists()) == (1, "failed", True)


SECRET = "only-root-may-read-this-7f3a"
EXCHANGE = """
import ctypes, os, random, sys, time
place, exchange = os.fsencode(sys.argv[1]), ctypes.CDLL(None).renameat2
print(flush=True)
while True:
    exchange(-100, place, -100, place + b"~", 2)
    time.sleep(random.random() * 0.01)
"""
OF_ROOT = ("/etc", "/root/private", "/var/lib/other")


def state_of_root(machine: Machine) -> dict[str, tuple[object, ...]]:
    """Owner, mode and content of what is root's, without the units that this tool installs."""
    found: dict[str, tuple[object, ...]] = {}
    for top in OF_ROOT:
        for directory, _, names in os.walk(machine.path(top)):
            for path in (directory, *(os.path.join(directory, name) for name in names)):
                status = os.lstat(path)
                if "/arawn-" not in path and not path.endswith((".wants", "/systemd/system")):
                    content = Path(path).read_bytes() if os.path.isfile(path) and not os.path.islink(path) else b""
                    found[path] = (status.st_uid, status.st_gid, status.st_mode, content)
    return found


def hostile_configuration(machine: Machine, chance: random.Random) -> str:
    """Write a configuration of the owner that names what is root's, and the places that lead
    there."""
    links = {"state": "/var/lib/other", "units": "/etc/systemd/system/other.service.d", "token": "/root/private/secret"}
    for name, target in links.items():
        machine.output("ln", "-sfn", target, f"/home/arawn/{name}-link", user="arawn")
    for name in ("state", "metrics"):
        machine.output("mkdir", "-p", f"/home/arawn/{name}", user="arawn")
    machine.output("sh", "-c", "umask 077; echo a-token > /home/arawn/token", user="arawn")
    home = ["/home/arawn/state", "/home/arawn/metrics", "/home/arawn/new/place"]
    bad = [
        "/var/lib/other",
        "/etc/systemd/system/other.service.d",
        "/home/arawn/state-link",
        "/home/arawn/units-link/x",
        "/var/lib/private/other",
    ]
    tokens = ["/root/private/secret", "/home/arawn/token-link", "/home/arawn/token", "/root/private/secret\nExecStartPre=/bin/true"]
    state, metrics = (chance.choice(bad if chance.random() < 0.4 else home) for _ in range(2))
    text = f"""
        maintenance.root = "{ROOT}"
        maintenance.state_dir = "{state}"
        maintenance.metrics.textfile_dir = "{metrics}"
        maintenance.cleanup.cleanup_on = "{chance.choice(["never", "critical"])}"
        maintenance.pressure.total = 1
        maintenance.relay.url = "http://127.0.0.1:8099/"
        maintenance.relay.deadline_secs = 1
        maintenance.relay.events = ["disk_check", "scratch_cleanup"]
        maintenance.relay.token_file = {json.dumps(chance.choice(tokens))}
    """
    place = machine.path("/home/arawn/config.toml")
    place.write_text(text)
    os.chown(place, ARAWN, ARAWN)
    return "/home/arawn/config.toml"


def attacked_units(machine: Machine, seed: int) -> None:
    """Install the schedule of a hostile configuration as root, and start its units, while the owner
    exchanges files."""
    chance = random.Random(seed)  # noqa: S311 - reproducible
    lines = ["mkdir -p -m 700 /root/private /var/lib/other", f"echo {SECRET} > /root/private/secret", "chmod 600 /root/private/secret"]
    machine.output("sh", "-c", "; ".join([*lines, "cp /root/private/secret /var/lib/other/state.db", f"rm -rf /home/arawn/* {ROOT}/state"]))
    config = hostile_configuration(machine, chance)
    session(machine, "old", 30)
    before = state_of_root(machine)
    shown = []
    with relay(machine) as requests, ExitStack() as stack:
        for place in chance.sample(["state", "metrics", "token"], chance.randrange(3)):
            machine.output("ln", "-sfn", chance.choice(OF_ROOT), f"/home/arawn/{place}~", user="arawn")
            loop = machine.start("/opt/python/bin/python3", "-c", EXCHANGE, f"/home/arawn/{place}", user="arawn")
            stack.callback(loop.communicate)
            stack.callback(loop.kill)
            stack.callback(machine.run, "pkill", "-f", "renameat2")
        for words in (("show",), ("install", "--yes"), ("status",)):
            done = machine.run(COMMAND, "schedule", *words, "--systemd", "--system", "--config", config)
            shown.append(done.stdout + done.stderr)
            assert done.returncode in (0, 1, 77), done
        for job in ("scratch-cleanup", "disk-check"):
            machine.run("systemctl", "start", f"arawn-{job}.service")
        shown.append(machine.run(COMMAND, "doctor", "--config", config).stdout)
        received = requests()
    assert state_of_root(machine) == before
    assert SECRET not in json.dumps([shown, received])
    assert SECRET not in machine.output("journalctl", "--no-pager", "-o", "cat")
    assert machine.run("grep", "-rlI", SECRET, "/home/arawn", ROOT, "/var/lib/arawn-cli").stdout == ""


@pytest.mark.parametrize("seed", [0, 103, 111])  # with the last two, only the token is root's
def test_units_that_root_installs_for_a_hostile_owner_give_it_nothing_of_root(machine: Machine, seed: int) -> None:
    attacked_units(machine, seed)


@pytest.mark.long
@pytest.mark.parametrize("seed", range(100, 140))
def test_units_of_any_hostile_configuration_give_it_nothing_of_root(machine: Machine, seed: int) -> None:
    attacked_units(machine, seed)
