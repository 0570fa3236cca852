"""Find where the installed jobs of a root keep their state.

Every run of a command looks for it, so this module imports little.
"""

from __future__ import annotations

import logging
import os
import pwd
from collections.abc import Mapping
from itertools import product
from pathlib import Path

from arawn_cli.config.loader import Config, state_directory
from arawn_cli.config.lookup import home_directory
from arawn_cli.errors import ArawnCliError
from arawn_cli.events import JobName
from arawn_cli.schedule.places import (
    Scheduler,
    Scope,
    created_state,
    cron_command,
    cron_file_of,
    read_installed,
    unit_of,
    unit_word,
    units_directory,
)

log = logging.getLogger(__name__)


def state_of_jobs(config: Config, environment: Mapping[str, str]) -> Path | None:
    """Return the state directory of the root's installed jobs, or None if it is that of this run.

    Return None, too, without such jobs, and if the configuration names a directory, or systemd does
    for this process.
    """
    if config.maintenance.state_dir or environment.get("STATE_DIRECTORY"):
        return None
    for scope, scheduler in product(Scope, Scheduler):
        try:
            if scope is Scope.USER:
                directory = state_directory(config.file, config.tables, {})
                if directory == config.state_directory:
                    return None  # reading a crontab would start a program
            if not _is_for(config, scheduler, scope, environment):
                continue
            if scope is Scope.SYSTEM:
                directory = created_state(scheduler, config.root_name, Path(pwd.getpwuid(os.stat(config.root).st_uid).pw_dir))
            return None if directory == config.state_directory else directory
        except (ArawnCliError, OSError, KeyError) as error:  # `doctor` reports the faults of a schedule
            log.debug("schedule of the %s by %s: %s", scope, scheduler, error)
    return None


def _is_for(config: Config, scheduler: Scheduler, scope: Scope, environment: Mapping[str, str]) -> bool:
    """Return whether the files of a schedule name the root of a configuration, or none.

    Raises:
        ScheduleError, OSError: they cannot be read.
    """
    text = _installed_text(scheduler, scope, config.root_name, environment)
    if config.root_name is None and "--base-path" in text:
        words = ("--base-path", str(config.root.resolve()))
    elif "--config" in text and config.file is not None:
        words = ("--config", str(config.file.absolute()))
    else:
        return bool(text)
    home = str(home_directory() or "") or None if scope is Scope.USER else None
    line = cron_command(words) if scheduler is Scheduler.CRON else f"{words[0]} {unit_word(words[1], home)}"
    return f"{line} " in text.replace("\n", " ")  # not the beginning of a longer path


def _installed_text(scheduler: Scheduler, scope: Scope, root_name: str | None, environment: Mapping[str, str]) -> str:
    """Return the text of an installed schedule that names its root; empty without a schedule."""
    if scheduler is Scheduler.SYSTEMD:
        unit = f"{unit_of(JobName.SCRATCH_CLEANUP, root_name)}.service"
        return read_installed(units_directory(scope, environment) / unit) or ""
    if scope is Scope.SYSTEM:
        return read_installed(cron_file_of(root_name)) or ""
    from arawn_cli.schedule.cron import BLOCK, crontab_of  # most accounts have no crontab that matters

    return crontab_of(root_name).read(BLOCK) or ""
