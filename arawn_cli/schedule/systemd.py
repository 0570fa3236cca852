"""Render systemd units from the templates in `templates/`."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

from arawn_cli.delivery.credentials import CREDENTIAL
from arawn_cli.events import JobName
from arawn_cli.schedule.intervals import HOUR, calendar, delay, first_after_boot
from arawn_cli.schedule.quoting import unit_command, unit_line, unit_word
from arawn_cli.schedule.settings import Job, Scope, Settings, suffixed
from arawn_cli.units import period

if TYPE_CHECKING:
    from jinja2 import Environment

STATE = "arawn-cli"
SYSTEM_STATE = Path("/var/lib")
NOTIFIER = "arawn-notify@.service"

_SYSTEMCTL = {Scope.SYSTEM: "systemctl", Scope.USER: "systemctl --user"}
_JOURNAL_OPTIONS = {Scope.SYSTEM: "--unit", Scope.USER: "--user --unit"}
_HIDDEN_BY_PROTECT_HOME = ("/home", "/root", "/run/user")
_HIDDEN_BY_PRIVATE_TMP = ("/tmp", "/var/tmp")  # noqa: S108 - only compared


def units(settings: Settings) -> dict[str, str]:
    """Return the units by file name: a service and a timer for each job, and the notifier.

    Raises:
        ConfigurationError: a unit cannot hold a path of the settings.
    """
    environment = _environment()
    scope = {"system": settings.scope is Scope.SYSTEM, "systemctl": _SYSTEMCTL[settings.scope]}
    texts = {}
    for job in settings.jobs:
        texts[f"{job.unit}.service"] = environment.get_template("job.service.j2").render(scope | _service_variables(settings, job))
        texts[f"{job.unit}.timer"] = environment.get_template("job.timer.j2").render(scope | _timer_variables(job))
    texts[NOTIFIER] = environment.get_template("notify.service.j2").render(scope, journal_options=_JOURNAL_OPTIONS[settings.scope])
    return texts


def state_name(settings: Settings) -> str | None:
    """Return the name below /var/lib that systemd creates for the account.

    Return None if the state is elsewhere.

    Each named root has its own name, because it may belong to another account, and systemd gives
    the directory to the account that used it last.
    """
    if settings.state is None:
        return suffixed(STATE, settings.root_name)
    name = settings.state.name
    return name if settings.state.parent == SYSTEM_STATE and name.replace("-", "").isalnum() else None


def _environment() -> Environment:
    # Imported here: only few commands render units.
    from jinja2 import Environment, PackageLoader, StrictUndefined

    loader = PackageLoader("arawn_cli.schedule")
    environment = Environment(loader=loader, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True, keep_trailing_newline=True)  # noqa: S701 - no HTML
    environment.filters |= {"word": unit_word, "command": unit_command, "line": unit_line}
    return environment


def _service_variables(settings: Settings, job: Job) -> dict[str, object]:
    cleanup = job.name is JobName.SCRATCH_CLEANUP
    # A unit with a path that does not exist fails to start, and only the root exists for certain.
    optional = [path for path in (settings.state, settings.metrics) if path]
    writable = [unit_word(path, settings.home, "-") for path in optional]
    accessed = [settings.root, *settings.reads, *optional]
    return {
        "settings": settings,
        "job": job,
        "cleanup": cleanup,
        "home": settings.home,
        "command": (*settings.command, job.name, *settings.options),
        "network": settings.network,
        "credential": CREDENTIAL,
        "state_name": state_name(settings),
        "homes_hidden": settings.scope is Scope.SYSTEM and not _any_below(accessed, _HIDDEN_BY_PROTECT_HOME),
        "temporary_hidden": not _any_below(accessed, _HIDDEN_BY_PRIVATE_TMP),
        "writable": [unit_word(settings.root, settings.home), *writable] if cleanup else writable,
    }


def _timer_variables(job: Job) -> dict[str, object]:
    return {
        "job": job,
        "calendar": calendar(job.interval),
        "first_after_boot": first_after_boot(job.interval),
        "delay": delay(job.interval),
        "often": period(job.interval) <= HOUR,
    }


def _any_below(paths: Iterable[Path], directories: Iterable[str]) -> bool:
    """Return whether a path is below a directory, or below its target if it is a link."""
    places = [place for directory in directories for place in (directory, os.path.realpath(directory))]
    return any(path.is_relative_to(place) for path in paths for place in places)
