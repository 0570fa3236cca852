"""A private machine: systemd as PID 1 of its own namespaces, on an overlay of /. Needs root."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import sysconfig
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import psutil
import pytest

from tests.conftest import needs
from tests.support.tree import SampleTree

HERE = Path(__file__).parent / "systemd"
COMMAND = "/opt/arawn-cli/bin/arawn-cli"
CHECKOUT = "/opt/checkout"
ROOT = "/srv/arawn"

needs_machine = needs(
    os.getuid() == 0 and all(shutil.which(program) for program in ("unshare", "nsenter")) and Path("/lib/systemd/systemd").exists(),
    "root and systemd",
)


@dataclass
class Machine:
    """A booted machine; commands run inside it."""

    init: int
    outer: subprocess.Popen[bytes]

    def start(self, *command: str, user: str | None = None) -> subprocess.Popen[str]:
        """Start a command inside, as root or as an account that can reach its own manager."""
        enter = ["nsenter", "-t", str(self.init), "-m", "-u", "-i", "-n", "-p", "-C", "-r", "-w"]
        environment = {"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "HOME": "/root", "LC_ALL": "C.UTF-8"}
        if user is None and "COVERAGE_PROCESS_CONFIG" in os.environ:
            environment |= {"COVERAGE_PROCESS_START": f"{CHECKOUT}/pyproject.toml", "COVERAGE_FILE": f"{CHECKOUT}/.coverage"}
        if user is not None:
            number = self.output("id", "-u", user).strip()
            environment |= {"HOME": f"/home/{user}", "XDG_RUNTIME_DIR": f"/run/user/{number}"}
            enter += ["setpriv", "--reuid", number, "--regid", number, "--init-groups"]
        return subprocess.Popen(
            [*enter, *command], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment
        )

    def run(self, *command: str, user: str | None = None) -> subprocess.CompletedProcess[str]:
        """Runs a command inside to its end."""
        process = self.start(*command, user=user)
        stdout, stderr = process.communicate(timeout=60)
        return subprocess.CompletedProcess(command, process.returncode, stdout, stderr)

    def output(self, *command: str, user: str | None = None) -> str:
        """What a command that must succeed prints."""
        done = self.run(*command, user=user)
        assert done.returncode == 0, (command, done.stdout, done.stderr, self.run("journalctl", "-n", "20", "--no-pager").stdout)
        return done.stdout

    def path(self, inside: str) -> Path:
        """A path inside, as this side reaches it."""
        return Path(f"/proc/{self.init}/root{inside}")

    def journal(self, match: str) -> list[dict[str, object]]:
        """The journal's entries that match, oldest first."""
        return [json.loads(line) for line in self.output("journalctl", "-o", "json", match).splitlines()]

    def until(self, condition: Callable[[], object], seconds: float = 20) -> None:
        """Returns as soon as something holds."""
        end = time.monotonic() + seconds
        while not condition():
            assert time.monotonic() < end, self.run("journalctl", "-n", "60", "--no-pager").stdout
            time.sleep(0.05)


def boot(tree: Path) -> Iterator[Machine]:
    """A machine with an Arawn tree, for as long as it is needed."""
    unified = Path("/sys/fs/cgroup/unified")
    cgroup = (unified if unified.is_dir() else Path("/sys/fs/cgroup")) / f"machine.{os.getpid()}"
    cgroup.mkdir()
    version = f"{sys.version_info.major}.{sys.version_info.minor}"
    arguments = [sys.base_prefix, sysconfig.get_path("purelib"), str(HERE.parents[2]), str(tree), version]
    unshare = ["unshare", "-m", "-C", "-p", "-f", "-u", "-i", "-n", "--kill-child", "--mount-proc"]
    joined = f'echo $$ >"{cgroup}/cgroup.procs"; exec "$@"'
    outer = subprocess.Popen(["sh", "-c", joined, "sh", *unshare, str(HERE / "boot"), str(HERE / "prepare"), *arguments])
    try:
        machine = Machine(0, outer)
        machine.until(lambda: _is_up(machine))
        yield machine
    finally:
        outer.kill()
        outer.wait()
        _remove(cgroup)


def _is_up(machine: Machine) -> bool:
    assert machine.outer.poll() is None, "the machine did not boot"
    children = psutil.Process(machine.outer.pid).children()
    if not children or children[0].name() != "systemd":
        return False
    machine.init = children[0].pid
    return machine.run("systemctl", "is-active", "--quiet", "basic.target").returncode == 0


def _remove(cgroup: Path) -> None:
    end = time.monotonic() + 5
    while time.monotonic() < end:
        with suppress(OSError):
            for directory, _, _ in os.walk(cgroup, topdown=False):
                os.rmdir(directory)
            return
        time.sleep(0.05)


@pytest.fixture(scope="module")
def machine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Machine]:
    """One machine for the tests of a module; each leaves it as it was."""
    yield from boot(SampleTree(tmp_path_factory.mktemp("tree") / "arawn", time.time_ns()).root)
