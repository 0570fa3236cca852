"""Whatever the owner of the tree puts in the way, root changes and reads nothing that the owner could not."""

from __future__ import annotations

import os
import random
import socket
import sqlite3
import stat
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import pytest

from arawn_cli.errors import ExitCode
from tests.conftest import RunCommand, needs_namespaces
from tests.support.owner import OWNER, READABLE, give, tree_of_owner
from tests.support.tree import SampleTree, set_age

pytestmark = needs_namespaces

SECRET = "only-root-may-read-this-7f3a"
COMMANDS = (
    ("scratch-cleanup", "--dry-run", "--plan-out", "OUTPUT"),
    ("scratch-cleanup", "--plan-out", "OUTPUT"),
    ("scratch-cleanup", "--apply", "OUTPUT"),
    ("disk-check",),
    ("disk-check", "--dry-run"),
    ("trash", "list"),
    ("trash", "restore", "gone"),
    ("trash", "purge"),
    ("report",),
    ("report", "--html", "OUTPUT"),
    ("doctor", "--format=json"),
    ("config", "show"),
    ("schedule", "show", "--systemd"),
    ("schedule", "install", "--systemd", "--yes"),
    ("schedule", "status", "--systemd"),
)
PLACES = (
    *("state", "state/state.db", "state/state.db-wal", "state/state.db-shm", "state/state.db-journal", "state/new", "metrics", "output"),
    *("workstreams.db", "workstreams.db-wal", "workstreams.db-shm", "workstreams.db-journal", "token", "ca.pem", "config.toml"),
    *("arawn", "arawn/workstreams", "arawn/workstreams/scratch", "arawn/workstreams/scratch/messages.jsonl", "arawn/workstreams.db"),
    *("arawn/workstreams/scratch/sessions", "arawn/workstreams/scratch/.trash", "arawn/workstreams/scratch/sessions/old"),
    *("arawn/workstreams/scratch/sessions/old/work", "arawn/workstreams/scratch/sessions/old/work/f"),
)
BESIDE = tuple(place for place in PLACES if not place.startswith("arawn"))  # a run that finds no tree ends before it does anything
# What an account can do with a path, run as that account: argv is the action, the place, and a target.
ACT = """
import os, shutil, socket, sys, time
action, place, target = sys.argv[1:]
def remove(path):
    shutil.rmtree(path) if os.path.isdir(path) and not os.path.islink(path) else os.path.lexists(path) and os.unlink(path)
def put(action):
    remove(place)
    if action == "link": os.symlink(target, place)
    elif action == "hard": os.link(target, place)
    elif action == "fifo": os.mkfifo(place)
    elif action == "directory": os.makedirs(place + "/inner")
    elif action == "socket": os.chdir(os.path.dirname(place)); socket.socket(socket.AF_UNIX).bind(os.path.basename(place))
    elif action == "copy": shutil.copyfile(target, place)
try:
    if action == "swap":
        os.path.lexists(place) or open(place, "x").close()
        os.path.lexists(place + "~") or os.symlink(target, place + "~")
        print(flush=True)
        while True:
            os.rename(place, place + "_"); os.rename(place + "~", place); time.sleep(0.0005)
            os.rename(place, place + "~"); os.rename(place + "_", place); time.sleep(0.0005)
    put(action)
except OSError:
    pass
"""


def state_of(top: Path) -> dict[str, tuple[object, ...]]:
    """Owner, group, mode and content of all files below a directory."""
    found: dict[str, tuple[object, ...]] = {}
    for path in (top, *sorted(top.rglob("*"))):
        status = path.lstat()
        content = path.read_bytes() if stat.S_ISREG(status.st_mode) else b""
        found[str(path)] = (status.st_uid, status.st_gid, status.st_mode, content)
    return found


@contextmanager
def listening(received: list[bytes]) -> Iterator[int]:
    """A relay of the owner that keeps every request."""

    def serve() -> None:
        while True:
            try:
                connection, _ = server.accept()
            except OSError:
                return
            with connection:
                connection.settimeout(2)
                try:
                    received.append(connection.recv(65536))
                    connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")
                except OSError:
                    pass

    with socket.create_server(("127.0.0.1", 0)) as server:
        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        yield server.getsockname()[1]
        server.shutdown(socket.SHUT_RDWR)
    thread.join(5)


def build(top: Path, tree: SampleTree) -> None:
    """Make what belongs to root: secrets, the state of another program, and a public directory."""
    private, public = top / "private", top / "public"
    private.mkdir(mode=0o700)
    public.mkdir()
    (private / "secret").write_text(SECRET)
    (private / "secret").chmod(0o600)
    (public / "of-root").write_text("of root")
    (public / "empty").mkdir()
    with closing(sqlite3.connect(public / "state.db")) as connection:
        connection.execute("CREATE TABLE other (secret)")
        connection.execute("INSERT INTO other VALUES (?)", (SECRET,))
        connection.commit()
    (public / "state.db").chmod(0o600)
    tree.session("old", files={"f": 1}, age_days=30)
    tree.turn("old", tree.ago(30))
    set_age(tree.sessions, tree.ago(30))


