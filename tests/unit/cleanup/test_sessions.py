"""Evidence of use, in trees and databases of every state: what keeps a session."""

from __future__ import annotations

import gzip
import os
import sqlite3
import time
from collections.abc import Callable
from contextlib import closing
from itertools import product
from pathlib import Path

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from arawn_cli import timestamps
from arawn_cli.arawn.messages import MessageLog
from arawn_cli.timestamps import DAY
from tests.conftest import WITHOUT_FILE_POWERS, RunCommand, needs_setpriv, snapshot
from tests.support import message_lines
from tests.support.cleanup import clean
from tests.support.main_tree import MainTree, session_id
from tests.support.message_lines import Line
from tests.support.tree import SampleTree, set_age


def test_a_long_lived_session_with_a_turn_yesterday_stays(run: RunCommand, tree: SampleTree) -> None:
    tree.session("s", files={"f": 10}, age_days=60)
    tree.session_row("s", tree.ago(60))
    tree.turn("s", tree.ago(60))
    tree.turn("s", tree.ago(1))
    done = clean(run, tree)
    assert (done.code, done.reasons()) == (0, {"s": "active"})
    assert (tree.sessions / "s" / "work" / "f").exists()


def test_a_session_with_a_file_touched_an_hour_ago_stays(run: RunCommand, tree: SampleTree) -> None:
    directory = tree.session("s", files={"f": 10, "g": 10}, age_days=60)
    set_age(directory / "work", tree.ago(60))
    os.utime(directory / "work" / "g", ns=(tree.ago(1 / 24), tree.ago(1 / 24)))
    tree.session_row("s", tree.ago(60))
    done = clean(run, tree)
    assert (done.code, done.reasons()) == (0, {"s": "recent_files"})
    assert (directory / "work" / "f").exists()


def test_a_session_with_a_keep_file_is_not_due(run: RunCommand, tree: SampleTree, tmp_path: Path) -> None:
    """If only the removal noticed the file, both would exceed the limit."""
    for name, files in (("old", {"f": 10}), ("kept", {"f": 10, ".keep": 0})):
        tree.session(name, files=files, age_days=60)
    config = tmp_path / "one.toml"
    config.write_text("[maintenance.cleanup]\nmax_sessions = 1\n")
    done = clean(run, tree, "--config", config)
    assert (done.code, done.reasons()) == (0, {"old": "expired", "kept": "protected"})


@pytest.mark.parametrize("row", [True, False])
@pytest.mark.parametrize("message", [True, False])
def test_a_session_old_by_all_evidence_is_removed(run: RunCommand, tree: SampleTree, at_once: Path, row: bool, message: bool) -> None:
    tree.session("s", files={"f": 10, "sub/g": 5}, age_days=30)
    if row:
        tree.session_row("s", tree.ago(30), tree.ago(29))
    if message:
        tree.turn("s", tree.ago(28))
    done = clean(run, tree, "--config", at_once)
    assert (done.code, done.reasons()) == (0, {"s": "expired"})
    assert os.listdir(tree.sessions) == []
    assert list(tree.workstreams.rglob(".trash*")) == []
    event = done.of_type("scratch_session")[0]
    assert (event["action"], event["bytes"], event["files"]) == ("deleted", 15, 2)
    assert done.last["bytes_freed"] == 15
    assert done.last["cleaned_session_ids"] == ["s"]


def test_a_turn_in_the_workstream_that_the_row_names_keeps_a_session(run: RunCommand, tree: SampleTree) -> None:
    tree.workstream("blog", "My blog", {})
    tree.session("s", files={"f": 1}, age_days=30)
    tree.session_row("s", tree.ago(30), workstream="blog")
    tree.turn("s", tree.ago(1), workstream="blog")
    assert clean(run, tree).reasons() == {"s": "attached"}  # nothing is due, so no messages are read
    tree.session("due", files={"f": 1}, age_days=30)
    assert clean(run, tree).reasons() == {"s": "active", "due": "expired"}


def test_evidence_in_the_future_keeps_a_session(run: RunCommand, tree: SampleTree) -> None:
    tree.session("by-turn", files={"f": 1}, age_days=30)
    tree.turn("by-turn", tree.now + DAY)
    tree.session("by-file", files={"f": 1}, age_days=-3)
    done = clean(run, tree)
    assert done.reasons() == {"by-turn": "future_timestamp", "by-file": "future_timestamp"}
    assert done.stderr.count("future_timestamp") == 2


