"""Cleanup in a loop while a server promotes scratch, archives sessions and removes workstreams at
random moments."""

from __future__ import annotations

import os
import random
import shutil
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from uuid import UUID

import pytest

from tests.support.in_process import cleaned
from tests.support.main_tree import MainTree
from tests.support.tree import SampleTree, set_age

SECONDS = 3.0
PAUSE = 0.02  # seconds; a run takes a few times as long


class Server:
    """A program that does to a root what Arawn does, at moments that a seed decides."""

    def __init__(self, tree: SampleTree | MainTree, seed: int) -> None:
        self.tree = tree
        self.random = random.Random(seed)  # noqa: S311 - a reproducible sequence
        self.made = 0

    def uuid(self) -> str:
        return str(UUID(int=self.random.getrandbits(128), version=4))

    def run(self) -> None:
        end = time.monotonic() + SECONDS
        moves: list[Callable[[], None]] = [self.promote_scratch] if isinstance(self.tree, SampleTree) else [self.promote_session]
        while time.monotonic() < end:
            for _ in range(self.random.randrange(5)):
                self.create_session()
            time.sleep(self.random.random() * PAUSE * self.random.choice((1, 1, 20)))
            with suppress(OSError, IndexError):  # cleanup was there first
                self.random.choice([*moves, *moves, self.archive_session, self.remove_workstream])()

    def create_session(self) -> None:
        session = self.tree.sessions / self.uuid()
        directory = session / "work" if isinstance(self.tree, SampleTree) else session
        directory.mkdir(parents=True)
        (directory / "f").write_text(session.name)
        set_age(session, self.tree.ago(30))
        self.made += 1

    def promote_scratch(self) -> None:
        (self.tree.workstreams / "scratch").rename(self.tree.workstreams / self.uuid())
        time.sleep(self.random.random() * PAUSE / 8)
        self.tree.sessions.mkdir(parents=True)

    def any_session(self) -> Path:
        return self.random.choice([path for path in sorted(self.tree.sessions.iterdir()) if path.name != ".trash"])

    def promote_session(self) -> None:
        session = self.any_session()
        target = self.tree.workstreams / "thesis" / session.name
        target.mkdir()
        (session / "f").rename(target / "messages.jsonl")

    def archive_session(self) -> None:
        session = self.any_session()
        session.rename(self.tree.root.parent / session.name)

    def remove_workstream(self) -> None:
        empty = self.tree.workstreams / self.uuid()
        empty.mkdir()
        time.sleep(self.random.random() * PAUSE)
        shutil.rmtree(empty)


def files_of_sessions(top: Path) -> int:
    return sum(path.name in ("f", "messages.jsonl") for path in top.rglob("*"))


@pytest.mark.parametrize("seed", [1, 2])
@pytest.mark.parametrize("generation", [SampleTree, MainTree])
def test_what_a_server_moves_during_a_run_is_neither_an_error_nor_lost(
    tmp_path: Path, generation: type[SampleTree | MainTree], seed: int
) -> None:
    tmp_path.chmod(0o755)
    tree = generation(tmp_path / "arawn", time.time_ns())
    server = Server(tree, seed)
    config = tmp_path / "config.toml"
    config.write_text("[maintenance.cleanup]\ntrash_days = 3\nkeep_chats = false\n")
    made = tmp_path / "made"
    process = os.fork()
    if process == 0:
        try:
            server.run()
            made.write_text(str(server.made))
        finally:
            os._exit(0)

    while os.waitpid(process, os.WNOHANG) == (0, 0):
        summary, _ = cleaned(tree, config=config)
        assert summary.failures == ()
        assert "io_error" not in summary.sessions_kept

    server.create_session()
    summary, _ = cleaned(tree, config=config)
    assert (summary.failures, summary.sessions_cleaned > 0) == ((), True)
    assert files_of_sessions(tmp_path) == int(made.read_text()) + 1
    trash = [path for path in tmp_path.rglob(".trash") if not any(path.iterdir())]
    assert trash == []
    assert not list(tmp_path.rglob("held.*"))
