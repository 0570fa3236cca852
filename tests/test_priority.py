"""The tool gives itself its priorities, whoever starts it."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from arawn_cli.sample_tree import SampleTree
from tests.conftest import Run, needs_strace

LOOK = """
import psutil
from arawn_cli.config_tables import Maintenance
from arawn_cli.priority import stand_back
for _ in range(2):
    stand_back(Maintenance(**{values}))
process = psutil.Process()
print(process.nice(), process.ionice().ioclass.name)
"""


@pytest.mark.parametrize(
    ("values", "priorities"),
    [
        ({}, "10 IOPRIO_CLASS_IDLE"),
        ({"nice": 3, "io_class": "best-effort"}, "3 IOPRIO_CLASS_BE"),
        ({"nice": -5, "io_class": "none"}, "0 IOPRIO_CLASS_NONE"),
    ],
)
def test_priorities_are_as_configured_and_never_raised(values: dict[str, object], priorities: str) -> None:
    program = LOOK.replace("{values}", repr(values))
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == priorities


@needs_strace
def test_each_job_sets_them_itself(run: Callable[..., Run], tree: SampleTree, tmp_path: Path) -> None:
    trace = tmp_path / "trace"
    for job in ("scratch-cleanup", "disk-check"):
        prefix = ("strace", "-f", "-qq", "-o", str(trace), "-e", "trace=setpriority,ioprio_set")
        assert run(job, "--base-path", tree.root, prefix=prefix, traced=True).code == 0
        calls = trace.read_text()
        assert "setpriority(PRIO_PROCESS" in calls
        assert "10) = 0" in calls
        assert "IOPRIO_CLASS_IDLE" in calls