@settings(max_examples=60)
@given(message_lines.lines(), message_lines.lines(), st.booleans(), st.integers(0, 30 * DAY))
def test_whatever_the_messages_are_a_session_with_a_newer_turn_or_newer_damage_is_never_due(
    tmp_path_factory: pytest.TempPathFactory, scratch: list[Line], blog: list[Line], newline: bool, age: int
) -> None:
    from tests.support.in_process import cleaned

    tree = SampleTree(tmp_path_factory.mktemp("messages") / "arawn", message_lines.NOW)
    for session in message_lines.SESSIONS:
        tree.session(session, files={"f": 1}, age_days=30)
    files = {"scratch": scratch, "blog": blog} if blog else {"scratch": scratch}
    for workstream, lines in files.items():
        path = tree.workstreams / workstream / "messages.jsonl"
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(b"\n".join(line.text for line in lines) + (b"\n" if newline and lines else b""))
        os.utime(path, ns=(tree.now - age, tree.now - age))
    due: set[str] = set()
    for session in message_lines.SESSIONS:
        times = [message_lines.newest(lines, session) for lines in files.values()]
        times += [message_lines.damage(lines, session, tree.now - age) for lines in files.values()]
        proven = all(not lines or any(line.at is not None for line in lines) for lines in files.values())
        if proven and max((time for time in times if time is not None), default=0) < message_lines.CUTOFF:
            due.add(session)
    summary, _ = cleaned(tree, dry_run=True)
    assert set(summary.cleaned_session_ids) == due
    summary, _ = cleaned(tree)
    assert set(os.listdir(tree.sessions)) == set(message_lines.SESSIONS) - due


@settings(max_examples=15)
@given(
    st.lists(
        st.tuples(st.floats(0, 20), st.none() | st.floats(0, 20), st.none() | st.floats(0, 20)),
        max_size=8,
    ),
    st.integers(1, 19),
)
def test_on_random_trees_nothing_younger_goes_and_a_dry_run_changes_nothing(
    tmp_path_factory: pytest.TempPathFactory, ages: list[tuple[float, float | None, float | None]], days: int
) -> None:
    from tests.support.in_process import cleaned

    # A tree gets older between its making and its cleaning, so nothing may be right at the cutoff.
    assume(not any(age is not None and abs(age - days) < 0.001 for known in ages for age in known))
    tree = SampleTree(tmp_path_factory.mktemp("random") / "arawn", time.time_ns())
    for number, (files, row, turn) in enumerate(ages):
        tree.session(f"s{number}", files={"f": number}, age_days=files)
        if row is not None:
            tree.session_row(f"s{number}", tree.ago(row))
        if turn is not None:
            tree.turn(f"s{number}", tree.ago(turn))
    before = snapshot(tree.root)
    dry, _ = cleaned(tree, days=days, dry_run=True)
    assert snapshot(tree.root) == before
    real, _ = cleaned(tree, days=days, dry_run=False)
    expected = {f"s{number}" for number, known in enumerate(ages) if min(age for age in known if age is not None) > days}
    assert set(dry.cleaned_session_ids) == set(real.cleaned_session_ids) == expected
    assert set(os.listdir(tree.sessions)) == {f"s{number}" for number in range(len(ages))} - expected
    again, _ = cleaned(tree, days=days, dry_run=False)
    assert again.sessions_cleaned == 0


def test_a_database_behind_a_link_is_read_with_its_log(run: RunCommand, tree: SampleTree) -> None:
    tree.session("s", files={"f": 1}, age_days=30)
    real = tree.root / "real.db"
    tree.database.rename(real)
    tree.database.symlink_to(real)
    with closing(sqlite3.connect(real)) as server:
        server.execute("INSERT INTO sessions VALUES ('s', 'scratch', ?, NULL, NULL)", (timestamps.render(tree.ago(1)),))
        server.commit()
        assert clean(run, tree).reasons() == {"s": "active"}


