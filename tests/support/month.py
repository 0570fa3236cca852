"""Simulate a month on a small filesystem: an agent that writes 2 MiB a day, checks, and cleanups.

`python -m tests.support.month PLACE yes|no` does it in the directory PLACE, with or without a
budget, and prints what happened as JSON. All sizes are a thousandth of those of a real machine.
"""

from __future__ import annotations

import json
import os
import sys
from contextlib import closing
from dataclasses import asdict, dataclass, field
from pathlib import Path

from arawn_cli.check_events import DiskPressure
from arawn_cli.cleanup.job import clean
from arawn_cli.cleanup_events import ScratchSessionEvent
from arawn_cli.config.loader import Config, Flags, load
from arawn_cli.diskcheck.job import check
from arawn_cli.events import Event, Level
from arawn_cli.timestamps import DAY, SECOND, parse
from tests.support.in_process import NOWHERE, context
from tests.support.tree import SampleTree

START = 1_700_000_000 * SECOND
STEP = 300 * SECOND
STEPS_A_DAY = DAY // STEP
SESSIONS_A_DAY = 4
BYTES_A_STEP = 2 * 1024**2 // STEPS_A_DAY
DAYS = 30
MIN_AGE_DAYS = 1

SETTINGS = """
[paths.cleanup]
scratch_cleanup_days = 60
[maintenance.pressure]
total = "34MiB"
session = "0"
workstream = "0"
[maintenance.cleanup]
trash_days = 3
"""
BUDGET = f"min_free_percent = 20\nmin_age_days = {MIN_AGE_DAYS}\ncleanup_on = 'critical'\n"


@dataclass
class Month:
    """What happened; times are in days since the start.

    Attributes:
        fullest_percent: the highest share of the filesystem that was used.
        full: when the agent could write no more, None if it always could.
        warning: when an event first said that the filesystem is above its warning percentage; the
            same for critical.
        total_exceeded: when an event first said that the total is above its limit.
        removed: number of removed sessions.
        youngest_removed: age of the youngest of them.
        cleanups: number of cleanups.
        forecasts: by day, the time at which the total reaches its limit.
    """

    fullest_percent: float = 0
    full: float | None = None
    warning: float | None = None
    critical: float | None = None
    total_exceeded: float | None = None
    removed: int = 0
    youngest_removed: float | None = None
    cleanups: int = 0
    forecasts: dict[int, float] = field(default_factory=dict)


def write(tree: SampleTree, step: int) -> None:
    """Let the agent append to a file of its current session."""
    now = START + step * STEP
    number, begins = divmod(step, STEPS_A_DAY // SESSIONS_A_DAY)
    directory = tree.sessions / f"s{number:03}"
    work = directory / "work"
    work.mkdir(parents=True, exist_ok=True)
    with (work / "data").open("ab") as file:
        file.write(b"x" * BYTES_A_STEP)
    for path in (work / "data", work, directory):
        os.utime(path, ns=(now, now))
    if begins == 0:
        tree.turn(directory.name, now)


def simulate(place: Path, *, with_budget: bool) -> Month:
    """Simulate a month, or until the agent can write no more."""
    month = Month()
    tree = SampleTree(place / "root", START)
    outside = place.parent / "outside"
    outside.mkdir()
    settings = outside / "settings.toml"
    settings.write_text(SETTINGS + (BUDGET if with_budget else ""))
    config = load(Flags(config=settings, base_path=str(tree.root)), {"STATE_DIRECTORY": str(outside / "state")}, system_file=NOWHERE)
    for step in range(DAYS * STEPS_A_DAY):
        now, day = START + step * STEP, step / STEPS_A_DAY
        try:
            write(tree, step)
        except OSError:
            month.full = day
            return month
        events: list[Event] = []
        run = context(now, events, config.state_directory)
        with closing(run.state):
            result = check(config, run)
        filesystem = result.summary.filesystem
        month.fullest_percent = max(month.fullest_percent, 100 * filesystem.used_bytes / filesystem.total_bytes)
        for event in events:
            if isinstance(event, DiskPressure) and event.level is not Level.OK:
                if event.scope == "total":
                    month.total_exceeded = month.total_exceeded or day
                elif event.level is Level.CRITICAL:
                    month.critical = month.critical or day
                else:
                    month.warning = month.warning or day
        if step % STEPS_A_DAY == 0 and result.summary.forecast_days is not None and month.total_exceeded is None:
            month.forecasts[int(day)] = day + result.summary.forecast_days
        if step % STEPS_A_DAY == 0 or result.starts_cleanup:
            _clean(month, config, now)
    return month


def _clean(month: Month, config: Config, now: int) -> None:
    events: list[Event] = []
    run = context(now, events, config.state_directory)
    with closing(run.state):
        clean(config, run)
    month.cleanups += 1
    for event in events:
        if isinstance(event, ScratchSessionEvent) and event.action.is_removal:
            month.removed += 1
            age = (now - parse(event.last_activity or "")) / DAY
            month.youngest_removed = min(age, month.youngest_removed or age)


if __name__ == "__main__":
    sys.stdout.write(json.dumps(asdict(simulate(Path(sys.argv[1]), with_budget=sys.argv[2] == "yes"))) + "\n")
