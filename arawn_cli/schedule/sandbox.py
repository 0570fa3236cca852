"""The confinement of a unit: what a job does not need, it cannot do (systemd.exec(5)).

Two things rule it. The in-use check looks at what other processes of the same account hold, which the
kernel forbids from inside a user namespace; so no unit of cleanup has `PrivateUsers=`, and in an account's own manager,
which can mount nothing without it, cleanup is confined by system calls alone. And the tool gives itself its
priorities, which the system calls of `@resources` do, so the unit gives the same ones first.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from arawn_cli.schedule.quoting import unit_word
from arawn_cli.schedule.settings import Job, Reach, Scope, Settings
from arawn_cli.vocabulary import JobName

HOMES = ("/home", "/root", "/run/user")
_TEMPORARY = ("/tmp", "/var/tmp")  # noqa: S108 - where PrivateTmp= would hide something

_CALLS = (
    "NoNewPrivileges=yes",
    "LockPersonality=yes",
    "MemoryDenyWriteExecute=yes",
    "RestrictNamespaces=yes",
    "RestrictRealtime=yes",
    "RestrictSUIDSGID=yes",
    "SystemCallArchitectures=native",
    "SystemCallFilter=@system-service",
    "SystemCallFilter=~@privileged @resources",
    "SystemCallErrorNumber=EPERM",
    "UMask=0077",
)
_MOUNTS = (
    "DevicePolicy=closed",
    "KeyringMode=private",
    "PrivateDevices=yes",
    "PrivateMounts=yes",
    "ProcSubset=pid",
    "ProtectClock=yes",
    "ProtectControlGroups=yes",
    "ProtectHostname=yes",
    "ProtectKernelLogs=yes",
    "ProtectKernelModules=yes",
    "ProtectKernelTunables=yes",
    "ProtectSystem=strict",
    "RemoveIPC=yes",
)


_BLIND = ("CapabilityBoundingSet=", "ProtectProc=invisible")


def confinement(settings: Settings, job: Job) -> list[str]:
    """The lines of a job's service that confine it, and name the only places that it writes to."""
    if settings.scope is Scope.SYSTEM:
        return [*_files(settings, job), *_sight(settings, job), *_MOUNTS, "PrivateIPC=yes", *_network(settings), *_CALLS]
    families = f"RestrictAddressFamilies={_families(settings)}"
    if job.name is JobName.SCRATCH_CLEANUP:
        return [
            "# No mounts of its own: they take a user namespace, in which the kernel hides what other",
            "# processes hold open, and a session in use could go.",
            families,
            *_CALLS,
        ]
    if not settings.namespaces:
        return ["# No mounts of its own: this account may have no user namespace.", families, *_CALLS]
    return ["PrivateUsers=yes", *_files(settings, job), *_BLIND, *_MOUNTS, families, *_CALLS]


def notifier_confinement(scope: Scope) -> list[str]:
    """The lines of the notifier's service that confine it."""
    system = ["DynamicUser=yes", "PrivateIPC=yes", "PrivateNetwork=yes", "IPAddressDeny=any"]
    own = ["PrivateUsers=yes"] if scope is Scope.USER else system
    return [*own, *_BLIND, *_MOUNTS, "ProtectHome=yes", "PrivateTmp=yes", "RestrictAddressFamilies=AF_UNIX", *_CALLS]


def writable(settings: Settings, job: Job) -> list[Path]:
    """The directories that a job writes to; systemd's own state directory is not among them."""
    root = settings.root if job.name is JobName.SCRATCH_CLEANUP else None
    return [path for path in (root, settings.state, settings.metrics) if path]


def _sight(settings: Settings, job: Job) -> Sequence[str]:
    """What a job sees of other processes: only cleanup needs to."""
    if job.name is not JobName.SCRATCH_CLEANUP:
        return _BLIND
    powers = ["# What root has is seen with these alone.", "CapabilityBoundingSet=CAP_SYS_PTRACE CAP_DAC_READ_SEARCH"]
    return [*(powers if settings.account.name == "root" else _BLIND[:1]), "ProtectProc=default"]


def _files(settings: Settings, job: Job) -> list[str]:
    needed = [settings.root, *settings.reads, *writable(settings, job)]
    lines = [
        f"ProtectHome={'read-only' if settings.scope is Scope.USER or lies_in(needed, HOMES) else 'yes'}",
        f"PrivateTmp={'no' if lies_in(needed, _TEMPORARY) else 'yes'}",
    ]
    paths = [_writable_word(path, settings) for path in writable(settings, job)]
    return lines + ([f"ReadWritePaths={' '.join(paths)}"] if paths else [])


def _writable_word(path: Path, settings: Settings) -> str:
    """A path for `ReadWritePaths=`; only the root must be there."""
    word = unit_word(str(path), settings.home)
    if path == settings.root:
        return word
    return f'"-{word[1:]}' if word.startswith('"') else f"-{word}"


def _network(settings: Settings) -> list[str]:
    families = f"RestrictAddressFamilies={_families(settings)}"
    match settings.reach:
        case Reach.NOWHERE:
            return ["# No relay is configured: no network.", "PrivateNetwork=yes", "IPAddressDeny=any", families]
        case Reach.LOOPBACK:
            return ["IPAddressAllow=localhost", "IPAddressDeny=any", families]
        case Reach.ANYWHERE:
            return [families]


def _families(settings: Settings) -> str:
    return "AF_UNIX" if settings.reach is Reach.NOWHERE else "AF_UNIX AF_INET AF_INET6"


def lies_in(paths: Sequence[Path], places: Sequence[str]) -> bool:
    """Whether any path lies in any place, or in what a link there leads to: systemd closes that too."""
    return any(path.is_relative_to(each) for path in paths for place in places for each in (place, os.path.realpath(place)))
