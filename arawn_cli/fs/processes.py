"""Read processes, threads and sockets from the kernel, without reading any other filesystem."""

from __future__ import annotations

import ctypes
import errno
import os
import platform
import re
import socket
import struct
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from arawn_cli.fs.mounts import in_thread
from arawn_cli.fs.openat import Identity
from arawn_cli.fs.permissions import has_capability, is_in_first_user_namespace
from arawn_cli.fs.system_calls import call, statx
from arawn_cli.names import escape

SETTLING_SECS = 0.5
"""Age up to which a process that cannot be inspected is looked at again.

The child of a service manager is hidden until it drops its capabilities: of 187 that were watched,
for 41 ms at most.
"""

_RETRY_SECS = 0.01

_CAP_SYS_PTRACE = 19  # capabilities(7)
_KCMP = {"x86_64": 312, "aarch64": 272, "riscv64": 272}  # kcmp(2) has no function in C libraries
_KCMP_FILES, _KCMP_FS = 2, 3
_CLONE_NEWNET = 0x40000000
_AT_STATX_DONT_SYNC, _STATX_INO = 0x4000, 0x100  # statx(2)
_NETLINK_SOCK_DIAG = 4
_THREAD_SECS = 1.0  # one that gets no memory never answers
_UNIX_SOCKETS = struct.pack("=IHHII BBHIIIII", 40, 20, 0x301, 1, 0, socket.AF_UNIX, 0, 0, 0xFFFFFFFF, 0, 2, 0, 0)  # sock_diag(7)
_DIAG_DONE, _DIAG_ERROR, _DIAG_VFS = 3, 2, 1
_SOCKET_PATH = re.compile(rb"^\w+: \w+ \w+ \w+ \w+ \w+ +\d+ ([^@\n].*)$", re.MULTILINE)  # in /proc/net/unix


@dataclass(frozen=True, slots=True)
class Task:
    """A thread whose open files, directories or namespaces differ from those of its process.

    Attributes:
        path: its directory below /proc: `PID/task/TID`.
        mounts: its mount namespace.
        network: its network namespace.
        root: the path of its root directory, from the root of this run or of its mount namespace;
            None if it is longer than PATH_MAX.
    """

    process: int
    path: str
    mounts: str
    network: str
    root: str | None


@dataclass(frozen=True, slots=True)
class Tasks:
    """The tasks of other processes, and the processes of this account that cannot be inspected."""

    inspectable: list[Task]
    hidden: list[int]


@dataclass(frozen=True, slots=True)
class BoundSocket:
    """A Unix socket that is bound to a file.

    Attributes:
        number: its inode number among sockets, as in `socket:[12]`.
        device: the device number of the file's filesystem.
        inode: the lowest 32 bits of the file's inode number.
    """

    number: int
    device: int
    inode: int


def has_ended(error: OSError) -> bool:
    """Whether reading /proc failed because the process, thread or descriptor is gone."""
    return error.errno in (errno.ENOENT, errno.ESRCH, errno.EINVAL)


class _UnlessEnded:
    def __enter__(self) -> None:
        pass

    def __exit__(self, _kind: object, error: object, _traceback: object) -> bool:
        return isinstance(error, OSError) and has_ended(error)


unless_ended = _UnlessEnded()
"""A context that ends early, without an error, if a process, thread or descriptor is gone."""


def list_tasks(own: int) -> Tasks:
    """List the tasks of all processes but `own`; look again at young hidden ones.

    Raises:
        OSError: /proc cannot be read, or the kernel hides every process of this account.
    """
    tasks = Tasks([], [])
    waiting = [int(name) for name in os.listdir("/proc") if name.isdecimal() and int(name) != own]
    while waiting:
        young: list[int] = []
        for process in waiting:
            try:
                tasks.inspectable.extend(_tasks_of(process))
            except PermissionError as error:
                if not is_own(process):
                    continue
                if _age_secs(process) < SETTLING_SECS:
                    young.append(process)
                    continue
                _require_inspecting(process, error)
                tasks.hidden.append(process)
        if young:
            time.sleep(_RETRY_SECS)
        waiting = young
    return tasks


