"""`disk-check` through the installed command, on real trees."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import psutil
import pytest

from arawn_cli.diskcheck.levels import ScopeUsage, level_of, reaches, worst
from arawn_cli.events import Level
from tests.conftest import Run, RunCommand, snapshot
from tests.support.tree import SampleTree, write
from tests.unit.fs.test_measure import du_files

MIB = 1024**2


def check(run: RunCommand, tree: SampleTree, *arguments: object) -> Run:
    return run("disk-check", "--base-path", tree.root, *arguments)


def limited(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "limits.toml"
    path.write_text(text)
    return path


@pytest.fixture
def filled(tree: SampleTree) -> SampleTree:
    blog = tree.workstream("blog", "My blog", {"production/a": 1000, "work/b": 2000, "messages.jsonl": 30, "sessions/left/f": 500})
    tree.session("one", files={"f": 400}, age_days=1)
    tree.session("two", files={"f": 50}, age_days=20)
    tree.turn("one", tree.ago(1))
    tree.session_row("attached", tree.ago(2), workstream="blog")
    os.link(blog / "production" / "a", tree.sessions / "one" / "linked")
    with (blog / "work" / "sparse").open("wb") as file:
        file.truncate(MIB)
    write(tree.workstreams / "stray", 7)
    write(tree.workstreams / "not an id" / "f", 9)
    (tree.workstreams / "a link").symlink_to("/usr")
    write(tree.sessions.parent / ".trash" / "gone.20260101T000000Z.0123abcd" / "f", 60)
    return tree


def test_the_total_is_what_du_counts_of_regular_files(run: RunCommand, filled: SampleTree) -> None:
    before = snapshot(filled.root)
    done = check(run, filled)
    assert done.code == 0, done.stderr
    assert done.last["total_usage_bytes"] == du_files(filled.workstreams)
    assert snapshot(filled.root) == before
    assert done.last["foreign"] == [{"name": "a link", "bytes": 0}, {"name": "not an id", "bytes": 9}, {"name": "stray", "bytes": 7}]
    assert done.last["trash_bytes"] == 60


def test_each_workstream_is_told_by_area(run: RunCommand, filled: SampleTree) -> None:
    blog, scratch = check(run, filled).of_type("workstream_usage")
    told = {
        key: blog[key] for key in ("workstream_id", "workstream_name", "production_bytes", "work_bytes", "other_bytes", "sessions", "files")
    }
    expected = {
        "workstream_id": "blog",
        "workstream_name": "My blog",
        "production_bytes": 1000,
        "work_bytes": 2500 + MIB,
        "other_bytes": 30,
    }
    assert told == {**expected, "sessions": 1, "files": 5}
    assert (blog["total_bytes"], blog["largest_file_bytes"]) == (3530 + MIB, MIB)
    messages = filled.messages.stat().st_size
    assert (scratch["work_bytes"], scratch["other_bytes"], scratch["sessions"]) == (1450, 60 + messages, 2)
    assert scratch["is_scratch"] is True


def test_the_filesystem_is_told_as_psutil_sees_it(run: RunCommand, filled: SampleTree) -> None:
    filesystem = check(run, filled).last["filesystem"]
    space = psutil.disk_usage(str(filled.root))
    assert isinstance(filesystem, dict)
    assert filesystem["total_bytes"] == space.total
    df = subprocess.run(["df", "--output=target", str(filled.root)], capture_output=True, text=True, check=True)
    assert filesystem["mountpoint"] == df.stdout.split()[-1]
    assert 0 < filesystem["used_inodes"] <= filesystem["total_inodes"]


def test_scopes_above_their_limit_raise_pressure_that_both_clients_read(run: RunCommand, filled: SampleTree, tmp_path: Path) -> None:
    config = limited(tmp_path, "[maintenance.pressure]\nsession = '0.0005MiB'\n[maintenance.pressure.limits]\n'My blog' = 900000\n")
    done = check(run, filled, "--config", config)
    events = done.of_type("disk_pressure")
    assert {event["scope"]: event["level"] for event in events} == {"blog": "warning", "session:one": "critical"}
    assert done.last["pressure_events"] == 2
    assert done.last["level"] == "critical"
    blog = events[0]
    usage = 3530 + MIB
    assert (blog["usage_bytes"], blog["limit_bytes"], blog["usage_mb"], blog["limit_mb"]) == (usage, 900_000, 1.052, 0.9)
    assert (blog["percent"], blog["workstream_id"], blog["workstream_name"]) == (usage * 100 // 900_000, "blog", "My blog")
    assert events[1]["percent"] == 255
    assert done.code == 0


@pytest.mark.parametrize(
    ("limit", "fail_on", "code"), [(800_000, "warning", 3), (800_000, "critical", 0), (400_000, "critical", 3), (10**9, "warning", 0)]
)
def test_fail_on_sets_the_exit_code(run: RunCommand, filled: SampleTree, tmp_path: Path, limit: int, fail_on: str, code: int) -> None:
    config = limited(tmp_path, f"[maintenance.pressure.limits]\nblog = {limit}\n")
    assert check(run, filled, "--config", config, "--fail-on", fail_on).code == code


def test_allocated_bytes_can_be_the_measure(run: RunCommand, filled: SampleTree, tmp_path: Path) -> None:
    config = limited(tmp_path, "[maintenance.pressure]\nmeasure = 'allocated'\n")
    blog = check(run, filled, "--config", config).of_type("workstream_usage")[0]
    du = subprocess.run(["du", "-s", "-B1", str(filled.workstreams / "blog")], capture_output=True, text=True, check=True)
    assert blog["total_bytes"] == blog["allocated_bytes"] == int(du.stdout.split()[0])


def test_a_limit_that_matches_nothing_is_told(run: RunCommand, filled: SampleTree, tmp_path: Path) -> None:
    config = limited(tmp_path, "[maintenance.pressure.limits]\n'My blogg' = '1GiB'\n")
    assert "'My blogg' is neither the id nor the title of a workstream" in check(run, filled, "--config", config).stderr


def test_the_table_shows_workstreams_pressure_and_verdict(run: RunCommand, filled: SampleTree, tmp_path: Path) -> None:
    config = limited(tmp_path, "[maintenance.pressure.limits]\nblog = 900000\n")
    out = check(run, filled, "--config", config, "--format", "table").stdout
    for piece in ("My blog", "Scratch", "117%", "warning: My blog is at 117% of its limit", "foreign files: 16 bytes"):
        assert piece in " ".join(out.split())


def test_format_none_prints_nothing(run: RunCommand, filled: SampleTree) -> None:
    assert check(run, filled, "--format", "none").stdout == ""


@pytest.mark.parametrize(
    ("usage", "level"), [(100, Level.OK), (101, Level.WARNING), (200, Level.WARNING), (201, Level.CRITICAL), (0, Level.OK)]
)
def test_warning_above_the_limit_and_critical_above_twice_the_limit(usage: int, level: Level) -> None:
    assert level_of(ScopeUsage("total", "", usage, 100, 200, complete=True)) is level


def test_the_worst_level_counts() -> None:
    assert worst([]) is Level.OK
    assert worst([Level.OK, Level.CRITICAL, Level.WARNING]) is Level.CRITICAL
    assert reaches(Level.CRITICAL, Level.WARNING)
    assert not reaches(Level.UNKNOWN, Level.WARNING)
    assert not reaches(Level.WARNING, Level.CRITICAL)