def test_unreadable_messages_of_any_workstream_keep_every_session(run: RunCommand, tree: SampleTree) -> None:
    tree.workstream("blog", "My blog", {})
    (tree.workstreams / "blog" / "messages.jsonl").symlink_to("/etc/passwd")
    for name in ("one", "two"):
        tree.session(name, files={"f": 1}, age_days=30)
    tree.session("attached", files={"f": 1}, age_days=30)
    tree.session_row("attached", tree.ago(30), workstream="blog")
    done = clean(run, tree)
    assert (done.code, done.reasons()) == (1, {"one": "activity_unknown", "two": "activity_unknown", "attached": "attached"})
    assert done.stderr.count("read workstreams/blog/messages.jsonl") == 1
    assert str(done.last["failures"]).count("'path': 'workstreams/blog/messages.jsonl'") == 1


def test_a_turn_in_any_workstream_keeps_a_session_without_a_row(run: RunCommand, tree: SampleTree) -> None:
    tree.workstream("blog", "My blog", {})
    (tree.workstreams / "no-row").mkdir()
    for name, workstream in (("a", "blog"), ("b", "no-row"), ("c", "blog")):
        tree.session(name, files={"f": 1}, age_days=30)
        tree.turn(name, tree.ago(1 / 24 if name != "c" else 20), workstream=workstream)
    assert clean(run, tree).reasons() == {"a": "active", "b": "active", "c": "expired"}


def test_messages_behind_a_linked_workstream_prove_nothing(run: RunCommand, tree: SampleTree) -> None:
    away = tree.root.parent / "away"
    away.mkdir()
    (tree.workstreams / "blog").symlink_to(away)
    tree.session("s", files={"f": 1}, age_days=30)
    done = clean(run, tree)
    assert (done.code, done.reasons()) == (1, {"s": "activity_unknown"})


def test_a_session_whose_row_names_a_workstream_is_attached(run: RunCommand, tree: SampleTree) -> None:
    tree.workstream("blog", "My blog", {})
    for name, workstream in (("a", "blog"), ("b", "a-workstream-that-is-gone"), ("c", "scratch")):
        tree.session(name, files={"f": 1}, age_days=30)
        tree.session_row(name, tree.ago(30), workstream=workstream)
    done = clean(run, tree)
    assert (done.code, done.reasons()) == (0, {"a": "attached", "b": "attached", "c": "expired"})


def test_a_session_that_is_attached_in_mid_run_stays(tree: SampleTree, monkeypatch: pytest.MonkeyPatch) -> None:
    from tests.support.disturbance import disturb
    from tests.support.in_process import cleaned

    tree.workstream("blog", "My blog", {})
    for name in ("a", "b"):
        tree.session(name, files={"f": 1}, age_days=30)
        tree.session_row(name, tree.ago(30))

    def attach(name: str) -> None:
        if name.startswith("held.b"):
            tree.session_row("b", tree.ago(30), workstream="blog")

    disturb(monkeypatch, attach)
    summary, _ = cleaned(tree)
    assert (summary.cleaned_session_ids, summary.sessions_kept) == (("a",), {"attached": 1})
    assert os.listdir(tree.sessions) == ["b"]


def test_a_turn_in_a_workstream_that_is_created_in_mid_run_keeps_a_session(tree: SampleTree, monkeypatch: pytest.MonkeyPatch) -> None:
    from tests.support.disturbance import disturb
    from tests.support.in_process import cleaned

    tree.session("s", files={"f": 1}, age_days=30)

    def turn(name: str) -> None:
        if name.startswith("held."):
            (tree.workstreams / "new").mkdir()
            tree.turn("s", tree.now, workstream="new")

    disturb(monkeypatch, turn)
    summary, _ = cleaned(tree)
    assert summary.sessions_kept == {"changed_since_plan": 1}
    assert os.listdir(tree.sessions) == ["s"]


def test_without_a_database_a_turn_in_a_workstream_attaches_a_session(run: RunCommand, tree: SampleTree) -> None:
    tree.workstream("blog", "My blog", {})
    for name in ("attached", "old"):
        tree.session(name, files={"f": 1}, age_days=300)
        tree.turn(name, tree.ago(299))
    tree.turn("attached", tree.ago(298), workstream="blog")
    tree.database.unlink()
    done = clean(run, tree)
    assert (done.code, done.reasons()) == (0, {"attached": "attached", "old": "expired"})
    assert done.stderr.count("no database") == 1
    assert done.last["database_found"] is False


