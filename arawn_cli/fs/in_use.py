"""Find mounts and running processes that use a directory."""

from __future__ import annotations

import errno
import os
import time
from collections.abc import Collection, Iterator, Mapping

import psutil

from arawn_cli.fs.mounts import mount_points
from arawn_cli.fs.openat import Identity, identity_of
from arawn_cli.names import escape

PATIENCE_SECS = 0.5
"""How long to wait for hidden processes.

The child of a service manager is hidden until it drops its capabilities: of 187 that were watched,
for 41 ms at most.
"""

_RETRY_SECS = 0.01

# What ended or was closed meanwhile, is no directory, or belongs to another account.
_IGNORED = frozenset({errno.ENOENT, errno.ESRCH, errno.EACCES, errno.EPERM, errno.ENOTDIR, errno.ELOOP, errno.EINVAL, errno.ENAMETOOLONG})

_CAP_SYS_PTRACE, _CAP_WAKE_ALARM = 19, 35  # capabilities(7)
_ALL_IDS = "4294967295"  # the length of the initial user namespace's only line in uid_map (user_namespaces(7))
_PATH_ONLY = os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC


class _HiddenError(OSError):
    """The kernel hides the open files of a process that this run should see."""


def directories_in_use(directories: Collection[Identity], patience_secs: float = PATIENCE_SECS) -> frozenset[Identity]:
    """Return the directories in which a process has its working directory, program or an open file.

    Directories are compared by identity, on the way up from each file that a process uses, in the
    process's own view of the mounts. So a path that a container or a bind mount spells differently
    is found, too. Without root, other users' processes are not visible. A hidden process of this
    account is tried again for `patience_secs`.

    Raises:
        OSError: not all processes can be read that this account should see; nothing is known.
    """
    found: set[Identity] = set()
    seen: set[Identity] = set()
    devices = {device for device, _ in directories}
    for path in _paths_of_all(psutil.pids(), patience_secs):
        found |= _ancestors_among(directories, path, devices, seen)
    return frozenset(found)


def directories_with_mounts(directories: Collection[Identity]) -> frozenset[Identity]:
    """Return the directories with a mount somewhere below, whatever its path in the mount table.

    Raises:
        OSError: a mount point cannot be opened, so nothing is known.
    """
    found: set[Identity] = set()
    seen: set[Identity] = set()
    devices = {device for device, _ in directories}
    for mount in mount_points():
        # The mount point itself leads into the other filesystem; the directory above it is in this
        # one.
        found |= _ancestors_among(directories, os.path.dirname(mount), devices, seen)
    return frozenset(found)


def _paths_of_all(processes: Collection[int], patience_secs: float) -> Iterator[str]:
    """Yield the paths of every process; try hidden ones again for a while.

    Raises:
        _HiddenError: a process stays hidden.
    """
    end = time.monotonic() + patience_secs
    while processes:
        hidden: dict[int, _HiddenError] = {}
        for process in processes:
            try:
                yield from _process_paths(process)
            except _HiddenError as error:
                hidden[process] = error
        if hidden and time.monotonic() >= end:
            raise next(iter(hidden.values()))
        if hidden:
            time.sleep(_RETRY_SECS)
        processes = hidden


def _process_paths(process: int) -> Iterator[str]:
    """Yield paths through /proc to the directories that a process uses."""
    base = f"/proc/{process}"
    yield f"{base}/cwd"
    if process == os.getpid():
        return  # this run has the sessions open that it is about to remove
    try:
        os.readlink(f"{base}/cwd")  # fails if the process is hidden
        links = [f"{base}/exe", *(f"{base}/fd/{number}" for number in os.listdir(f"{base}/fd"))]
    except OSError as error:
        _raise_if_hidden(process, error)
        return
    for link in links:
        try:
            target = os.readlink(link)
        except OSError as error:
            _ignore(error)
            continue
        if target.startswith("/"):  # else a pipe, a socket or another object without a path
            yield link  # an open directory
            yield f"{base}/root{os.path.dirname(target)}"  # the directory of an open file, as the process sees it


