"""Whatever takes the place of a file that a command reads or writes, the command ends soon and says
which file it is."""

from __future__ import annotations

import itertools
import os
import random
import signal
import socket
import sqlite3
import stat
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

import pytest

from arawn_cli.errors import ExitCode
from tests.conftest import COMMAND
from tests.support.tree import SampleTree

SECONDS = 30  # a run takes one, on a busy machine a few
OUTPUT_MAX = 256 * 1024
SAMPLE = 30
SEED = 20

_ENDLESS = "WITH RECURSIVE c(x) AS (SELECT 'old' UNION ALL SELECT x || 1 FROM c) SELECT x AS id, 'scratch' AS workstream_id"
_BIG = "x" * 900_000


@dataclass(frozen=True)
class Site:
    """A tree with one old session, and a place for each file that a run reads or writes."""

    tree: SampleTree
    files: Path
    state: Path

    def place(self, role: str) -> Path:
        database = self.tree.database
        return {
            "database": database,
            "wal": database.with_name(f"{database.name}-wal"),
            "shm": database.with_name(f"{database.name}-shm"),
            "journal": database.with_name(f"{database.name}-journal"),
            "messages": self.tree.workstreams / "scratch" / "messages.jsonl",
            "state": self.state / "state.db",
            "state-wal": self.state / "state.db-wal",
        }.get(role, self.files / role)

    def configuration(self, role: str) -> Path:
        """Return the configuration; only for their roles it names a relay with a token or
        certificate."""
        path = self.files / "config.toml"
        relay = f"[maintenance.relay]\nurl = 'https://127.0.0.1:9/x'\ntimeout_secs = 1\ndeadline_secs = 1\n{RELAY.get(role)} = '{role}'\n"
        if role != path.name:
            path.write_text(f"[maintenance]\nstate_dir = '{self.state}'\n{relay if role in RELAY else ''}")
        return path


RELAY = {"token": "token_file", "ca.pem": "ca_file"}
ROLES = (
    *("database", "wal", "shm", "journal", "messages", "state", "state-wal"),
    *("config.toml", "token", "ca.pem", "plan", "plan-out", "page.html"),
)


