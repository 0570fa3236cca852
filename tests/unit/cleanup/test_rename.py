"""A session whose rename fails, or that shows to be in use only around it, stays in its place."""

from __future__ import annotations

import errno
import os

import pytest

from arawn_cli.cleanup import removal
from arawn_cli.fs.openat import Identity
from tests.support.errors import os_error
from tests.support.in_process import cleaned
from tests.support.tree import SampleTree


@pytest.mark.parametrize(
    ("number", "told"),
    [(errno.EBUSY, {"mount_inside": 1}), (errno.ENOENT, {"changed_since_plan": 1}), (errno.EIO, {})],
)
def test_a_rename_that_fails_leaves_the_session_in_its_place(
    tree: SampleTree, monkeypatch: pytest.MonkeyPatch, number: int, told: dict[str, int]
) -> None:
    tree.session("s", files={"f": 1}, age_days=30)

    def renaming(*_: object, **__: object) -> None:
        raise os_error(number)

    monkeypatch.setattr(os, "rename", renaming)
    summary, _ = cleaned(tree)
    monkeypatch.undo()
    assert (summary.sessions_kept, summary.sessions_cleaned) == (told, 0)
    assert [failure.operation for failure in summary.failures] == ([] if told else ["renameat"])
    assert (tree.sessions / "s" / "work" / "f").exists()


@pytest.mark.parametrize("look", [1, 2])
def test_processes_that_cannot_be_looked_at_keep_the_session_whole(tree: SampleTree, monkeypatch: pytest.MonkeyPatch, look: int) -> None:
    tree.session("s", files={"f": 1}, age_days=30)
    looks: list[None] = []

    def directories_in_use(directories: object, _patience_secs: float) -> frozenset[Identity]:
        looks.append(None)
        if len(looks) == look:
            raise os_error(errno.ENFILE)
        return frozenset()

    monkeypatch.setattr(removal, "occupied", directories_in_use)
    summary, _ = cleaned(tree)
    assert (summary.sessions_cleaned, [failure.errno for failure in summary.failures]) == (0, [errno.ENFILE])
    assert (tree.sessions / "s" / "work" / "f").exists()
    assert not (tree.sessions.parent / ".trash").exists()


@pytest.mark.parametrize("seen", ["in_use", "mount_inside"])
def test_what_shows_only_after_the_rename_puts_the_session_back(tree: SampleTree, monkeypatch: pytest.MonkeyPatch, seen: str) -> None:
    session = tree.session("s", files={"f": 1}, age_days=30)
    identity = (session.stat().st_dev, session.stat().st_ino)
    calls: list[None] = []

    def directories_in_use(directories: object, _patience_secs: float) -> frozenset[Identity]:
        calls.append(None)
        return frozenset({identity}) if seen == "in_use" and len(calls) == 2 else frozenset()

    def mounts() -> frozenset[str]:
        held = list(tree.workstreams.rglob("held.s.*"))
        return frozenset(f"{path}/work" for path in held) if seen == "mount_inside" else frozenset()

    monkeypatch.setattr(removal, "occupied", directories_in_use)
    monkeypatch.setattr(removal, "mount_points", mounts)
    assert cleaned(tree)[0].sessions_kept == {seen: 1}
    assert (tree.sessions / "s" / "work" / "f").exists()


def test_a_mount_that_shows_only_after_planning_keeps_the_session_in_its_place(tree: SampleTree, monkeypatch: pytest.MonkeyPatch) -> None:
    session = tree.session("s", files={"f": 1}, age_days=30)
    monkeypatch.setattr(removal, "mount_points", lambda: frozenset({f"{session}/work"}))
    monkeypatch.setattr(os, "rename", None)
    assert cleaned(tree)[0].sessions_kept == {"mount_inside": 1}
    assert (session / "work" / "f").exists()