def _raise_if_hidden(process: int, error: OSError) -> None:
    """Ignore a process that has ended, or that this run need not see.

    A run must see the processes of its own account, and root must see all. The kernel hides them
    from a run in a user namespace, and from one with fewer capabilities (ptrace(2),
    user_namespaces(7)). A process that the kernel guards from its own account, such as a set-uid
    program, is shown as root's. The account's own service manager may be hidden.

    Raises:
        _HiddenError: this run should see the process.
    """
    _ignore(error)
    if error.errno not in (errno.EACCES, errno.EPERM) or _sees_all_processes():
        return
    try:
        owner = os.lstat(f"/proc/{process}/cwd").st_uid
        status = _status_of(process)
        is_manager = _is_service_manager(process, owner, status)
    except OSError as ended:
        _ignore(ended)
        return
    if os.geteuid() in (0, owner) and not is_manager:
        remedy = "" if os.geteuid() == 0 else "; root can see it"
        reason = (
            f"the kernel hides the open files of {escape(status['Name'])}: "
            f"it has a user namespace or capabilities that this run does not have{remedy}"
        )
        raise _HiddenError(error.errno, reason, f"/proc/{process}") from error


def _is_service_manager(process: int, owner: int, status: Mapping[str, str]) -> bool:
    """Whether a process is the service manager of an account, which has no file of a session open.

    From version 254 on, `systemd --user` may wake the machine (systemd's NEWS). This capability
    hides it from its own account.
    """
    if status["Name"] != "systemd" or status["PPid"] != "1" or int(status["CapPrm"], 16) & ~(1 << _CAP_WAKE_ALARM):
        return False
    with open(f"/proc/{process}/cgroup", encoding="utf-8", errors="replace") as groups:
        return any(line.rstrip("\n").endswith(f"/user@{owner}.service/init.scope") for line in groups)


def _sees_all_processes() -> bool:
    """Whether this run has CAP_SYS_PTRACE, and not only in a user namespace of its own."""
    with open("/proc/self/uid_map", encoding="ascii") as ids:
        is_initial_namespace = ids.read().split() == ["0", "0", _ALL_IDS]
    return is_initial_namespace and bool(int(_status_of(os.getpid())["CapEff"], 16) >> _CAP_SYS_PTRACE & 1)


def _status_of(process: int) -> dict[str, str]:
    """Return the fields of /proc/PID/status (proc_pid_status(5))."""
    with open(f"/proc/{process}/status", encoding="utf-8", errors="replace") as lines:
        return {name: value.strip() for name, _, value in (line.partition(":") for line in lines)}


def _ignore(error: OSError) -> None:
    """Ignore what ended meanwhile or belongs to another account; raise any other error."""
    if error.errno not in _IGNORED:
        raise error


def _ancestors_among(directories: Collection[Identity], path: str, devices: Collection[int], seen: set[Identity]) -> set[Identity]:
    """Return the directories of the collection that are at or above a path.

    `seen` are directories whose ancestors were compared before; it is extended. The way up ends at
    a filesystem that is none of `devices`, so that no other one is read.
    """
    try:
        current = os.open(path, _PATH_ONLY)
    except OSError as error:
        _ignore(error)
        return set()
    found: set[Identity] = set()
    try:
        status = os.fstat(current)
        while status.st_dev in devices and identity_of(status) not in seen:  # the root is its own parent: seen
            seen.add(identity_of(status))
            if identity_of(status) in directories:
                found.add(identity_of(status))
            parent = os.open("..", _PATH_ONLY, dir_fd=current)
            os.close(current)
            current = parent
            status = os.fstat(current)
    except OSError as error:
        _ignore(error)
    finally:
        os.close(current)
    return found