def _bind(path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as listener:
        here = os.getcwd()
        os.chdir(path.parent)  # the name of a socket is short
        try:
            listener.bind(path.name)
        finally:
            os.chdir(here)


def _hard_link(path: Path) -> None:
    other = path.with_name("other-file")
    other.write_bytes(b"x")
    os.link(other, path)


def _sparse(path: Path) -> None:
    with path.open("wb") as file:
        file.truncate(1 << 40)


def _content(content: bytes) -> Callable[[Path], None]:
    def plant(path: Path) -> None:
        path.write_bytes(content)

    return plant


def _database(script: str) -> Callable[[Path], None]:
    def plant(path: Path) -> None:
        with closing(sqlite3.connect(path)) as connection:
            connection.executescript(script)

    return plant


KINDS: dict[str, Callable[[Path], None]] = {
    "fifo": os.mkfifo,
    "socket": _bind,
    "directory": Path.mkdir,
    "zero": lambda path: path.symlink_to("/dev/zero"),
    "tty": lambda path: path.symlink_to("/dev/tty"),
    "full": lambda path: path.symlink_to("/dev/full"),
    "dangling": lambda path: path.symlink_to("nowhere"),
    "loop": lambda path: path.symlink_to(path.name),
    "hard link": _hard_link,
    "empty": Path.touch,
    "sparse": _sparse,
    "random": _content(random.Random(SEED).randbytes(1 << 20)),  # noqa: S311 - no secret
    "long line": _content(b"x = '" + b"y" * (1 << 19) + b"'\n"),
    "many keys": _content(b"\n".join(b"[maintenance.x%d]" % number for number in range(5_000))),
    "many roots": _content(b"\n".join(b"[[maintenance.roots]]\nname = 'n%d'\npath = '/n%d'" % (number, number) for number in range(2500))),
    "long key": _content(b".".join([b"a"] * 60_000) + b" = 1"),
    "view": _database(f"CREATE VIEW sessions AS {_ENDLESS}, 1 AS turn_count, x AS started_at, x AS ended_at FROM c; "
                      "CREATE TABLE workstreams (id, title, state)"),
    "view of workstreams": _database(f"CREATE VIEW workstreams AS {_ENDLESS}, x AS title, x AS state FROM c; "
                                     "CREATE TABLE sessions (id, workstream_id, turn_count, started_at, ended_at)"),
    "huge ids": _database(f"CREATE TABLE workstreams (id, title, state); CREATE TABLE sessions (id, workstream_id, turn_count, started_at, "
                          f"ended_at); INSERT INTO sessions VALUES ('{_BIG}', '{_BIG}', 1, '{_BIG}', '{_BIG}'); "
                          f"INSERT INTO workstreams VALUES ('{_BIG}', '{_BIG}', 'active'), ('scratch', '{_BIG}', 'active')"),
}  # fmt: skip

COMMANDS: dict[str, tuple[str, ...]] = {
    "disk-check": ("disk-check", "--format=json"),
    "cleanup": ("scratch-cleanup", "--format=json"),
    "dry run": ("scratch-cleanup", "--dry-run", "--format=table"),
    "report": ("report",),
    "doctor": ("doctor",),
    "trash": ("trash", "list"),
    "config": ("config", "show"),
}

# 13 roles, 19 kinds and 7 commands: 1,729 cases
CASES = list(itertools.product(ROLES, KINDS, COMMANDS))


@pytest.fixture
def make_site(tmp_path: Path) -> Callable[[int], Site]:
    def make(number: int) -> Site:
        top = tmp_path / str(number)
        for directory in ("files", "state"):
            (top / directory).mkdir(parents=True, mode=0o700)
        tree = SampleTree(top / "arawn", time.time_ns())
        tree.session("old", files={"f": 1}, age_days=30)
        tree.turn("old", tree.ago(30))
        return Site(tree, top / "files", top / "state")

    return make


def options_for(role: str, command: str, site: Site) -> list[str]:
    if role == "plan" and command in ("cleanup", "dry run"):
        return [f"--apply={site.place(role)}"]
    if role == "plan-out" and command in ("cleanup", "dry run"):
        return [f"--plan-out={site.place(role)}"]
    return [f"--html={site.place(role)}"] if role == "page.html" and command == "report" else []


def check(site: Site, case: tuple[str, str, str], environment: dict[str, str]) -> None:
    """Run one case, and assert that it ends, says why, and removes nothing in doubt."""
    role, kind, command = case
    place = site.place(role)
    place.unlink(missing_ok=True)
    KINDS[kind](place)
    arguments = [
        *COMMANDS[command],
        f"--base-path={site.tree.root}",
        f"--config={site.configuration(role)}",
        *options_for(role, command, site),
    ]
    started = time.monotonic()
    done = subprocess.run(
        [COMMAND, *arguments], capture_output=True, text=True, errors="replace", timeout=SECONDS, env=environment, stdin=subprocess.DEVNULL
    )
    told = (case, done.returncode, time.monotonic() - started, done.stdout[-2000:], done.stderr[-2000:])
    assert done.returncode in set(ExitCode) - {ExitCode.INTERNAL}, told
    assert "Traceback" not in done.stderr, told
    if kind != "many roots":  # a valid configuration, which `config show` and `doctor` print
        assert len(done.stdout) + len(done.stderr) < OUTPUT_MAX, told
    if done.returncode in (ExitCode.CONFIG, ExitCode.REFUSED):
        assert any(name in done.stderr for name in (place.name, os.path.realpath(place))), told
    if role in ("database", "wal", "shm", "journal") and done.returncode == ExitCode.PARTIAL and command in ("disk-check", "cleanup"):
        assert any(name in done.stdout + done.stderr for name in (place.name, os.path.realpath(place))), told
    is_special = kind in ("fifo", "socket", "directory", "zero", "tty", "loop") or (kind, role) == ("view", "database")
    if is_special and role in ("database", "wal", "shm", "journal"):
        assert (site.tree.workstreams / "scratch" / "sessions" / "old").exists(), told
        if command in ("disk-check", "cleanup"):
            assert done.returncode != ExitCode.DONE, told


def test_a_database_that_is_a_link_elsewhere_is_named_by_its_whole_path(
    environment: dict[str, str], make_site: Callable[[int], Site]
) -> None:
    for number, (kind, command) in enumerate(itertools.product(("zero", "dangling", "loop"), ("disk-check", "cleanup"))):
        check(make_site(number), ("database", kind, command), environment)


@pytest.mark.slow
def test_a_sample_of_hostile_files(environment: dict[str, str], make_site: Callable[[int], Site]) -> None:
    for number, case in enumerate(random.Random(SEED).sample(CASES, SAMPLE)):  # noqa: S311 - no secret
        check(make_site(number), case, environment)


@pytest.mark.long
@pytest.mark.parametrize("role", ROLES)
def test_every_hostile_file(environment: dict[str, str], make_site: Callable[[int], Site], role: str) -> None:
    for number, case in enumerate(case for case in CASES if case[0] == role):
        check(make_site(number), case, environment)


# ---- Signals


@pytest.fixture
def large(tree: SampleTree) -> SampleTree:
    with closing(sqlite3.connect(tree.database)) as connection:
        connection.executescript(
            "WITH RECURSIVE c(x) AS (SELECT 1 UNION ALL SELECT x + 1 FROM c LIMIT 300000) "
            "INSERT INTO sessions SELECT 's' || x, 'scratch', '2026-01-01T00:00:00Z', NULL, 1 FROM c"
        )
    for number in range(40):
        tree.session(f"old-{number}", files={f"f{file}": 10 for file in range(50)}, age_days=30)
    return tree


def _delays(count: int) -> Iterator[float]:
    seeded = random.Random(SEED)  # noqa: S311 - no secret
    return (seeded.uniform(0, 2.5) for _ in range(count))


def _end(environment: dict[str, str], arguments: list[str], number: signal.Signals, delay: float) -> None:
    process = subprocess.Popen([COMMAND, *arguments], stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=environment, text=True)
    try:
        process.communicate(timeout=delay)
    except subprocess.TimeoutExpired:
        process.send_signal(number)
        _, log = process.communicate(timeout=5)  # a second on an idle machine
        # Before Python has started the signal ends the process; after the last step it is too late.
        assert process.returncode in (0, 1, -number, 128 + number), (arguments, delay, process.returncode, log)
        assert "Traceback" not in log or delay < 1, log


@pytest.mark.slow
@pytest.mark.parametrize("command", ["disk-check", "cleanup", "dry run", "report", "doctor"])
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_at_any_time_ends_a_run_soon(environment: dict[str, str], large: SampleTree, command: str, number: signal.Signals) -> None:
    for delay in _delays(6):
        _end(environment, [*COMMANDS[command], f"--base-path={large.root}"], number, delay)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
@pytest.mark.parametrize("command", ["disk-check", "cleanup"])
def test_a_signal_ends_a_run_that_waits_for_a_locked_database(
    environment: dict[str, str], tree: SampleTree, command: str, number: signal.Signals
) -> None:
    tree.session("old", files={"f": 1}, age_days=30)
    with closing(sqlite3.connect(tree.database)) as holder:
        holder.executescript("PRAGMA journal_mode = DELETE; BEGIN EXCLUSIVE")
        _end(environment, [*COMMANDS[command], f"--base-path={tree.root}"], number, 1.5)


@pytest.mark.parametrize("prefix", [(), ("env", "--block-signal")], ids=["", "blocked-by-its-parent"])
def test_a_signal_ends_a_run_that_waits_for_its_plan_on_standard_input(
    environment: dict[str, str], tree: SampleTree, prefix: tuple[str, ...]
) -> None:
    tree.session("old", files={"f": 1}, age_days=30)
    command = [*prefix, str(COMMAND), "scratch-cleanup", f"--base-path={tree.root}", "--apply=-"]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=environment, text=True)
    with pytest.raises(subprocess.TimeoutExpired):
        process.wait(3)
    process.terminate()
    assert process.wait(5) == ExitCode.TERMINATED
    process.communicate()
    assert stat.S_ISDIR((tree.workstreams / "scratch" / "sessions" / "old").stat().st_mode)


def sockets() -> tuple[int, int]:
    """Return the ends of a connection, as a service of systemd has one to the journal."""
    reader, writer = socket.socketpair()
    writer.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
    return reader.detach(), writer.detach()


@pytest.mark.slow
@pytest.mark.parametrize(("number", "make"), [(signal.SIGTERM, os.pipe), (signal.SIGINT, os.pipe), (signal.SIGTERM, sockets)])
def test_a_signal_ends_a_run_whose_output_nobody_reads(
    environment: dict[str, str], tree: SampleTree, number: signal.Signals, make: Callable[[], tuple[int, int]]
) -> None:
    for name in range(400):
        tree.session(f"recent-{name}", files={}, age_days=0)
    command = [str(COMMAND), "scratch-cleanup", f"--base-path={tree.root}", "--verbose"]
    reader, writer = make()
    process = subprocess.Popen(command, stdout=writer, stderr=writer, env=environment)
    os.close(writer)
    with pytest.raises(subprocess.TimeoutExpired):
        process.wait(5)
    process.send_signal(number)
    try:
        assert process.wait(5) in (ExitCode.UNDELIVERED, 128 + number)
    finally:
        process.kill()
        process.wait()
        os.close(reader)