@needs_setpriv
@pytest.mark.parametrize(
    ("name", "kind", "reasons"),
    [
        ("thesis", "directory", ("attached", "expired")),
        ("My Thesis", "directory", ("attached", "expired")),
        ("My Thesis", "link", ("activity_unknown", "activity_unknown")),
        ("notes.md", "link to a file", ("expired", "expired")),
        ("notes.md", "link to nothing", ("expired", "expired")),
        ("My Thesis", "closed session", ("activity_unknown", "activity_unknown")),
        ("thesis", "mode 0", ("activity_unknown", "activity_unknown")),
        ("lost+found", "mode 0", ("expired", "expired")),
    ],
)
def test_on_main_without_a_database_messages_in_a_workstream_of_any_name_attach_a_session(
    run: RunCommand, tmp_path: Path, name: str, kind: str, reasons: tuple[str, str]
) -> None:
    main = MainTree(tmp_path / "arawn", time.time_ns())
    sessions = [main.session(session_id(number), files={"f": 1}, age_days=300) for number in (1, 2)]
    main.database.unlink()
    workstream = main.workstreams / name
    workstream.mkdir(exist_ok=True)
    if kind in ("directory", "closed session"):
        moved = workstream / sessions[0].name
        moved.mkdir()
        (sessions[0] / "messages.jsonl").rename(moved / "messages.jsonl")
        set_age(sessions[0], main.ago(300))
        moved.chmod(0 if kind == "closed session" else 0o755)
    elif kind.startswith("link"):
        workstream.rename(tmp_path / "elsewhere")
        (tmp_path / "a file").touch()
        targets = {"link": "elsewhere", "link to a file": "a file", "link to nothing": "nothing"}
        workstream.symlink_to(tmp_path / targets[kind])
    else:
        workstream.chmod(0)
    done = run("scratch-cleanup", "--base-path", main.root, prefix=WITHOUT_FILE_POWERS)
    expected = dict(zip((session.name for session in sessions), reasons, strict=True))
    assert (done.code, done.reasons()) == (int("activity_unknown" in reasons), expected)


def test_without_a_database_and_messages_every_session_stays(run: RunCommand, tree: SampleTree) -> None:
    tree.database.unlink()
    assert clean(run, tree).code == 0, "without sessions nothing is in doubt"
    tree.session("s", files={"f": 1}, age_days=300)
    done = clean(run, tree)
    assert (done.code, done.reasons()) == (1, {"s": "activity_unknown"})
    assert done.stderr.count("neither messages nor a database") == 1
    tree.messages.touch()
    assert clean(run, tree).reasons() == {"s": "activity_unknown"}, "an empty file records nothing"


def test_messages_that_cannot_be_read_are_not_called_missing(tree: SampleTree) -> None:
    from tests.support.in_process import cleaned

    tree.database.unlink()
    tree.messages.unlink(missing_ok=True)
    tree.messages.symlink_to("elsewhere")
    tree.session("s", files={"f": 1}, age_days=30)
    assert [failure.path for failure in cleaned(tree)[0].failures] == ["workstreams/scratch/messages.jsonl"]


@pytest.mark.parametrize("state", ["compressed", "utf-16", "zeros", "torn"])
def test_damaged_messages_keep_every_session_until_their_time_is_over(run: RunCommand, tree: SampleTree, state: str) -> None:
    for name in ("s", "t"):
        tree.session(name, files={"f": 1}, age_days=30)
    tree.turn("s", tree.ago(30))
    begin = tree.messages.stat().st_size
    tree.turn("s", tree.ago(1))
    before, lost = tree.messages.read_bytes()[:begin], tree.messages.read_bytes()[begin:]
    damaged = {"compressed": gzip.compress(lost), "utf-16": lost.decode().encode("utf-16"), "zeros": b"\0" * len(lost), "torn": lost[:20]}
    tree.messages.write_bytes(before + damaged[state])
    done = clean(run, tree)
    assert (done.code, done.reasons()) == (1, {"s": "activity_unknown", "t": "activity_unknown"})
    detail = f"workstreams/scratch/messages.jsonl: the line at byte {begin} is not a message"
    assert all(str(event["detail"]).startswith(detail) for event in done.of_type("scratch_session"))
    doctor = run("doctor", "--base-path", tree.root, "--no-relay", "--format", "table")
    assert doctor.code == 1
    assert f"tail -c +{begin + 1} " in doctor.stdout
    os.utime(tree.messages, ns=(tree.ago(20), tree.ago(20)))
    assert clean(run, tree).reasons() == {"s": "expired", "t": "expired"}