def configure(top: Path, chance: random.Random, port: int) -> None:
    """Write the owner's configuration, which may name what is root's."""
    bad = (
        top / "private" / "secret",
        top / "public",
        top / "public" / "of-root",
        Path("/etc/shadow"),
        Path("/etc/systemd/system/x.service.d"),
    )

    def place(name: str) -> str:
        return str(chance.choice(bad) if chance.random() < 0.5 else top / "home" / name)

    lines = [
        f'[maintenance]\nstate_dir = "{place(chance.choice(("state", "new")))}"',
        f'[maintenance.metrics]\ntextfile_dir = "{place("metrics")}"',
        f'[maintenance.relay]\nurl = "http://127.0.0.1:{port}/"\ndeadline_secs = 2\nallow_insecure = true',
        f'token_file = "{top / "private" / "secret"}"' if chance.random() < 0.4 else "",
        f'ca_file = "{place("ca.pem")}"' if chance.random() < 0.3 else "",
        "[maintenance.pressure]\ntotal = 1",
        f"[maintenance.cleanup]\ntrash_days = {chance.randrange(2)}",
    ]
    (top / "home" / "config.toml").write_text("\n".join(lines))


def attacked(seed: int, run: RunCommand) -> None:
    """Prepare a hostile place, run some commands as root, and compare what is root's before and after."""
    chance = random.Random(seed)  # noqa: S311 - reproducible
    received: list[bytes] = []
    with tree_of_owner() as tree, listening(received) as port:
        top = tree.root.parent
        build(top, tree)
        home = top / "home"
        home.mkdir()
        tree.root.rename(home / "arawn")
        (top / "state").rename(home / "state")
        (home / "metrics").mkdir()
        (home / "token").write_text("a-token")
        (home / "token").chmod(0o600)
        configure(top, chance, port)
        give(home)
        if is_of_root := chance.random() < 0.3:
            (home / "config.toml").rename(top / "config.toml")
            os.chown(top / "config.toml", 0, 0)
        config = top / "config.toml" if is_of_root else home / "config.toml"
        targets = (top / "private" / "secret", top / "private", top / "public", top / "public" / "of-root", top / "public" / "state.db")
        swaps = []
        before = {name: state_of(top / name) for name in ("private", "public")}
        before |= {"config": state_of(top / "config.toml")}
        for _ in range(chance.randint(1, 4)):
            action = chance.choice(("link", "link", "hard", "fifo", "directory", "socket", "copy", "swap"))
            act = [
                sys.executable,
                "-c",
                ACT,
                action,
                str(home / chance.choice(PLACES if chance.random() < 0.2 else BESIDE)),
                str(chance.choice(targets)),
            ]
            command = [*READABLE, "setpriv", f"--reuid={OWNER}", f"--regid={OWNER}", "--clear-groups", "--inh-caps=-all", *act]
            if action == "swap":
                swaps.append(subprocess.Popen(command, stdout=subprocess.PIPE))
                assert swaps[-1].stdout is not None
                swaps[-1].stdout.readline()
            else:
                subprocess.run(command, check=True, timeout=30)
        output = home / "output" if chance.random() < 0.7 else top / "output"
        shown = []
        for words in (*chance.sample(COMMANDS, 2), ("disk-check",)):
            arguments = [str(output) if word == "OUTPUT" else word for word in words]
            done = run(*arguments, "--base-path", home / "arawn", "--config", config, prefix=READABLE)
            shown.append(done.stdout + done.stderr)
            assert done.code in {*ExitCode} - {ExitCode.INTERNAL}, (seed, arguments, done.stderr)
            assert "Traceback" not in done.stderr, (seed, arguments, done.stderr)
        for swap in swaps:
            swap.kill()
            swap.communicate()
        after = {name: state_of(top / name) for name in ("private", "public")} | {"config": state_of(top / "config.toml")}
        assert after == before, seed
        assert SECRET not in "".join(shown), seed
        readable = [
            path for path in (*home.rglob("*"), top / "output") if path.is_file() and not path.is_symlink() and path.stat().st_nlink == 1
        ]
        assert not [path for path in readable if SECRET.encode() in path.read_bytes()], seed
        if not is_of_root:
            assert not [request for request in received if SECRET.encode() in request], seed


@pytest.mark.parametrize("seed", range(6))
def test_root_does_nothing_that_a_hostile_owner_could_not(run: RunCommand, seed: int) -> None:
    attacked(seed, run)


@pytest.mark.long
@pytest.mark.parametrize("seed", range(1000, 1300))
def test_root_does_nothing_that_a_hostile_owner_could_not_in_any_place(run: RunCommand, seed: int) -> None:
    attacked(seed, run)
