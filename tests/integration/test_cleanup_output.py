"""What `scratch-cleanup` prints and logs, and what becomes of it where nobody takes that."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from arawn_cli import timestamps
from tests.conftest import COMMAND, RunCommand
from tests.support.cleanup import clean
from tests.support.tree import SampleTree


def test_every_action_is_logged_once_with_session_last_turn_and_bytes(run: RunCommand, tree: SampleTree) -> None:
    tree.session("s", files={"f": 1500}, age_days=30)
    tree.turn("s", tree.ago(20))
    turn = timestamps.render(tree.ago(20))
    reason = f"expired: newest: turn, {timestamps.minute(tree.ago(20))}; touch it if it was copied in with old times"
    assert clean(run, tree, "--verbose").stderr == f"INFO: trashed session s ({reason}): last turn {turn}, 1.5 KiB\n"


def test_under_the_journal_lines_carry_a_priority(environment: dict[str, str], tree: SampleTree, tmp_path: Path) -> None:
    tree.session("s", files={"f": 1}, age_days=-9)
    log = tmp_path / "journal"
    with log.open("wb") as stream:
        status = os.fstat(stream.fileno())
        subprocess.run(
            [str(COMMAND), "scratch-cleanup", "--base-path", str(tree.root)],
            stderr=stream,
            stdout=subprocess.DEVNULL,
            env={**environment, "JOURNAL_STREAM": f"{status.st_dev}:{status.st_ino}"},
            check=False,
        )
    assert log.read_text().startswith(f"<4>kept session s (future_timestamp: its directory, {timestamps.minute(tree.ago(-9))})")


@pytest.mark.parametrize("form", ["json", "table"])
def test_a_reader_that_closes_the_pipe_is_no_error_and_the_run_goes_on(environment: dict[str, str], tree: SampleTree, form: str) -> None:
    for number in range(50):
        tree.session(f"s{number}", files={"f": 1}, age_days=30)
    reader, writer = os.pipe()
    os.close(reader)
    done = subprocess.run(
        [str(COMMAND), "scratch-cleanup", "--base-path", str(tree.root), "--format", form],
        stdout=writer,
        stderr=subprocess.PIPE,
        text=True,
        env=environment,
        check=False,
    )
    os.close(writer)
    assert (done.returncode, done.stderr) == (0, "")
    assert os.listdir(tree.sessions) == []


@pytest.mark.parametrize("form", ["json", "table"])
def test_output_that_cannot_be_written_is_told_by_the_exit_code(environment: dict[str, str], tree: SampleTree, form: str) -> None:
    tree.session("s", files={"f": 1}, age_days=30)
    with open("/dev/full", "wb") as full:
        done = subprocess.run(
            [str(COMMAND), "scratch-cleanup", "--base-path", str(tree.root), "--format", form],
            stdout=full,
            stderr=subprocess.PIPE,
            text=True,
            env=environment,
            check=False,
        )
    assert (done.returncode, done.stderr) == (69, "ERROR: cannot write to standard output: No space left on device\n")
    assert os.listdir(tree.sessions) == []


def test_closed_standard_streams_are_no_obstacle(run: RunCommand, tree: SampleTree) -> None:
    tree.session("s", files={"f": 1}, age_days=30)
    assert run("scratch-cleanup", "--base-path", tree.root, prefix=("sh", "-c", 'exec "$@" <&- >&- 2>&-', "sh")).code == 0
    assert os.listdir(tree.sessions) == []
