"""The tool gives itself its priorities, whoever starts it."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.conftest import Run, needs, needs_strace
from tests.support.tree import SampleTree

# What the tests themselves run with: nobody but root may go below it.
NICE = os.nice(0)
LOWEST = 19
needs_ionice = needs(shutil.which("ionice") is not None, "ionice")
needs_room_below = needs(NICE < LOWEST, "a nice value below 19")

LOOK = """
import psutil
from arawn_cli.config.schema import Maintenance
from arawn_cli.cli.process import lower_priority
for _ in range(2):
    lower_priority(Maintenance(**{values}))
process = psutil.Process()
print(process.nice(), process.ionice().ioclass.name, process.ionice().value)
"""


@pytest.mark.parametrize(
    ("values", "nice", "disk"),
    [
        ({}, 10, "IOPRIO_CLASS_IDLE 0"),
        ({"nice": 3, "io_class": "best-effort"}, 3, "IOPRIO_CLASS_BE 7"),
        ({"nice": -5, "io_class": "none"}, -5, "IOPRIO_CLASS_NONE 0"),
    ],
)
def test_priorities_are_as_configured_and_never_raised(values: dict[str, object], nice: int, disk: str) -> None:
    program = LOOK.replace("{values}", repr(values))
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == f"{max(nice, NICE)} {disk}"


@needs_ionice
def test_what_is_lower_already_is_not_raised() -> None:
    program = LOOK.replace("{values}", repr({"nice": 3, "io_class": "best-effort"}))
    done = subprocess.run(
        ["nice", "-n", "15", "ionice", "-c", "3", sys.executable, "-c", program], capture_output=True, text=True, check=True
    )
    assert done.stdout.startswith(f"{min(NICE + 15, LOWEST)} IOPRIO_CLASS_IDLE")


@pytest.fixture
def lowest(tmp_path: Path) -> Path:
    """A configuration with a nice value below that of the tests."""
    path = tmp_path / "config.toml"
    path.write_text(f"[maintenance]\nnice = {LOWEST}\n")
    return path


@needs_strace
@needs_room_below
@pytest.mark.parametrize("call", ["setpriority", "ioprio_set"])
def test_where_one_priority_may_not_be_changed_the_other_is_and_the_run_goes_on(
    call: str, run: Callable[..., Run], tree: SampleTree, lowest: Path, tmp_path: Path
) -> None:
    trace = tmp_path / "trace"
    tracing = ("-e", "trace=setpriority,ioprio_set", "-e", f"inject={call}:error=EPERM")
    words = ("disk-check", "--base-path", tree.root, "--config", lowest)
    done = run(*words, prefix=("strace", "-f", "-qq", "-o", str(trace), *tracing), traced=True)
    assert (done.code, done.stderr) == (0, "")
    ends = [line.split(" = ")[1] for line in trace.read_text().splitlines()]
    assert sorted(end.split()[0] for end in ends) == ["-1", "0"]


@needs_strace
@needs_room_below
def test_each_job_sets_them_itself(run: Callable[..., Run], tree: SampleTree, lowest: Path, tmp_path: Path) -> None:
    trace = tmp_path / "trace"
    for job in ("scratch-cleanup", "disk-check"):
        prefix = ("strace", "-f", "-qq", "-o", str(trace), "-e", "trace=setpriority,ioprio_set")
        assert run(job, "--base-path", tree.root, "--config", lowest, prefix=prefix, traced=True).code == 0
        calls = trace.read_text()
        assert "setpriority(PRIO_PROCESS" in calls
        assert f"{LOWEST}) = 0" in calls
        assert "IOPRIO_CLASS_IDLE" in calls