def _tasks_of(process: int) -> list[Task]:
    """Return the tasks of a process; of threads that share everything only the first."""
    tasks: list[Task] = []
    last = 0
    with unless_ended:
        for thread in sorted(map(int, os.listdir(f"/proc/{process}/task"))):
            path = f"{process}/task/{thread}"
            with unless_ended:
                if tasks and _shares_all(last, thread) and os.readlink(f"/proc/{path}/ns/net") == tasks[-1].network:
                    continue
                mounts, network = (os.readlink(f"/proc/{path}/ns/{name}") for name in ("mnt", "net"))
                tasks.append(Task(process, path, mounts, network, link_target(f"/proc/{path}/root")))
                last = thread
    return tasks


def link_target(name: str, directory: int | None = None) -> str | None:
    """Return the target of a link in /proc; None if it is longer than PATH_MAX.

    Raises:
        OSError: as readlink(2).
    """
    try:
        return os.readlink(name, dir_fd=directory)
    except OSError as error:
        if error.errno != errno.ENAMETOOLONG:
            raise
        return None


def _shares_all(thread: int, other: int) -> bool:
    """Whether two threads have the same open files, and the same root and working directory."""
    number = _KCMP.get(platform.machine())
    if number is None:
        return False
    try:
        return all(call("syscall", ctypes.c_long(number), thread, other, what, 0, 0) == 0 for what in (_KCMP_FILES, _KCMP_FS))
    except OSError:
        return False


def status_of(process: int | str) -> dict[str, str]:
    """Return the fields of /proc/PID/status; none for a process that has ended."""
    with unless_ended, open(f"/proc/{process}/status", encoding="utf-8", errors="replace") as lines:
        return {name: value.strip() for name, _, value in (line.partition(":") for line in lines)}
    return {}


def own_number() -> int:
    """Return the number of this process in /proc, which can be that of another PID namespace."""
    return int(os.readlink("/proc/self"))


def parents_number() -> int:
    """Return the number of the parent of this process in /proc."""
    return int(status_of("self")["PPid"])


def is_own(process: int) -> bool:
    """Whether a process belongs to this account, also with other privileges; to root belong all."""
    return os.geteuid() == 0 or str(os.geteuid()) in status_of(process).get("Uid", "").split()


def shown(process: int) -> str:
    """Return number and name of a process for people: `process 12 (node)`."""
    try:
        with open(f"/proc/{process}/comm", "rb") as name:
            return f"process {process} ({escape(os.fsdecode(name.read()).removesuffix(chr(10)))})"
    except OSError:
        return f"process {process}"


def command_line(process: int) -> str:
    """Return a command line, with a NUL after each argument; empty if it has ended."""
    try:
        with open(f"/proc/{process}/cmdline", "rb") as arguments:
            return os.fsdecode(arguments.read())
    except OSError:
        return ""


def _age_secs(process: int) -> float:
    """Return the time since a process was started, in seconds."""
    try:
        with open(f"/proc/{process}/stat", "rb") as fields:
            start = int(fields.read().rpartition(b")")[2].split()[19])
    except OSError:
        return 0  # it has ended, which the next look shows
    return time.clock_gettime(time.CLOCK_BOOTTIME) - start / os.sysconf("SC_CLK_TCK")


def _require_inspecting(process: int, error: PermissionError) -> None:
    """Check that one process is hidden for its own sake, and not all because of this run.

    The kernel hides all from a run in another user namespace, and from root without
    CAP_SYS_PTRACE (ptrace(2), user_namespaces(7)). It shows a process that guards itself as root's.

    Raises:
        OSError: it is the run.
    """
    is_initial_namespace = is_in_first_user_namespace()
    sees_all = is_initial_namespace and has_capability(_CAP_SYS_PTRACE)
    if sees_all or (is_initial_namespace and os.geteuid() != 0):
        return
    try:
        guards_itself = os.lstat(f"/proc/{process}/cwd").st_uid != os.geteuid()
    except OSError:
        return  # it has ended
    if os.geteuid() == 0 or not guards_itself:
        reason = f"the kernel hides the open files of {shown(process)}: this run is in another user namespace, or lacks CAP_SYS_PTRACE"
        raise PermissionError(error.errno, reason, f"/proc/{process}") from error


