"""A plan written by one run and carried out by another."""

from __future__ import annotations

import json
import os
import re
from pathlib import Path

import pytest

from tests.conftest import RunCommand, snapshot
from tests.support.tree import SampleTree, set_age, write


@pytest.fixture
def plan(run: RunCommand, tree: SampleTree, tmp_path: Path) -> Path:
    """The plan of a dry run with two removals and one session that is kept."""
    tree.session("a", files={"f": 10}, age_days=30)
    tree.session("b", files={"f": 20}, age_days=40)
    tree.session("new", files={"f": 1}, age_days=1)
    path = tmp_path / "plans" / "plan.json"
    path.parent.mkdir()
    before = snapshot(tree.root)
    assert run("scratch-cleanup", "--base-path", tree.root, "--dry-run", "--plan-out", path).code == 0
    assert snapshot(tree.root) == before
    assert os.listdir(path.parent) == ["plan.json"]
    return path


def test_a_plan_describes_each_session(plan: Path, tree: SampleTree) -> None:
    written = json.loads(plan.read_text())
    assert (written["version"], written["root"], written["older_than_days"]) == (1, str(tree.root), 7)
    by_id = {session.pop("session_id"): session for session in written["sessions"]}
    status = (tree.sessions / "a").stat()
    assert {key: by_id["a"][key] for key in ("device", "inode", "bytes", "reason")} == {
        "device": status.st_dev,
        "inode": status.st_ino,
        "bytes": 10,
        "reason": "expired",
    }
    assert by_id["a"]["last_activity_ns"] == tree.ago(30)
    assert {key: by_id[key]["reason"] for key in by_id} == {"a": "expired", "b": "expired", "new": "recent_files"}


def test_only_sessions_that_still_match_a_plan_are_removed(run: RunCommand, tree: SampleTree, plan: Path) -> None:
    write(tree.sessions / "b" / "work" / "g", 5)
    set_age(tree.sessions / "b", tree.ago(20))
    tree.session("c", files={"f": 1}, age_days=50)
    done = run("scratch-cleanup", "--base-path", tree.root, "--apply", plan)
    assert done.code == 0
    assert done.reasons() == {"a": "expired", "b": "changed_since_plan", "c": "changed_since_plan", "new": "recent_files"}
    details = {str(event["session_id"]): str(event["detail"]) for event in done.of_type("scratch_session")}
    assert re.fullmatch(r"last activity at \S+Z, planned with \S+Z", details["b"])
    assert details["c"] == "it is not in the plan"
    assert sorted(os.listdir(tree.sessions)) == ["b", "c", "new"]


def test_a_session_recreated_under_a_planned_name_stays(run: RunCommand, tree: SampleTree, plan: Path) -> None:
    (tree.sessions / "a").rename(tree.root / "moved")
    tree.session("a", files={"f": 10}, age_days=30)
    done = run("scratch-cleanup", "--base-path", tree.root, "--apply", plan)
    assert done.reasons()["a"] == "changed_since_plan"
    assert "replaced since the plan was made" in [event["detail"] for event in done.of_type("scratch_session")]


@pytest.mark.parametrize(
    ("change", "code", "message"),
    [
        ({"version": 2}, 77, "another version"),
        ({"root": "/elsewhere"}, 77, "a plan for /elsewhere"),
        ({"sessions": [{"session_id": "a"}]}, 78, "is not a plan"),
        ({"more": 1}, 78, "is not a plan"),
    ],
)
def test_a_plan_that_does_not_fit_is_refused(
    run: RunCommand, tree: SampleTree, plan: Path, change: dict[str, object], code: int, message: str
) -> None:
    plan.write_text(json.dumps({**json.loads(plan.read_text()), **change}))
    done = run("scratch-cleanup", "--base-path", tree.root, "--apply", plan)
    assert (done.code, done.stdout) == (code, "")
    assert message in done.stderr
    assert len(os.listdir(tree.sessions)) == 3


def test_a_plan_that_cannot_be_read_or_written_ends_the_run_before_anything_goes(run: RunCommand, tree: SampleTree, tmp_path: Path) -> None:
    tree.session("a", files={"f": 10}, age_days=30)
    for option in ("--apply", "--plan-out"):
        done = run("scratch-cleanup", "--base-path", tree.root, option, tmp_path / "none" / "plan.json")
        assert (done.code, "No such file" in done.stderr) == (78, True)
        assert os.listdir(tree.sessions) == ["a"]