def test_a_line_with_two_ids_is_a_turn_of_both_sessions(run: RunCommand, tree: SampleTree) -> None:
    for name in ("s", "t", "u"):
        tree.session(name, files={"f": 1}, age_days=30)
    line = '{"session_id":"s","timestamp":"2020-01-01T00:00:00Z","session\\u005fid":"t","timestamp":"2020-01-01T00:00:00Z"}\n'
    tree.messages.write_text(line)
    tree.turn("other", tree.ago(1))
    done = clean(run, tree)
    assert (done.code, done.reasons()) == (1, {"s": "activity_unknown", "t": "activity_unknown", "u": "expired"})


@pytest.mark.parametrize("dry_run", [True, False])
def test_messages_are_not_read_if_nothing_is_due(tree: SampleTree, monkeypatch: pytest.MonkeyPatch, *, dry_run: bool) -> None:
    from tests.support.in_process import cleaned

    logs: list[MessageLog] = []
    original = MessageLog.read

    def read(log: MessageLog, descriptor: int, stopping: Callable[[], bool]) -> None:
        logs.append(log)
        original(log, descriptor, stopping)

    monkeypatch.setattr(MessageLog, "read", read)
    tree.session("by-file", files={"f": 1}, age_days=1)
    tree.session("by-row", files={"f": 1}, age_days=30)
    tree.session_row("by-row", tree.ago(1))
    tree.messages.write_bytes(b"no message")
    summary, _ = cleaned(tree, dry_run=dry_run)
    assert (summary.sessions_kept, summary.failures, logs) == ({"recent_files": 1, "active": 1}, (), [])
    tree.session("due", files={"f": 1}, age_days=30)
    assert cleaned(tree, dry_run=dry_run)[0].sessions_kept["activity_unknown"] == 1
    assert logs


def test_a_turn_keeps_a_session_that_is_in_doubt_by_all_else(tree: SampleTree) -> None:
    from tests.support.in_process import cleaned

    tree.session("s", files={"f": 1}, age_days=30)
    tree.session_row("s", tree.ago(30))
    with closing(sqlite3.connect(tree.database)) as server, server:
        server.execute("UPDATE sessions SET started_at = 'yesterday'")
    assert cleaned(tree)[0].sessions_kept == {"activity_unknown": 1}
    tree.turn("s", tree.ago(1))
    assert cleaned(tree)[0].sessions_kept == {"active": 1}


@pytest.mark.parametrize("change", ["replaced", "shorter", "moved"])
def test_messages_that_change_otherwise_than_by_a_turn_keep_the_rest(
    tree: SampleTree, monkeypatch: pytest.MonkeyPatch, change: str
) -> None:
    from tests.support.disturbance import disturb
    from tests.support.in_process import cleaned

    tree.workstream("blog", "My blog", {})
    tree.session("s", files={"f": 1}, age_days=30)
    tree.turn("other", tree.ago(20), workstream="blog")
    path = tree.workstreams / "blog" / "messages.jsonl"

    def disturbance(name: str) -> None:
        if name != "s":
            return
        if change == "replaced":
            path.rename(path.with_name("old"))
            path.write_bytes(path.with_name("old").read_bytes())
        if change == "shorter":
            os.truncate(path, 5)
        if change == "moved":
            path.parent.rename(path.parent.with_name("promoted"))

    disturb(monkeypatch, disturbance)
    summary, _ = cleaned(tree)
    assert summary.sessions_kept == ({} if change == "moved" else {"activity_unknown": 1})


# As logrotate, editors and people name them.
BESIDE = ("messages.jsonl.1.gz", "messages.jsonl-20261128", "messages.jsonl~", "messages.old.jsonl", "messages (copy).jsonl")


