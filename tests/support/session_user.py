"""A program that uses a session in the way that its argument says, prints `ready`, and waits.

The argument is a JSON object with the fields of `Use`.
"""

from __future__ import annotations

import ctypes
import json
import os
import socket
import sys
import threading
import time
from dataclasses import asdict, dataclass

NEWNS, FILES, FS, NEWNET = 0x20000, 0x400, 0x200, 0x40000000
BIND, PRIVATE, DETACH = 4096, 0x4000 | 1 << 18, 2
EXIT = 60 if os.uname().machine == "x86_64" else 93  # exit(2), of one thread
LIBC = ctypes.CDLL(None, use_errno=True)


@dataclass(frozen=True)
class Use:
    """How a session is used.

    Attributes:
        kind: what is used, and how.
        view: how the program sees the root: as everyone, through bind mounts or in a chroot.
        below: names of the directories between the session's `work` and what is used.
        thread: whether only a thread uses it, which shares no descriptors and directories; `alone`:
            the first thread has ended; `sharing`: it shares them.
        network: whether it has a network namespace of its own.
        root: the root of the tree.
        session: the path of the session below it.
        elsewhere: an empty directory.
    """

    kind: str
    view: str
    below: tuple[str, ...]
    thread: str
    network: bool
    root: str = ""
    session: str = ""
    elsewhere: str = ""

    def command(self) -> list[str]:
        """The command that runs this program."""
        return [sys.executable, "-P", __file__, json.dumps(asdict(self))]


def call(name: str, *arguments: object) -> None:
    """Call a function of the C library."""
    if getattr(LIBC, name)(*arguments):
        raise OSError(ctypes.get_errno(), name)


def map_file(descriptor: int) -> None:
    """Map the first byte of a file. Unlike the module `mmap`, keep no descriptor."""
    LIBC.mmap.restype = ctypes.c_void_p
    if LIBC.mmap(None, ctypes.c_size_t(1), 1, 2, descriptor, ctypes.c_long(0)) == ctypes.c_void_p(-1).value:
        raise OSError(ctypes.get_errno(), "mmap")


def bind(source: str, target: str) -> None:
    """Mount a directory in a namespace of this thread's own."""
    call("unshare", NEWNS)
    call("mount", b"none", b"/", None, PRIVATE, None)
    call("mount", os.fsencode(source), os.fsencode(target), None, BIND, None)


def opened(use: Use) -> int:
    """Set up the view, and open the directory in the session that is used."""
    path = f"{use.root}/{use.session}/work"
    if use.view in ("bind", "bind-chroot"):
        bind(use.root, use.elsewhere)
        path = f"{use.elsewhere}/{use.session}/work"
    elif use.view in ("part", "detached"):
        bind(path, use.elsewhere)
        path = use.elsewhere
    if use.view == "bind-chroot":
        os.chroot(use.elsewhere)
        path = f"/{use.session}/work"
    elif use.view == "chroot":
        os.chroot(use.root)
        path = f"/{use.session}/work"
    directory = os.open(path, os.O_RDONLY)
    if use.view == "detached":
        call("umount2", os.fsencode(use.elsewhere), DETACH)
    for name in use.below:
        inner = os.open(name, os.O_RDONLY, dir_fd=directory)
        os.close(directory)
        directory = inner
    return directory


def begin(use: Use) -> object:
    """Use the session; return what keeps it in use."""
    if use.thread in ("own", "alone"):
        call("unshare", FILES | FS)
    if use.network:
        call("unshare", NEWNET)
    home = os.open("/", os.O_RDONLY)
    directory = opened(use)
    held: object = None
    os.fchdir(directory)
    if use.kind == "file":
        held = os.open("f", os.O_RDONLY)
    elif use.kind == "deleted":
        held = os.open("g", os.O_RDWR | os.O_CREAT)
        os.unlink("g")
    elif use.kind == "fifo":
        os.mkfifo("p")
        held = os.open("p", os.O_RDWR)
    elif use.kind == "directory":
        held = os.open(".", os.O_RDONLY)
    elif use.kind == "map":
        with open("f", "rb") as file:
            map_file(file.fileno())
    elif use.kind == "socket":
        held = socket.socket(socket.AF_UNIX)
        held.bind("new.sock")
        held.listen()
        os.rename("new.sock", "agent.sock")
    elif use.kind == "root":
        os.chroot(".")
    elif use.kind == "program":
        os.fchdir(home)
        program = os.open("sh", os.O_RDONLY, dir_fd=directory)
        os.execve(program, ["sh", "-c", "echo ready; read line"], {})  # noqa: S606 - the shell is the program of the session
    if use.kind != "cwd":
        os.fchdir(home)
    os.close(directory)
    os.close(home)
    return held


def wait(use: Use) -> None:
    """Begin, say so, and wait."""
    held = begin(use)
    sys.stdout.write("ready\n")
    sys.stdout.flush()
    time.sleep(60)
    del held


def main() -> None:
    """Use the session in this thread or in another one."""
    fields = json.loads(sys.argv[1])
    use = Use(**fields | {"below": tuple(fields["below"])})
    if not use.thread:
        wait(use)
    thread = threading.Thread(target=wait, args=(use,))
    thread.start()
    if use.thread == "alone":
        LIBC.syscall(ctypes.c_long(EXIT), 0)
    thread.join()


if __name__ == "__main__":
    main()
