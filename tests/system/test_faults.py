"""Make each system call of a removal fail, or the last one before a kill, at its first occurrences.

What must hold is checked by code that shares nothing with the package but the
builder of the tree.
"""

from __future__ import annotations

import os
import re
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.conftest import COMMAND, needs_strace, snapshot
from tests.support.tree import SampleTree, set_age, write

CALLS = ("openat", "getdents64", "newfstatat", "renameat", "unlinkat", "flock")
FAULTS = ("error=EIO", "error=EACCES", "error=ENOSPC", "error=EMFILE", "signal=KILL")
DUE = ("due-1", "due-2", "due-3")
STAYING = ("by-turn", "by-row", "by-file")

_BASES: dict[str, int] = {}  # calls of each kind that a run makes before it comes to the tree


class Field:
    """A tree with sessions that go, sessions that stay, and a canary outside that links lead to."""

    def __init__(self, folder: Path) -> None:
        self.tree = SampleTree(folder / "arawn", time.time_ns())
        self.canary = folder / "canary"
        write(self.canary / "precious", 100)
        for name in (*DUE, *STAYING):
            directory = self.tree.session(name, files={"a": 10, "b/c/d": 20, "b/e": 5}, age_days=30)
            (directory / "work" / "b" / "out").symlink_to(self.canary)
            set_age(directory, self.tree.ago(1 if name == "by-file" else 30))
        self.tree.turn("by-turn", self.tree.ago(1))
        self.tree.session_row("by-row", self.tree.ago(30), self.tree.ago(1))
        self.whole = {name: self._contents(name) for name in (*DUE, *STAYING)}
        self.untouched = snapshot(self.canary)

    def check(self) -> None:
        """Nothing outside has changed, and each session in `sessions/` is whole."""
        assert snapshot(self.canary) == self.untouched
        for name in self.remaining():
            assert self._contents(name) == self.whole[name]
        if not self.pending():
            assert set(STAYING) <= self.remaining()

    def remaining(self) -> set[str]:
        return {name for name in os.listdir(self.tree.sessions) if not name.startswith(".")}

    def pending(self) -> list[Path]:
        return [path for path in self.tree.workstreams.rglob("*") if path.name.startswith((".trash.held.", "held."))]

    def trash(self) -> list[Path]:
        return list(self.tree.workstreams.rglob(".trash*/*"))

    def _contents(self, name: str) -> dict[str, object]:
        top = self.tree.sessions / name
        return {str(path.relative_to(top)): (path.lstat().st_mode, path.lstat().st_size) for path in top.rglob("*")}


@contextmanager
def field_in(folder: Path) -> Iterator[Field]:
    folder.mkdir()
    field = Field(folder)
    yield field
    field.check()


def clean(field: Field, environment: dict[str, str], *prefix: str) -> subprocess.CompletedProcess[str]:
    order = [*prefix, str(COMMAND), "scratch-cleanup", "--base-path", str(field.tree.root)]
    return subprocess.run(order, capture_output=True, text=True, env=environment, check=False, timeout=60)


def first_on_the_tree(field: Field, environment: dict[str, str], call: str, trace: Path) -> int:
    """Count the calls of the main thread before the first that names the tree, in a dry run."""
    order = ("strace", "-f", "-y", "-qq", "-o", str(trace), "-e", f"trace={call}")
    subprocess.run(
        [*order, str(COMMAND), "scratch-cleanup", "--dry-run", "--base-path", str(field.tree.root)],
        env=environment,
        check=True,
        capture_output=True,
    )
    lines = trace.read_text().splitlines()
    main = lines[0].split()[0] if lines else ""
    own = [line for line in lines if line.split()[0] == main and f" {call}(" in line]
    return next((number for number, line in enumerate(own) if str(field.tree.root) in line), 0)


@needs_strace
@pytest.mark.parametrize(
    "occurrences", [pytest.param(3, marks=pytest.mark.slow, id="first"), pytest.param(1000, marks=pytest.mark.long, id="every")]
)
@pytest.mark.parametrize("fault", FAULTS)
@pytest.mark.parametrize("call", CALLS)
def test_a_fault_in_any_call_harms_nothing_and_is_made_good_by_the_next_run(
    environment: dict[str, str], tmp_path: Path, call: str, fault: str, occurrences: int
) -> None:
    environment = {key: value for key, value in environment.items() if not key.startswith("COV")}  # its calls are not ours
    if call not in _BASES:
        with field_in(tmp_path / "reference") as field:
            _BASES[call] = first_on_the_tree(field, environment, call, tmp_path / "trace")
    base = _BASES[call]
    fired = 0
    for when in range(1, occurrences + 1):
        occurrence = base + when
        inject = f"inject={call}:{fault}:when={occurrence}"
        log = tmp_path / f"{when}.log"
        with field_in(tmp_path / f"{when}") as field:
            done = clean(field, environment, "strace", "-f", "-qq", "-o", str(log), "-e", f"trace={call}", "-e", inject)
            field.check()
            if not re.search(r"\(INJECTED\)|killed by SIGKILL", log.read_text()):
                break
            fired += 1
            if done.returncode == 0:
                assert not re.search(r'"failures":\[\{', done.stdout)
                for name in set(DUE) & field.remaining():
                    assert re.search(f'"session_id":"{name}","action":"kept"', done.stdout), (inject, done.stdout)
                assert not field.trash()
            assert "Traceback" not in done.stderr
            again = clean(field, environment)
            assert (again.returncode, again.stderr.count("ERROR")) == (0, 0), (inject, again.stderr)
            assert field.remaining() == set(STAYING)
            assert field.trash() == []
    assert fired, "none of the faults happened"