@pytest.mark.parametrize(
    ("where", "state"),
    [
        *product(["scratch", "blog"], ["missing", "empty", *BESIDE, "no message"]),
        ("a-workstream-that-is-gone", "missing"),
    ],
)
def test_messages_that_are_lost_prove_nothing(run: RunCommand, tree: SampleTree, where: str, state: str) -> None:
    tree.workstream("blog", "My blog", {})
    tree.session("s", files={"f": 1}, age_days=30)
    tree.session_row("other", tree.ago(30), workstream=where)
    path = tree.workstreams / where / "messages.jsonl"
    assert clean(run, tree, "--dry-run").reasons() == {"s": "expired"}
    if state in ("missing", "empty"):
        with closing(sqlite3.connect(tree.database)) as server, server:
            server.execute("UPDATE sessions SET turn_count = 2")
    if state in ("empty", "no message"):
        path.write_bytes(b"" if state == "empty" else b"\0" * 5000)
    if state in BESIDE:
        path.with_name(state).touch()
    done = clean(run, tree)
    assert (done.code, done.reasons()) == (1, {"s": "activity_unknown"})
    assert f"read workstreams/{where}/messages.jsonl" in done.stderr


@pytest.mark.parametrize("age", [3, 20])
@pytest.mark.parametrize("where", ["scratch", "blog"])
@pytest.mark.parametrize("beside", BESIDE)
def test_messages_that_were_rotated_away_may_hold_turns_until_they_are_old(
    run: RunCommand, tree: SampleTree, where: str, age: float, beside: str
) -> None:
    tree.workstream("blog", "My blog", {})
    for name in ("s", "t"):
        tree.session(name, files={"f": 1}, age_days=30)
    tree.turn("s", tree.ago(30), workstream=where)
    rotated = tree.workstreams / where / beside
    rotated.write_text("{}\n")
    set_age(rotated, tree.ago(age))
    done = clean(run, tree)
    kept = {"s": "activity_unknown", "t": "activity_unknown"}
    assert (done.code, done.reasons()) == ((1, kept) if age < 7 else (0, dict.fromkeys(kept, "expired")))
    assert (f"workstreams/{where}/{beside} is not read" in done.stderr) is (age < 7)


@pytest.mark.parametrize("directory", ["blog.bak", "My blog", ".blog"])
def test_a_turn_in_a_workstream_that_somebody_renamed_keeps_its_session(run: RunCommand, tree: SampleTree, directory: str) -> None:
    for name in ("s", "t"):
        tree.session(name, files={"f": 1}, age_days=30)
    (tree.workstreams / directory).mkdir()
    (tree.workstreams / "lost+found").mkdir(mode=0)
    tree.turn("s", tree.ago(1), workstream=directory)
    assert clean(run, tree).reasons() == {"s": "active", "t": "expired"}


@pytest.mark.parametrize("lost", ["messages", "database"])
def test_evidence_that_is_lost_in_mid_run_keeps_the_rest_with_exit_1(tree: SampleTree, monkeypatch: pytest.MonkeyPatch, lost: str) -> None:
    from tests.support.disturbance import disturb
    from tests.support.in_process import cleaned

    for name in ("a", "b"):
        tree.session(name, files={"f": 1}, age_days=30)
        tree.turn(name, tree.ago(30))

    def lose(name: str) -> None:
        if name == "b":
            if lost == "messages":
                tree.messages.unlink()
            else:
                tree.database.write_bytes(b"garbage" * 1000)

    disturb(monkeypatch, lose)
    summary, _ = cleaned(tree)
    assert summary.sessions_kept == {"activity_unknown": 2}
    assert len(summary.failures) == 1
    assert sorted(os.listdir(tree.sessions)) == ["a", "b"]


def test_no_evidence_is_read_of_what_is_no_session(tmp_path: Path) -> None:
    from tests.support.in_process import cleaned

    main = MainTree(tmp_path / "arawn", time.time_ns())
    (main.sessions / "notes" / "messages.jsonl").mkdir(parents=True)
    summary, _ = cleaned(main)
    assert (summary.sessions_kept, summary.failures) == ({"foreign_name": 1}, ())


@needs_setpriv
def test_a_folder_that_cannot_be_read_in_a_kept_session_is_reported(run: RunCommand, tree: SampleTree) -> None:
    directory = tree.session("s", files={"closed/f": 1, "g": 1}, age_days=1)
    os.chown(directory / "work" / "closed", 65534, 65534)
    (directory / "work" / "closed").chmod(0o700)
    done = run("scratch-cleanup", "--base-path", tree.root, prefix=WITHOUT_FILE_POWERS)
    assert (done.code, done.reasons()) == (1, {"s": "recent_files"})
    assert done.stderr.count("Permission denied") == 1
