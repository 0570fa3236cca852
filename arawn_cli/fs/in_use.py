"""Who stands in a directory: mounts inside it, and live processes."""

from __future__ import annotations

import errno
import os
import time
from collections.abc import Collection, Iterator, Mapping

import psutil

from arawn_cli.fs.mounts import mount_points
from arawn_cli.fs.openat import Identity, identity_of
from arawn_cli.names import escape

_OUT_OF_SIGHT = frozenset(
    {errno.ENOENT, errno.ESRCH, errno.EACCES, errno.EPERM, errno.ENOTDIR, errno.ELOOP, errno.EINVAL, errno.ENAMETOOLONG}
)


_CAP_SYS_PTRACE, _CAP_WAKE_ALARM = 19, 35  # capabilities(7)


_ALL_NUMBERS = "4294967295"


# A service manager's child is hidden like itself until it has become what it was made for: 41 ms at the most of 187 that were watched.
PATIENCE_SECS = 0.5


_NAP_SECS = 0.01


class _HiddenError(OSError):
    """The kernel hides what a process holds from this run, which should see it."""


def directories_in_use(directories: Collection[Identity], patience_secs: float = PATIENCE_SECS) -> frozenset[Identity]:
    """Which of the directories hold a live process's working directory, program or open file.

    Directories are known by identity and found by going up from what a process holds, in that process's own
    view of the mounts: a path that a container or a bind mount spells otherwise is found all the same.
    An ordinary user sees only its own processes; Linux says nothing of the others. What is hidden is looked at again for `patience_secs`.

    Raises:
        OSError: the processes cannot be looked at, or not all that this account should see, so that nobody knows.
    """
    found: set[Identity] = set()
    seen: set[Identity] = set()
    devices = {device for device, _ in directories}
    for place in _places_of_all(psutil.pids(), patience_secs):
        found |= _climb(place, directories, devices, seen)
    return frozenset(found)


def mounted_in(directories: Collection[Identity]) -> frozenset[Identity]:
    """Which of the directories have a mount somewhere below, by whatever path the mount table names it.

    Raises:
        OSError: a mount point cannot be looked at, so that nobody knows.
    """
    found: set[Identity] = set()
    seen: set[Identity] = set()
    devices = {device for device, _ in directories}
    for mount in mount_points():
        found |= _climb(os.path.dirname(mount), directories, devices, seen)
    return frozenset(found)


def _places_of_all(processes: Collection[int], patience_secs: float) -> Iterator[str]:
    """The places of every process; for those that are hidden it waits a while.

    Raises:
        _HiddenError: one of them stays hidden.
    """
    end = time.monotonic() + patience_secs
    while processes:
        hidden: dict[int, _HiddenError] = {}
        for process in processes:
            try:
                yield from _places_of(process)
            except _HiddenError as error:
                hidden[process] = error
        if hidden and time.monotonic() >= end:
            raise next(iter(hidden.values()))
        if hidden:
            time.sleep(_NAP_SECS)
        processes = hidden


def _places_of(process: int) -> Iterator[str]:
    """Paths through /proc to the directories that a process stands in or holds something of."""
    base = f"/proc/{process}"
    yield f"{base}/cwd"
    if process == os.getpid():
        return  # the sessions in hand are open here
    try:
        os.readlink(f"{base}/cwd")
        links = [f"{base}/exe", *(f"{base}/fd/{number}" for number in os.listdir(f"{base}/fd"))]
    except OSError as error:
        _refuse_blindness(process, error)
        return
    for link in links:
        try:
            target = os.readlink(link)
        except OSError as error:
            _pass_over(error)
            continue
        if target.startswith("/"):
            yield link
            yield f"{base}/root{os.path.dirname(target)}"


def _refuse_blindness(process: int, error: OSError) -> None:
    """Passes over a process that is another account's to look into, or has ended.

    One of this account is hidden from a run in a user namespace, and by capabilities that the run has not; root
    without its powers sees no other account's (ptrace(2), user_namespaces(7)). What the kernel guards from its own
    account, such as a set-uid program, shows as root's. The account's own service manager is passed over too.

    Raises:
        _HiddenError: it is one that this run should see.
    """
    _pass_over(error)
    if error.errno not in (errno.EACCES, errno.EPERM) or _sees_all():
        return
    try:
        owner = os.lstat(f"/proc/{process}/cwd").st_uid
        status = _status_of(process)
        manages = _is_service_manager(process, owner, status)
    except OSError as gone:
        _pass_over(gone)
        return
    if os.geteuid() in (0, owner) and not manages:
        remedy = "" if os.geteuid() == 0 else "; root can see it"
        reason = f"the kernel hides what {escape(status['Name'])} holds: it has a user namespace or powers that this run has not{remedy}"
        raise _HiddenError(error.errno, reason, f"/proc/{process}") from error


def _is_service_manager(process: int, owner: int, status: Mapping[str, str]) -> bool:
    """Whether it is the service manager of an account, which holds no file of a session.

    From version 254 on `systemd --user` may wake the machine (systemd's NEWS), and is hidden from its own account by that.
    """
    if status["Name"] != "systemd" or status["PPid"] != "1" or int(status["CapPrm"], 16) & ~(1 << _CAP_WAKE_ALARM):
        return False
    with open(f"/proc/{process}/cgroup", encoding="utf-8", errors="replace") as groups:
        return any(line.rstrip("\n").endswith(f"/user@{owner}.service/init.scope") for line in groups)


def _sees_all() -> bool:
    """Whether this run may look into every process: with CAP_SYS_PTRACE over the whole machine, and not in a namespace alone."""
    with open("/proc/self/uid_map", encoding="ascii") as numbers:
        whole = numbers.read().split() == ["0", "0", _ALL_NUMBERS]
    return whole and bool(int(_status_of(os.getpid())["CapEff"], 16) >> _CAP_SYS_PTRACE & 1)


def _status_of(process: int) -> dict[str, str]:
    """The fields of /proc/PID/status (proc_pid_status(5))."""
    with open(f"/proc/{process}/status", encoding="utf-8", errors="replace") as lines:
        return {name: value.strip() for name, _, value in (line.partition(":") for line in lines)}


def _pass_over(error: OSError) -> None:
    """Passes over what ended or closed meanwhile, is no directory, or is out of sight; anything else is no answer."""
    if error.errno not in _OUT_OF_SIGHT:
        raise error


def _climb(place: str, directories: Collection[Identity], devices: Collection[int], seen: set[Identity]) -> set[Identity]:
    """The wanted directories at or above a place; a place that was climbed from before adds nothing."""
    try:
        here = os.open(place, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    except OSError as error:
        _pass_over(error)
        return set()
    found: set[Identity] = set()
    try:
        status = os.fstat(here)
        while status.st_dev in devices and identity_of(status) not in seen:
            seen.add(identity_of(status))
            if identity_of(status) in directories:
                found.add(identity_of(status))
            above = os.open("..", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC, dir_fd=here)
            os.close(here)
            here = above
            status = os.fstat(here)
    except OSError as error:
        _pass_over(error)
    finally:
        os.close(here)
    return found
