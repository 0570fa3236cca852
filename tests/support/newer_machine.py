"""A Debian 13 root whose glibc loads Cloacina's wheel, with PostgreSQL. Built once; needs root."""

from __future__ import annotations

import fcntl
import os
import shutil
import signal
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.support.relay_fixtures import free_port, wait_until

HERE = Path(__file__).parent / "debian13"
REPOSITORY = HERE.parents[2]
MEASURED = REPOSITORY / "tests" / "support" / "measured"
PYTHON = "/opt/venv/bin/python"
COMMAND = (PYTHON, "-P", "-m", "arawn_cli")
_POSTGRES = "/usr/lib/postgresql/17/bin"


@dataclass(frozen=True)
class NewerMachine:
    """A Debian 13 root. Commands in it see this package and the directory of a test."""

    root: Path
    folder: Path

    def start(self, *command: object, log: Path | None = None, **extra: str) -> subprocess.Popen[bytes]:
        """Start a command inside. Its output goes to `log`.out and `log`.err."""
        words = ["unshare", "--mount", str(HERE / "enter"), str(self.root), str(REPOSITORY), str(self.folder), "--", *map(str, command)]
        path = "/usr/sbin:/usr/bin:/sbin:/bin"
        environment = {"PATH": path, "HOME": str(self.folder), "LC_ALL": "C.UTF-8", "PYTHONPATH": f"{MEASURED}:{REPOSITORY}", **extra}
        environment |= {key: value for key, value in os.environ.items() if key.startswith("COVERAGE_")}
        if log is None:
            return subprocess.Popen(words, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=environment)
        with Path(f"{log}.out").open("ab") as out, Path(f"{log}.err").open("ab") as err:
            return subprocess.Popen(words, stdin=subprocess.DEVNULL, stdout=out, stderr=err, env=environment)

    def run(self, *command: object, **extra: str) -> subprocess.CompletedProcess[str]:
        """Run a command inside to its end."""
        process = self.start(*command, log=None, **extra)
        stdout, stderr = process.communicate(timeout=120)
        return subprocess.CompletedProcess([], process.returncode, stdout.decode(), stderr.decode())

    @contextmanager
    def postgres(self, password: str) -> Iterator[str]:
        """Run a PostgreSQL server on the loopback. Yield the URL of an empty database."""
        port = free_port()
        settings = f"-p {port} -c listen_addresses=127.0.0.1 -c unix_socket_directories=/run/pg -c fsync=off"
        script = f"""
            mkdir /run/pg; echo {password} > /run/pg/password; chown -R postgres /run/pg; cd /run/pg
            runuser -u postgres -- {_POSTGRES}/initdb --no-sync -D data -U arawn -A scram-sha-256 --pwfile password >&2
            exec setpriv --reuid postgres --regid postgres --clear-groups {_POSTGRES}/postgres -D data {settings}"""
        server = self.start("sh", "-ec", script, log=self.folder / "postgres")
        try:
            errors = self.folder / "postgres.err"
            wait_until(lambda: server.poll() is not None or "ready to accept connections" in errors.read_text(), 60)
            assert server.poll() is None, errors.read_text()
            yield f"postgresql://arawn:{password}@127.0.0.1:{port}/postgres"
        finally:
            server.send_signal(signal.SIGINT)  # does not wait for its clients
            server.wait(30)


def why_not() -> str | None:
    """Return why a Debian 13 root cannot be built here, or None."""
    if os.getuid() != 0:
        return "needs root to build a Debian 13 for Cloacina"
    missing = [program for program in ("debootstrap", "unshare", "chroot", "apt-get") if shutil.which(program) is None]
    return f"needs {', '.join(missing)} to build a Debian 13" if missing else None


@pytest.fixture(scope="session")
def debian13() -> Path:
    """The root, as `build` keeps it."""
    reason = why_not()
    if reason:
        pytest.skip(reason)
    cache = Path(os.environ.get("ARAWN_TEST_CACHE") or os.path.expanduser("~/.cache"), "arawn-cli")
    cache.mkdir(parents=True, exist_ok=True)
    project = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["project"]
    requirements = [*project["dependencies"], *project["optional-dependencies"]["cloacina"], "coverage"]
    with (cache / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        done = subprocess.run(
            [HERE / "build", cache / "debian13", sys.executable, *requirements], capture_output=True, text=True, check=False
        )
    if not (cache / "debian13").exists():
        pytest.skip(f"cannot build a Debian 13: {done.stderr[-400:]}")
    assert done.returncode == 0, done.stderr
    return cache / "debian13"


@pytest.fixture
def newer(debian13: Path, tmp_path: Path) -> NewerMachine:
    """A Debian 13 that sees the folder of one test."""
    return NewerMachine(debian13, tmp_path)
