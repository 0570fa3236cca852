"""`arawn-notify@` in a booted systemd runs what people put into it: curl, an SMTP client,
arawn-cli."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.conftest import needs
from tests.support.installed import ARAWN, FILE, UNITS, clean, configure, install, session
from tests.support.machine import COMMAND, ROOT, Machine, machine, needs_machine

__all__ = ["clean", "machine"]

pytestmark = [needs_machine, pytest.mark.slow, needs(all(map(shutil.which, ("curl", "msmtp"))), "curl and msmtp")]

PYTHON = "/opt/arawn-cli/bin/python3"
RECEIVED = "/run/received"

# Keep the body of each POST, and each mail.
SERVERS = f"""
import http.server, socketserver, threading
def keep(content):
    with open("{RECEIVED}", "ab") as file:
        file.write(content)
class Web(http.server.BaseHTTPRequestHandler):
    def do_POST(self):
        keep(self.rfile.read(int(self.headers["Content-Length"])))
        self.send_response(204)
        self.end_headers()
class Mail(socketserver.StreamRequestHandler):
    def handle(self):
        self.wfile.write(b"220 here\\r\\n")
        for line in self.rfile:
            self.wfile.write(b"354 go on\\r\\n" if line.startswith(b"DATA") else b"250 ok\\r\\n")
            if line.startswith(b"DATA"):
                while (text := self.rfile.readline()) != b".\\r\\n":
                    keep(text)
                self.wfile.write(b"250 ok\\r\\n")
            if line.startswith(b"QUIT"):
                return
