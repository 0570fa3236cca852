"""When the jobs last ran, as the state file and the schedule tell it."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from arawn_cli.config import Config
from arawn_cli.database import DatabaseUnreadableError, query
from arawn_cli.schedule.settings import Scheduler, Scope, Settings, suffixed
from arawn_cli.schedule.units import STATE, SYSTEM_STATE
from arawn_cli.state import key_of
from arawn_cli.state_file import FILE, StateUnavailableError
from arawn_cli.vocabulary import JobName


def state_of(scheduler: Scheduler, settings: Settings, config: Config) -> Path:
    """The state directory that the jobs of a schedule use, which is not always this shell's."""
    if settings.state is not None:
        return settings.state
    if scheduler is Scheduler.SYSTEMD:
        return SYSTEM_STATE / suffixed(STATE, settings.root_name)
    return Path(settings.account.home, ".local", "state", STATE) if settings.scope is Scope.SYSTEM else config.state_directory


def remembers(state_directory: Path, root: Path) -> bool:
    """Whether the state in a directory tells of a run on a root.

    Raises:
        StateUnavailableError: it cannot be read.
    """
    path = state_directory / FILE
    try:
        os.stat(path)
        return bool(query(path, "SELECT 1 FROM runs WHERE root = ?", (key_of(root),)))
    except (FileNotFoundError, NotADirectoryError):
        return False
    except (DatabaseUnreadableError, OSError) as error:
        raise StateUnavailableError(f"{path} cannot be read: {error}") from error


@dataclass(frozen=True, slots=True)
class Ran:
    """When a job last ran on a root, and when it last did all its work, in nanoseconds since the epoch."""

    last_run: int
    last_success: int | None


def last_of(state_directory: Path, job: JobName, root: Path) -> Ran | None:
    """The last runs of a job; None where none is recorded.

    Raises:
        DatabaseUnreadableError, OSError: the record cannot be read.
    """
    path = state_directory / FILE
    if not path.exists():
        return None
    rows = query(path, "SELECT last_run, last_success FROM runs WHERE job = ? AND root = ?", (job, key_of(root)))
    return next((Ran(run, success if isinstance(success, int) else None) for run, success in rows if isinstance(run, int)), None)
