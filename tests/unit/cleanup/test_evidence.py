"""Evidence of use, in trees and databases of every state: what keeps a session."""

from __future__ import annotations

import os
import sqlite3
import time
from contextlib import closing

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from arawn_cli import timestamps
from arawn_cli.timestamps import DAY
from tests.conftest import WITHOUT_FILE_POWERS, RunCommand, needs_setpriv, snapshot
from tests.support.cleanup import clean
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


@pytest.mark.parametrize("row", [True, False])
@pytest.mark.parametrize("message", [True, False])
def test_a_session_old_by_all_evidence_is_removed(run: RunCommand, tree: SampleTree, row: bool, message: bool) -> None:
    tree.session("s", files={"f": 10, "sub/g": 5}, age_days=30)
    if row:
        tree.session_row("s", tree.ago(30), tree.ago(29))
    if message:
        tree.turn("s", tree.ago(28))
    done = clean(run, tree)
    assert (done.code, done.reasons()) == (0, {"s": "expired"})
    assert os.listdir(tree.sessions) == []
    assert list(tree.workstreams.rglob(".trash*")) == []
    event = done.of_type("scratch_session")[0]
    assert (event["action"], event["bytes"], event["files"]) == ("deleted", 15, 2)
    assert done.last["bytes_reclaimed"] == 15
    assert done.last["cleaned_session_ids"] == ["s"]


def test_a_turn_in_the_workstream_that_the_row_names_keeps_a_session(run: RunCommand, tree: SampleTree) -> None:
    tree.workstream("blog", "My blog", {})
    tree.session("s", files={"f": 1}, age_days=30)
    tree.session_row("s", tree.ago(30), workstream="blog")
    tree.turn("s", tree.ago(1), workstream="blog")
    assert clean(run, tree).reasons() == {"s": "active"}


def test_evidence_in_the_future_keeps_a_session(run: RunCommand, tree: SampleTree) -> None:
    tree.session("by-turn", files={"f": 1}, age_days=30)
    tree.turn("by-turn", tree.now + DAY)
    tree.session("by-file", files={"f": 1}, age_days=-3)
    done = clean(run, tree)
    assert done.reasons() == {"by-turn": "future_timestamp", "by-file": "future_timestamp"}
    assert done.stderr.count("future_timestamp") == 2


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


def test_unreadable_messages_of_one_workstream_concern_only_the_sessions_that_moved_there(run: RunCommand, tree: SampleTree) -> None:
    tree.workstream("blog", "My blog", {})
    (tree.workstreams / "blog" / "messages.jsonl").symlink_to("/etc/passwd")
    for name in ("moved", "stayed"):
        tree.session(name, files={"f": 1}, age_days=30)
    tree.session_row("moved", tree.ago(30), workstream="blog")
    done = clean(run, tree)
    assert (done.code, done.reasons()) == (1, {"moved": "activity_unknown", "stayed": "expired"})
    assert done.stderr.count("workstreams/blog/messages.jsonl") == 1


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


@needs_setpriv
def test_a_folder_that_cannot_be_read_in_a_kept_session_is_reported(run: RunCommand, tree: SampleTree) -> None:
    directory = tree.session("s", files={"closed/f": 1, "g": 1}, age_days=1)
    os.chown(directory / "work" / "closed", 65534, 65534)
    (directory / "work" / "closed").chmod(0o700)
    done = run("scratch-cleanup", "--base-path", tree.root, prefix=WITHOUT_FILE_POWERS)
    assert (done.code, done.reasons()) == (1, {"s": "recent_files"})
    assert done.stderr.count("Permission denied") == 1
