"""`scratch-cleanup` on the trees and databases that running Arawn servers wrote."""

from __future__ import annotations

import json
import os
import shutil
import sqlite3
import time
from contextlib import closing
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from tests.conftest import Run, RunCommand, snapshot
from tests.support.arawn_servers import MAIN, MAIN_SESSIONS, V0, V0_SESSIONS, V0_WORKSTREAMS, Server, days_before_last_day, extract

LETTERS = {session: letter for sessions in (V0_SESSIONS, MAIN_SESSIONS) for letter, session in sessions.items()}


def clean(run: RunCommand, server: Server, *arguments: object) -> Run:
    """Run with the default settings: Arawn's home is the only thing that the command is told."""
    return run("scratch-cleanup", "--older-than-days", days_before_last_day(), *arguments, HOME=str(server.home))


def reasons(done: Run) -> dict[str, str]:
    return {LETTERS.get(str(session), str(session)): str(reason) for session, reason in done.reasons().items()}


EXPECTED = {
    "v0-live": dict.fromkeys("ACDE", "expired"),
    "v0-stopped": {"F": "expired", "G": "active"},
    "v0-stock": {},
    "v0-fresh": {},
    "main-live": {"A": "expired", "B": "attached", "C": "expired", "F": "active"},
    "main-stopped": {"A": "expired", "B": "attached", "C": "expired", "F": "active"},
    "main-fresh": {},
}


@pytest.mark.parametrize("name", [*V0, *MAIN])
def test_the_sessions_of_a_server_are_decided_by_all_evidence(run: RunCommand, tmp_path: Path, name: str) -> None:
    server = extract(name, tmp_path / "home")
    before = snapshot(server.home)
    done = clean(run, server, "--dry-run", "--base-path", server.root)
    assert (done.code, reasons(done), done.last["failures"]) == (0, EXPECTED[name], [])
    assert "no database" not in done.stderr
    if name not in ("v0-fresh", "main-fresh"):
        assert done.last["database_found"] is True
    changed = {path for path, state in snapshot(server.home).items() if before.get(path) != state}
    assert {path for path in changed if not path.endswith("-shm")} == set()


@pytest.mark.parametrize("name", [*V0, *MAIN])
def test_doctor_reads_database_and_messages(run: RunCommand, tmp_path: Path, name: str) -> None:
    server = extract(name, tmp_path / "home")
    done = run("doctor", "--base-path", server.root, HOME=str(server.home))
    assert done.code == 0
    checks = {event["check"]: event for event in done.of_type("doctor_check")}
    assert {check: checks[check]["status"] for check in ("root", "database", "messages")} == dict.fromkeys(
        ("root", "database", "messages"), "ok"
    )


def test_doctor_reports_messages_that_are_no_file(run: RunCommand, tmp_path: Path) -> None:
    """The tree of a server, with a directory in place of one session's messages."""
    server = extract("main-stopped", tmp_path / "home")
    messages = server.scratch / MAIN_SESSIONS["A"] / "messages.jsonl"
    messages.unlink()
    messages.mkdir()
    checks = {event["check"]: event for event in run("doctor", HOME=str(server.home)).of_type("doctor_check")}
    assert checks["messages"]["status"] == "fail"
    assert MAIN_SESSIONS["A"] in str(checks["messages"]["detail"])


def test_a_turn_in_the_messages_of_another_workstream_keeps_a_scratch_session(run: RunCommand, tmp_path: Path) -> None:
    """The tree of a server, with one more line: no server wrote a turn of F into Thesis."""
    server = extract("v0-stopped", tmp_path / "home")
    hour_ago = datetime.now(UTC) - timedelta(hours=1)
    line = {"session_id": V0_SESSIONS["F"], "workstream_id": V0_WORKSTREAMS["Thesis"], "role": "user", "content": "hello"}
    with (server.root / "workstreams" / V0_WORKSTREAMS["Thesis"] / "messages.jsonl").open("a") as file:
        file.write(json.dumps({**line, "id": "x", "timestamp": hour_ago.strftime("%Y-%m-%dT%H:%M:%S.000000001Z")}) + "\n")
    assert reasons(clean(run, server)) == {"F": "active", "G": "active"}


def test_an_attached_session_with_a_directory_stays(run: RunCommand, tmp_path: Path) -> None:
    """The tree of a server, with a directory for its attached session B, which got none there."""
    server = extract("v0-stopped", tmp_path / "home")
    shutil.copytree(server.scratch / V0_SESSIONS["F"], server.scratch / V0_SESSIONS["B"])
    assert reasons(clean(run, server)) == {"B": "attached", "F": "expired", "G": "active"}


def test_a_promoted_session_is_attached_also_by_its_messages_alone(run: RunCommand, tmp_path: Path) -> None:
    """The tree of a server without its database."""
    server = extract("main-stopped", tmp_path / "home")
    for path in server.configuration.glob("arawn.db*"):
        path.unlink()
    done = clean(run, server, "--dry-run")
    assert (done.code, reasons(done)) == (0, EXPECTED["main-stopped"])
    assert done.stderr.count("no database") == 1


def test_on_main_a_session_is_attached_by_a_row_of_a_server_that_still_runs(run: RunCommand, tmp_path: Path) -> None:
    """The tree of a server, with A attached by its row alone, in a transaction that is only in the
    log."""
    server = extract("main-stopped", tmp_path / "home")
    with closing(sqlite3.connect(server.database)) as connection:
        connection.execute(
            "UPDATE sessions SET workstream_id = (SELECT id FROM workstreams WHERE name = 'thesis') WHERE id = ?", (MAIN_SESSIONS["A"],)
        )
        connection.commit()
        assert reasons(clean(run, server, "--dry-run")) == {**EXPECTED["main-stopped"], "A": "attached"}


def test_on_main_without_messages_and_database_the_layout_is_unknown_and_every_session_stays(run: RunCommand, tmp_path: Path) -> None:
    """The tree of a server without database and messages."""
    server = extract("main-stopped", tmp_path / "home")
    for path in server.root.rglob("messages.jsonl"):
        path.unlink()
    for path in server.configuration.glob("arawn.db*"):
        path.unlink()
    assert clean(run, server).code == 78
    assert len(os.listdir(server.scratch)) == 7


def test_files_of_arawn_beside_the_sessions_are_no_sessions_and_foreign_directories_stay(run: RunCommand, tmp_path: Path) -> None:
    """The tree of a server, with two directories of people."""
    server = extract("main-stopped", tmp_path / "home")
    (server.scratch / "my notes").mkdir()
    (server.scratch / "sessions").mkdir()
    (server.scratch / "todo.txt").touch()
    done = clean(run, server)
    assert reasons(done) == {**EXPECTED["main-stopped"], "my notes": "foreign_name", "sessions": "foreign_name"}
    assert {"memory.db", "my notes", "sessions", "todo.txt"} <= set(os.listdir(server.scratch))


def test_messages_that_are_no_file_keep_their_session(run: RunCommand, tmp_path: Path) -> None:
    """The tree of a server, with a link in place of one session's messages."""
    server = extract("main-stopped", tmp_path / "home")
    messages = server.scratch / MAIN_SESSIONS["A"] / "messages.jsonl"
    messages.unlink()
    messages.symlink_to("/etc/passwd")
    os.utime(messages, (0, 0), follow_symlinks=False)
    long_ago = time.time() - 10 * 365 * 86400
    os.utime(messages.parent, (long_ago, long_ago))
    done = clean(run, server)
    assert (done.code, reasons(done)) == (1, {**EXPECTED["main-stopped"], "A": "activity_unknown"})
