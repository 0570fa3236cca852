"""Trees of another account, for tests in which root runs the program."""

from __future__ import annotations

import os
import pwd
import shlex
import socket
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.support.tree import SampleTree

OWNER, THIRD = 5, 6
OWNER_NAME, THIRD_NAME = (pwd.getpwuid(user).pw_name for user in (OWNER, THIRD))
GROUP = pwd.getpwuid(OWNER).pw_gid


def _readable() -> tuple[str, ...]:
    """The command that shows Python and the program to all accounts, if a directory above is root's
    alone."""
    places = {Path(place).resolve() for place in (sys.base_prefix, sys.prefix, Path(__file__).parents[2])}
    hidden = {place: private[-1] for place in places if (private := [path for path in place.parents if not path.stat().st_mode & 0o001])}
    if not hidden:
        return ()
    steps = ["mount -t tmpfs t /mnt"]
    for number, place in enumerate(hidden):
        steps.append(f"mkdir /mnt/{number} && mount --bind {shlex.quote(str(place))} /mnt/{number}")
    steps += [f"mount -t tmpfs -o mode=755 t {shlex.quote(str(top))}" for top in sorted(set(hidden.values()))]
    for number, place in sorted(enumerate(hidden), key=lambda numbered: numbered[1]):
        steps.append(f"mkdir -p {shlex.quote(str(place))} && mount --move /mnt/{number} {shlex.quote(str(place))}")
    return ("unshare", "--mount", "sh", "-c", f'{" && ".join(steps)} && exec "$@"', "sh")


READABLE = _readable()
"""A prefix for commands with which each account can run Python."""


def as_account(user: int) -> tuple[str, ...]:
    """A prefix that runs a command as an account, with no power of root."""
    return (*READABLE, "setpriv", f"--reuid={user}", f"--regid={GROUP}", "--clear-groups", "--inh-caps=-all")


def give(top: Path, user: int = OWNER) -> None:
    """Give a tree to an account, links themselves included."""
    for path in (top, *top.rglob("*")):
        os.chown(path, user, GROUP, follow_symlinks=False)


@contextmanager
def tree_of_owner() -> Iterator[SampleTree]:
    """A tree of the owner beside `state` of the owner and `config.toml` of root, in a directory
    that all can reach."""
    with tempfile.TemporaryDirectory(prefix="arawn-public-") as name:
        top = Path(name)
        top.chmod(0o755)
        tree = SampleTree(top / "arawn", time.time_ns())
        (top / "state").mkdir(mode=0o700)
        give(top / "state")
        (top / "config.toml").write_text('[maintenance]\nstate_dir = "state"\n[maintenance.cleanup]\ntrash_days = 3\n')
        yield tree


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
