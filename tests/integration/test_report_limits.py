"""What a run reports stays small, however much of a tree cannot be read; the counts are exact."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.conftest import COMMAND, WITHOUT_FILE_POWERS, needs_setpriv
from tests.support.tree import SampleTree

OUTPUT_MAX = 256 * 1024
LINE_MAX = 8 * 1024
MEMORY_MAX = 64 * 1024  # KiB, beyond that of a readable tree

_MEASURED = "import os, subprocess, sys; code = subprocess.run(sys.argv[1:]).returncode; import resource; " \
    "print('peak', resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss, file=sys.stderr); sys.exit(code)"  # fmt: skip


def make_unreadable(top: Path, directories: int, levels: int, name: str) -> None:
    """Make a directory at a depth that no path can name, with many directories that nobody may
    list."""
    top.mkdir(parents=True, exist_ok=True)
    here = os.open(top, os.O_RDONLY)
    for _ in range(levels):
        os.mkdir(name, dir_fd=here)
        below = os.open(name, os.O_RDONLY, dir_fd=here)
        os.close(here)
        here = below
    for number in range(directories):
        os.mkdir(f"closed-{number}", 0, dir_fd=here)
        os.close(os.open(f"file-{number}", os.O_CREAT | os.O_WRONLY, dir_fd=here))
    os.close(here)


def run(environment: dict[str, str], *arguments: object) -> tuple[int, str, str, int]:
    """Run the command as root without root's power over files. Return code, output, log and peak
    memory in KiB."""
    command = [*WITHOUT_FILE_POWERS, sys.executable, "-c", _MEASURED, str(COMMAND), *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, env=environment, check=False)
    *log, peak = done.stderr.splitlines()
    return done.returncode, done.stdout, "\n".join(log), int(peak.split()[1])


COMMANDS = [
    ("disk-check", "--format=json"),
    ("disk-check", "--format=table"),
    ("disk-check", "--format=nagios"),
    ("scratch-cleanup", "--dry-run", "--format=json", "-v"),
    ("scratch-cleanup", "--dry-run", "--format=table", "-v"),
    ("report",),
    ("report", "--html=-"),
    ("report", "--format=json"),
    ("doctor", "--format=json"),
]

ITEMS = ("wide-", '"scratch_session"', '"workstream_usage"')


@pytest.fixture
def deep_tree(tree: SampleTree) -> Iterator[SampleTree]:
    """A tree that is removed at the end, since pytest cannot remove directories that are so
    deep."""
    yield tree
    subprocess.run(["rm", "-rf", tree.root], check=True)


@needs_setpriv
@pytest.mark.slow
def test_thousands_of_unreadable_directories_far_down_are_counted_and_not_listed(
    environment: dict[str, str], deep_tree: SampleTree
) -> None:
    tree = deep_tree
    tree.session("plain", files={"f": 1}, age_days=30)
    base = {command: run(environment, *command, "--base-path", tree.root)[3] for command in COMMANDS}
    make_unreadable(tree.workstreams / "big" / "work", 3000, 1000, "n" * 200)
    make_unreadable(tree.workstreams / "scratch" / "sessions" / "deep", 3000, 1000, "é" * 100)
    for number in range(300):
        make_unreadable(tree.workstreams / "scratch" / "sessions" / f"wide-{number}", 20, 2, "m")
        (tree.workstreams / ("f" * 240 + str(number))).write_bytes(b"x")
    closed = {"disk-check": 3000 + 3000 + 300 * 20, "scratch-cleanup": 3000 + 300 * 20}
    for command in COMMANDS:
        code, output, log, peak = run(environment, *command, "--base-path", tree.root)
        assert code in ((1, 3) if "nagios" in command[-1] else (0, 1)), (command, log)
        lines = [*output.splitlines(), *log.splitlines()]
        one_line = command == ("report", "--format=json")  # as long as the twenty failures that a summary lists
        of_items = [line for line in lines if not one_line and any(word in line for word in ITEMS)]
        assert max(map(len, lines)) < OUTPUT_MAX
        assert max(map(len, of_items), default=0) < LINE_MAX * 4
        assert sum(len(line) + 1 for line in lines if line not in set(of_items)) < OUTPUT_MAX, command
        assert peak - base[command] < MEMORY_MAX, (command, peak, base[command])
        if "--format=json" in command and command[0] in closed:
            summary = json.loads(output.splitlines()[-1])
            assert summary["failure_count"] == closed[command[0]]
            assert len(summary["failures"]) == 20
            assert f"and {closed[command[0]] - 20:,} more failures" in log
