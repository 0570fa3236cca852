"""systemd units, from settings to text."""

from __future__ import annotations

from pathlib import Path

from arawn_cli.credentials import CREDENTIAL
from arawn_cli.schedule.intervals import HOUR, delay, period, timer_lines
from arawn_cli.schedule.quoting import unit_command, unit_tail, unit_word
from arawn_cli.schedule.sandbox import confinement, notifier_confinement
from arawn_cli.schedule.settings import Job, Reach, Scope, Settings, suffixed

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
