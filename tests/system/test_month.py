"""A month of an agent that fills its disk: with a budget it never does, without one the levels warn
in time."""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from tests.conftest import needs_namespaces
from tests.support.month import DAYS, MIN_AGE_DAYS, Month

TOP = Path(__file__).parents[2]

pytestmark = [pytest.mark.long, needs_namespaces]


def simulated(*, with_budget: bool) -> Month:
    """Run the simulation on a filesystem of 40 MiB in memory, with a check every five minutes."""
    in_memory = Path("/dev/shm")  # noqa: S108 - the state is written 8,640 times
    with tempfile.TemporaryDirectory(dir=in_memory if in_memory.is_dir() else None) as folder:
        place = Path(folder, "disk")
        place.mkdir()
        script = f'mount -t tmpfs -o size=40m,mode=755 tmpfs {place} && exec "$@"'
        command = [sys.executable, "-m", "tests.support.month", str(place), "yes" if with_budget else "no"]
        done = subprocess.run(["unshare", "--mount", "sh", "-c", script, "sh", *command], cwd=TOP, stdout=subprocess.PIPE, check=True)
    month = Month(**json.loads(done.stdout))
    month.forecasts = {int(day): at for day, at in month.forecasts.items()}
    return month


def test_with_a_budget_the_disk_never_fills_and_nothing_young_is_removed() -> None:
    month = simulated(with_budget=True)
    assert month.full is None
    assert month.critical is None
    assert month.fullest_percent < 85
    assert month.removed
    assert month.youngest_removed is not None
    assert month.youngest_removed >= MIN_AGE_DAYS
    assert month.cleanups <= DAYS + 3


def test_without_a_budget_forecast_and_levels_warn_in_time() -> None:
    month = simulated(with_budget=False)
    assert month.full is not None
    assert not month.removed
    assert month.warning is not None
    assert month.critical is not None
    assert month.warning <= month.full - 2
    assert month.critical <= month.full - 0.5
    assert month.total_exceeded is not None
    late = {day: at for day, at in month.forecasts.items() if day >= 5}
    assert late
    assert all(abs(at - month.total_exceeded) <= 1 for at in late.values())
