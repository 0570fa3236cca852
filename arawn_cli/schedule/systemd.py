"""Write systemd units."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from arawn_cli.delivery.credentials import CREDENTIAL
from arawn_cli.errors import ConfigurationError
from arawn_cli.events import JobName
from arawn_cli.names import escape
from arawn_cli.schedule.cron import _PLAIN, refuse_unprintable
from arawn_cli.schedule.intervals import HOUR, delay, period, timer_lines
from arawn_cli.schedule.settings import Job, Reach, Scope, Settings, suffixed

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


def unit_word(text: str, home: str | None = None) -> str:
    """A word of a unit's list or command (systemd.syntax(7)), with specifiers doubled.

    `home` is the home directory that `%h` stands for; what lies in it is written so.

    Raises:
        ConfigurationError: the text has characters that no unit can hold.
    """
    refuse_unprintable(text, "a unit file")
    inside = home is not None and text.startswith(f"{home}/")
    rest = text[len(home) :] if inside and home is not None else text
    word = ("%h" if inside else "") + rest.replace("%", "%%")
    if _PLAIN.fullmatch(word):
        return word
    return '"' + word.replace("\\", "\\\\").replace('"', '\\"') + '"'


def unit_command(words: tuple[str, ...], home: str | None = None) -> str:
    """A command for `ExecStart=`; one with a `$` in it gets the prefix that keeps variables from being put in."""
    prefix = ":" if any("$" in word for word in words) else ""
    return prefix + " ".join(unit_word(word, home) for word in words)


def unit_tail(text: str) -> str:
    """The rest of a unit's line, which systemd takes as it is but for specifiers.

    Raises:
        ConfigurationError: the text cannot stand at the end of a line.
    """
    refuse_unprintable(text, "a unit file")
    if text.endswith("\\") or text != text.strip():
        raise ConfigurationError(f"{escape(text)} cannot be written into a unit file: it ends with a backslash or a space")
    return text.replace("%", "%%")


STATE = "arawn-cli"


NOTIFIER = "arawn-notify@"


SYSTEM_STATE = Path("/var/lib")


_EDIT = {Scope.SYSTEM: "systemctl edit", Scope.USER: "systemctl --user edit"}


def units(settings: Settings) -> dict[str, str]:
    """The text of each unit by its file name: a service and a timer for each job, and the notifier."""
    found = {}
    for job in settings.jobs:
        found[f"{job.unit}.service"] = _service(settings, job)
        found[f"{job.unit}.timer"] = _timer(settings.scope, job)
    found[f"{NOTIFIER}.service"] = _notifier(settings.scope)
    return found


def _service(settings: Settings, job: Job) -> str:
    line = (*settings.command, job.name, *settings.options, "--unless-running")
    sections = {
        "Unit": [
            f"Description={job.description}",
            "# Ages count from the present: a clock that is not set yet would make everything old, or new.",
            "After=time-sync.target",
            f"OnFailure={NOTIFIER}%n.service",
        ],
        "Service": [
            "Type=oneshot",
            *_account(settings),
            f"ExecStart={unit_command(line, settings.home)}",
            "# 75 says that another run was at work, which is no failure.",
            "SuccessExitStatus=75",
            f"TimeoutStartSec={job.timeout}",
            *_priorities(settings),
            *_credential(settings),
            *confinement(settings, job),
        ],
    }
    return _text(settings.scope, sections)


def _account(settings: Settings) -> list[str]:
    if settings.scope is Scope.USER:
        return _kept(settings)
    lines = ["# The account that runs the Arawn server: it owns the tree.", f"User={unit_tail(settings.account.name)}"]
    name = state_name(settings)
    if name is not None:
        lines += ["# What is kept from run to run.", f"StateDirectory={unit_tail(name)}", "StateDirectoryMode=0700"]
    return lines


def _kept(settings: Settings) -> list[str]:
    """Where an account's own jobs keep state: variables of a shell, such as $XDG_STATE_HOME, do not reach its manager."""
    word = unit_word(str(settings.state), settings.home)
    named = f'"STATE_DIRECTORY={word[1:]}' if word.startswith('"') else f"STATE_DIRECTORY={word}"
    return ["# What is kept from run to run.", f"Environment={named}"] if settings.state else []


def state_name(settings: Settings) -> str | None:
    """The name below /var/lib that systemd makes for the account, or None where the state lies elsewhere.

    A named root has one of its own, since it may be another account's: systemd gives a directory to the account that used it last.
    """
    state = settings.state
    if state is None:
        return suffixed(STATE, settings.root_name)
    return state.name if state.parent == SYSTEM_STATE and state.name.replace("-", "").isalnum() else None


def _priorities(settings: Settings) -> list[str]:
    lines = [f"Nice={settings.nice}"]
    return lines if settings.io_class == "none" else [*lines, f"IOSchedulingClass={settings.io_class}"]


def _credential(settings: Settings) -> list[str]:
    if settings.scope is Scope.USER or settings.reach is Reach.NOWHERE:
        return []
    if settings.token_file is None:
        return ["# The relay's token, from a file that only root reads:", f"#LoadCredential={CREDENTIAL}:/etc/arawn/relay.token"]
    return [f"LoadCredential={CREDENTIAL}:{unit_tail(str(settings.token_file))}"]


def _timer(scope: Scope, job: Job) -> str:
    often = period(job.interval) <= HOUR
    return _text(
        scope,
        {
            "Unit": [f"Description={job.description}: {job.interval}"],
            "Timer": [
                *timer_lines(job.interval),
                "# Each machine is late by a time of its own.",
                f"RandomizedDelaySec={delay(job.interval)}s",
                "FixedRandomDelay=true",
                *(["AccuracySec=1s"] if often else []),
            ],
            "Install": ["WantedBy=timers.target"],
        },
    )


def _notifier(scope: Scope) -> str:
    flag = "--user --unit" if scope is Scope.USER else "--unit"
    return _text(
        scope,
        {
            "Unit": ["Description=Tell that %i has failed"],
            "Service": [
                "Type=oneshot",
                "# A sample, which writes an alert to the system log. Put what reaches you in its place:",
                f"# {_EDIT[scope]} {NOTIFIER}.service, with an empty ExecStart= and then your own.",
                f'ExecStart=/usr/bin/logger --tag arawn-notify --priority user.alert "%i has failed; see: journalctl {flag} %i"',
                *notifier_confinement(scope),
            ],
        },
    )


def _text(scope: Scope, sections: dict[str, list[str]]) -> str:
    hint = f"# To change it: [maintenance.schedule], or `{_EDIT[scope]}`. An edit of this file is noticed, and asked about.\n"
    return hint + "".join(f"\n[{name}]\n" + "".join(f"{line}\n" for line in lines) for name, lines in sections.items())