def cached_identity(descriptor: int) -> Identity:
    """Return device and inode number from the kernel's cache: a server that hangs is not asked.

    Raises:
        OSError: as `statx`.
    """
    status = statx(descriptor, "", _AT_STATX_DONT_SYNC, _STATX_INO)
    major, minor = struct.unpack_from("=II", status, 136)
    return os.makedev(major, minor), struct.unpack_from("=Q", status, 32)[0]


def mapped_files(maps: bytes, devices: Iterable[str]) -> Iterator[tuple[int, str]]:
    """Yield inode and path of mapped files on devices such as `8:1`, from /proc/PID/maps."""
    numbers = [f"{int(major):02x}:{int(minor):02x}" for major, _, minor in (device.partition(":") for device in sorted(devices))]
    line = rf"^\S+ \S+ \S+ (?:{'|'.join(numbers)}) (\d+) +(/.*)$"
    for inode, path in set(re.findall(line.encode(), maps, re.MULTILINE)):
        yield int(inode), os.fsdecode(path.replace(rb"\012", b"\n"))


def sockets_of(task: Task | None) -> list[BoundSocket]:
    """Return Unix sockets bound to files in the network namespace of a task or this run.

    Raises:
        OSError: the kernel lacks the interface, or this run may not enter the namespace.
    """
    found: list[BoundSocket] = []
    with _diag_socket(task) as diag:
        diag.sendall(_UNIX_SOCKETS)
        is_last = False
        while not is_last:
            bound, is_last = parse_sockets(diag.recv(1 << 16))
            found += bound
    return found


def _diag_socket(task: Task | None) -> socket.socket:
    """Open a sock_diag(7) socket in the network namespace of a task, or None for this run."""

    def opened(namespace: int | None) -> socket.socket:
        if namespace is not None:
            call("setns", namespace, _CLONE_NEWNET)
        return socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, _NETLINK_SOCK_DIAG)

    if task is None:
        return opened(None)
    # In a separate thread, because a thread stays in the namespace.
    with open(f"/proc/{task.path}/ns/net", "rb") as namespace:
        return in_thread(lambda: opened(namespace.fileno())).result(_THREAD_SECS)


def parse_sockets(data: bytes) -> tuple[list[BoundSocket], bool]:
    """Return the bound sockets in a datagram of sock_diag(7), and whether it is the last one.

    Raises:
        OSError: it reports an error.
    """
    found: list[BoundSocket] = []
    while len(data) >= 16:
        length, kind = struct.unpack_from("=IH", data)
        if kind == _DIAG_DONE:
            return found, True
        if kind == _DIAG_ERROR:
            number = -struct.unpack_from("=i", data, 16)[0]
            raise OSError(number, os.strerror(number))
        number = struct.unpack_from("=I", data, 20)[0]
        attribute = 32
        while attribute + 4 <= length:
            size, what = struct.unpack_from("=HH", data, attribute)
            if what == _DIAG_VFS:
                inode, device = struct.unpack_from("=II", data, attribute + 4)
                found.append(BoundSocket(number, os.makedev(device >> 20, device & 0xFFFFF), inode))
            attribute += max(size + 3 & ~3, 4)
        data = data[max(length + 3 & ~3, 16) :]
    return found, False


def socket_paths(task: Task | None) -> list[str]:
    """Return the paths of Unix sockets as `sockets_of`, as they were spelled when they were bound.

    Raises:
        OSError: the task has ended.
    """
    with open(f"/proc/{task.path if task else 'self'}/net/unix", "rb") as table:
        return [os.fsdecode(path) for path in _SOCKET_PATH.findall(table.read())]