socketserver.ThreadingTCPServer.allow_reuse_address = True
threading.Thread(target=socketserver.ThreadingTCPServer(("127.0.0.1", 8025), Mail).serve_forever).start()
http.server.ThreadingHTTPServer(("127.0.0.1", 8098), Web).serve_forever()
"""
POST = "curl --silent --show-error --fail --data-binary @- http://127.0.0.1:8098/"


LIMIT = "[maintenance.cleanup]\nmax_sessions = 1\n"
REFUSED = " in one run; see them with --dry-run"


def two_due(machine: Machine) -> None:
    """Two sessions, of which the limit allows to remove one."""
    for name in ("old", "older"):
        session(machine, name, 30)


@contextmanager
def servers(machine: Machine) -> Iterator[Path]:
    """A web server and a mail server inside; yield the file with all that they received."""
    received = machine.path(RECEIVED)
    received.write_text("")
    process = machine.start(PYTHON, "-c", SERVERS)
    probe = (PYTHON, "-c", "import socket; [socket.create_connection(('127.0.0.1', port)) for port in (8025, 8098)]")
    machine.until(lambda: machine.run(*probe).returncode == 0)
    try:
        yield received
    finally:
        process.kill()
        machine.run("pkill", "-f", "ThreadingHTTPServer")
        process.wait()


def edit(machine: Machine, directory: str, lines: str) -> None:
    """Add a drop-in, as `systemctl edit` does."""
    drop_in = machine.path(f"{directory}/arawn-notify@.service.d")
    drop_in.mkdir(parents=True, exist_ok=True)
    (drop_in / "override.conf").write_text(f"[Service]\nExecStart=\n{lines}\n")


def sample(machine: Machine, flavour: str) -> str:
    """The command in the comment of the installed unit, with the address of the server here."""
    text = (machine.path(UNITS if flavour == "system" else "/home/arawn/.config/systemd/user") / "arawn-notify@.service").read_text()
    (line,) = [line for line in text.splitlines() if line.startswith("#   ExecStart=/")]
    return line.removeprefix("#   ").replace("https://ntfy.example/arawn", "http://127.0.0.1:8098/")


def mail(machine: Machine) -> str:
    """A configuration that only root can read."""
    file = machine.path("/etc/arawn/msmtprc")
    file.write_text("account default\nhost 127.0.0.1\nport 8025\nfrom arawn@machine.example\n")
    file.chmod(0o600)
    command = 'printf "To: ann@example.org\\nSubject: %%s has failed\\n\\n" %i; journalctl --unit %i --lines 20'
    to = "msmtp --file=$${CREDENTIALS_DIRECTORY}/msmtprc ann@example.org"
    return f"LoadCredential=msmtprc:/etc/arawn/msmtprc\nExecStart=/bin/sh -c '({command}) | {to}'"


def program(arguments: str) -> str:
    return f"User=arawn\nExecStart=/bin/sh -c '{COMMAND} {arguments} | {POST}'"


@pytest.mark.parametrize(
    ("command", "expected"),
    [
        (lambda machine: sample(machine, "system"), [REFUSED]),
        (mail, ["Subject: arawn-scratch-cleanup.service has failed", REFUSED]),
        (lambda _machine: program("report"), ["older"]),
        (lambda _machine: program("doctor --format=json"), ['"type":"doctor"']),
        (
            lambda _machine: f"ExecStart=/bin/sh -c 'echo $$MONITOR_EXIT_STATUS of $$MONITOR_UNIT | {POST}'",
            ["77 of arawn-scratch-cleanup.service"],
        ),
    ],
    ids=["sample", "msmtp", "report", "doctor", "variables"],
)
def test_a_failed_run_starts_a_command_of_a_drop_in(machine: Machine, command: object, expected: list[str]) -> None:
    assert callable(command)
    configure(machine, LIMIT)
    install(machine)
    edit(machine, UNITS, command(machine))
    machine.output("systemctl", "daemon-reload")
    two_due(machine)
    with servers(machine) as received:
        assert machine.run("systemctl", "start", "arawn-scratch-cleanup.service").returncode != 0
        machine.until(lambda: all(text in received.read_text() for text in expected))


def test_the_notifier_of_an_account_reads_its_home_and_journal(machine: Machine) -> None:
    two_due(machine)
    machine.path(FILE).unlink()
    # Only a persistent journal has files of accounts, which they can read.
    machine.output("sh", "-c", "mkdir -p /var/log/journal; systemd-tmpfiles --create --prefix /var/log/journal; journalctl --flush")
    machine.output("sh", "-c", f"mv {ROOT} /home/arawn/.arawn; touch /var/lib/systemd/linger/arawn; systemctl start user@{ARAWN}.service")
    try:
        machine.until(lambda: machine.run("systemctl", "--user", "show-environment", user="arawn").returncode == 0)
        install(machine, "--user", user="arawn")
        edit(machine, "/home/arawn/.config/systemd/user", sample(machine, "user").replace("| curl", "| cat %h/note - | curl"))
        # Its journal exists from its first entry on. On a busy disk it takes long to create it.
        machine.output("systemd-cat", "echo", "begins", user="arawn")
        machine.until(lambda: "begins" in machine.run("journalctl", "--user", user="arawn").stdout)
        machine.path("/home/arawn/.config/arawn").mkdir()
        machine.path("/home/arawn/.config/arawn/config.toml").write_text(LIMIT)
        machine.output("sh", "-c", "echo from home >/home/arawn/note; chmod 600 /home/arawn/note; chown -R arawn: /home/arawn")
        machine.output("systemctl", "--user", "daemon-reload", user="arawn")
        with servers(machine) as received:
            assert machine.run("systemctl", "--user", "start", "arawn-scratch-cleanup.service", user="arawn").returncode != 0
            machine.until(lambda: "from home" in received.read_text() and REFUSED in received.read_text())
        machine.output(COMMAND, "schedule", "remove", "--user", "--yes", user="arawn")
    finally:
        stop = f"systemctl stop user@{ARAWN}.service; rm -rf /var/lib/systemd/linger/arawn /home/arawn/.config"
        machine.output("sh", "-c", f"{stop}; mv /home/arawn/.arawn {ROOT}")
