"""Turns in the messages of all workstreams, while other programs rename the files."""

from __future__ import annotations

import errno
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from arawn_cli.arawn import turns
from arawn_cli.arawn.messages import EVERY_SESSION
from arawn_cli.arawn.root import opened_root
from arawn_cli.arawn.turns import messages_reader
from arawn_cli.fs.openat import opened_file
from tests.support.errors import os_error
from tests.support.tree import SampleTree


def test_messages_that_are_rotated_while_they_are_opened_are_still_evidence(tree: SampleTree, monkeypatch: pytest.MonkeyPatch) -> None:
    tree.turn("s", tree.ago(1))

    @contextmanager
    def rotated_before(name: str, parent: int) -> Iterator[int]:
        tree.messages.rename(f"{tree.messages}.1")
        tree.turn("other", tree.ago(0))
        with opened_file(name, parent) as descriptor:
            yield descriptor

    monkeypatch.setattr(turns, "opened_file", rotated_before)
    with opened_root(tree.root, (tree.database,)) as root:
        reader = messages_reader(root, {"s"}, ())
        reader.read({"s"})
    assert reader.damage[EVERY_SESSION].path == "workstreams/scratch/messages.jsonl.1"
    assert reader.damage_of("s") is not None


def test_a_mount_table_that_cannot_be_read_is_a_failure_of_all_messages(tree: SampleTree, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse() -> frozenset[str]:
        raise os_error(errno.EMFILE)

    monkeypatch.setattr(turns, "mount_points", refuse)
    with opened_root(tree.root, (tree.database,)) as root:
        reader = messages_reader(root, {"s"}, ())
        reader.read({"s"})
    assert reader.failures["workstreams"].errno == errno.EMFILE
