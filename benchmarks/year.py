"""A year of checks every five minutes on one state file: its size, and the time that it takes.

    python -m benchmarks.year [--days 365] [--workstreams 30] [--sessions 100]

Nothing is measured: usages are invented and the clock is set. The time is that of everything a
check does with its state: opening the file, reading alerts and history, forecasts, and the
transaction.
"""

from __future__ import annotations

import argparse
import random
import statistics
import tempfile
import time
from pathlib import Path

from arawn_cli import runs
from arawn_cli.diskcheck.history import days_until, load_history, read_alerts, store_alerts, store_samples
from arawn_cli.diskcheck.levels import TOTAL, Rules, ScopeUsage, judge_all
from arawn_cli.events import JobName
from arawn_cli.runs import Run
from arawn_cli.state import State
from arawn_cli.state_file import FILE
from arawn_cli.timestamps import DAY, SECOND

ROOT = Path("/srv/arawn")
START = 1_800_000_000 * SECOND


def usages(step: int, workstreams: int, sessions: int, chance: random.Random) -> list[ScopeUsage]:
    """Workstreams that grow and are cleaned, and sessions that change in one check of fifty."""
    limit = 10**10
    found = [ScopeUsage(f"ws-{n}", "A", (step * 997 * (n + 1)) % (2 * limit), limit, 2 * limit, complete=True) for n in range(workstreams)]
    for number in range(sessions):
        day = step // 288
        scope = f"session:{number}-{(day + number) // 7}"
        found.append(ScopeUsage(scope, "Scratch", number * 1000 + step // 50 * chance.randrange(2), limit, 2 * limit, complete=True))
    return [ScopeUsage(TOTAL, TOTAL, sum(usage.usage for usage in found), limit, 2 * limit, complete=True), *found]


def check(directory: Path, now: int, found: list[ScopeUsage]) -> None:
    """What a check does with its state."""
    state = State(directory, lambda: now)
    remembered = load_history(state, ROOT, now)
    for usage in found:
        days_until(usage.limit, usage.usage, remembered.growth(usage))
    with state.transaction() as connection:
        before = read_alerts(state, ROOT)
        verdicts = judge_all(found, before, Rules(), now, vanished=())
        store_alerts(connection, ROOT, verdicts, before, now)
        store_samples(connection, ROOT, found, remembered.hour)
        runs.store(connection, JobName.DISK_CHECK, ROOT, Run(now, now, 0, 0))
    state.close()


def main() -> None:
    """Runs the year and prints the figures of each quarter."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--days", type=int, default=365)
    parser.add_argument("--workstreams", type=int, default=30)
    parser.add_argument("--sessions", type=int, default=100)
    options = parser.parse_args()
    chance = random.Random(1)  # noqa: S311 - the same year each time
    with tempfile.TemporaryDirectory() as name:
        directory = Path(name)
        took: list[float] = []
        for step in range(options.days * 288):
            now = START + step * DAY // 288
            found = usages(step, options.workstreams, options.sessions, chance)
            began = time.perf_counter()
            check(directory, now, found)
            took.append((time.perf_counter() - began) * 1000)
            if step % (288 * 73) == 288 * 73 - 1:
                recent = sorted(took[-288 * 7 :])
                size = (directory / FILE).stat().st_size / 1e6
                middle, worst = statistics.median(recent), recent[len(recent) * 99 // 100]
                print(
                    f"day {step // 288 + 1:3}: {size:.1f} MB, a check {middle:.1f} ms, of a hundred the slowest {worst:.1f} ms", flush=True
                )


if __name__ == "__main__":
    main()
