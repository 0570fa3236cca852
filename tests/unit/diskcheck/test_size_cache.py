from __future__ import annotations

import os
import shutil
import tracemalloc
from collections.abc import Callable
from datetime import UTC, datetime
from itertools import pairwise
from pathlib import Path

import pytest

from arawn_cli.check_events import DiskCheck, DiskPressure, WorkstreamUsage
from arawn_cli.config.loader import Flags, load
from arawn_cli.diskcheck import size_cache
from arawn_cli.diskcheck.job import check
from arawn_cli.diskcheck.size_cache import CachedSize, is_cacheable, is_current
from arawn_cli.events import Event
from arawn_cli.fs.measure import Subtree, measure_all
from arawn_cli.fs.usage import HardLinks, Usage
from arawn_cli.timestamps import DAY, SECOND
from tests.support import arawn_servers
from tests.support.in_process import checked, context, reported
from tests.support.tree import SampleTree, write

HOUR = 3600 * SECOND


@pytest.fixture
def config(tmp_path: Path) -> Path:
    path = tmp_path / "c.toml"
    path.write_text("[maintenance.pressure]\nremeasure_hours = 24\n")
    return path


@pytest.fixture
def deep(tree: SampleTree) -> Path:
    """A file that is too deep to change the fingerprint."""
    for name in ("one", "two"):
        write(tree.sessions / name / "work" / "a" / "b" / "file", 1000)
        tree.turn(name, tree.ago(3))
    return tree.sessions / "one" / "work" / "a" / "b" / "file"


def grow(file: Path, size: int) -> None:
    write(file, size)


def scratch(events: list[Event]) -> WorkstreamUsage:
    return next(event for event in events if isinstance(event, WorkstreamUsage) and event.is_scratch)


def files_bytes(tree: SampleTree, config: Path, hours: float = 0) -> tuple[int, int]:
    """Bytes of scratch's sessions as a check some hours on sees them, and the age of its oldest
    sample."""
    events = checked(tree, config, now=tree.now + int(hours * HOUR))[1]
    usage = scratch(events)
    assert usage.sample_age_secs == next(event for event in events if isinstance(event, DiskCheck)).sample_age_secs
    return usage.work_bytes, usage.sample_age_secs


def test_without_the_option_everything_is_measured_and_nothing_is_kept(tree: SampleTree, deep: Path, tmp_path: Path) -> None:
    plain = tmp_path / "plain.toml"
    plain.touch()
    assert files_bytes(tree, plain) == (2000, 0)
    grow(deep, 5000)
    assert files_bytes(tree, plain, 1) == (6000, 0)


def test_what_nobody_used_is_taken_from_the_check_before_until_its_time_is_up(tree: SampleTree, deep: Path, config: Path) -> None:
    assert files_bytes(tree, config) == (2000, 0)
    grow(deep, 5000)
    assert files_bytes(tree, config, 1) == (2000, 3600)
    assert files_bytes(tree, config, 2) == (2000, 7200)
    assert files_bytes(tree, config, 24) == (6000, 0)


def test_the_largest_file_of_what_nobody_used_is_remembered_too(tree: SampleTree, deep: Path, config: Path) -> None:
    events = []
    for hours, size in enumerate((3000, 5000)):
        grow(deep, size)
        events.append(scratch(checked(tree, config, now=tree.now + hours * HOUR)[1]).largest_file_bytes)
    assert events == [3000, 3000]


def test_a_scope_is_as_old_as_the_oldest_sample_in_it(tree: SampleTree, deep: Path, config: Path) -> None:
    config.write_text(f"{config.read_text()}total = 1\nworkstream = 1\nsession = 1\n")
    tree.workstream("blog", "My blog", {"work/f": 1000})
    files_bytes(tree, config)
    tree.turn("one", tree.now + HOUR)
    events = checked(tree, config, now=tree.now + 2 * HOUR)[1]
    ages = {event.scope: event.sample_age_secs for event in events if isinstance(event, DiskPressure)}
    assert ages.items() >= {"total": 7200, "scratch": 7200, "session:two": 7200, "session:one": 0, "blog": 0}.items()


def test_a_turn_has_a_session_measured_anew(tree: SampleTree, deep: Path, config: Path) -> None:
    files_bytes(tree, config)
    grow(deep, 5000)
    tree.turn("one", tree.now + HOUR)
    assert files_bytes(tree, config, 2) == (6000, 7200)
    grow(deep, 9000)
    assert files_bytes(tree, config, 3) == (6000, 10800), "one turn has it measured once"


@pytest.mark.parametrize("place", [".", "work", "work/a"])
def test_a_change_in_the_top_directories_has_a_session_measured_anew(tree: SampleTree, deep: Path, config: Path, place: str) -> None:
    files_bytes(tree, config)
    write(tree.sessions / "one" / place / "new", 500)
    assert files_bytes(tree, config, 1) == (2500, 3600)


def test_an_mtime_that_is_put_back_hides_no_change(tree: SampleTree, deep: Path, config: Path) -> None:
    work = deep.parents[2]
    files_bytes(tree, config)
    before = work.stat().st_mtime_ns
    write(work / "new", 500)
    os.utime(work, ns=(before, before))
    assert files_bytes(tree, config, 1) == (2500, 3600)


def test_a_session_that_was_replaced_is_measured_anew(tree: SampleTree, deep: Path, config: Path) -> None:
    files_bytes(tree, config)
    shutil.move(tree.sessions / "one", tree.sessions / "other")
    write(tree.sessions / "one" / "work" / "a" / "b" / "file", 100)
    assert files_bytes(tree, config, 1) == (2100, 3600)


def test_a_turn_in_another_workstream_has_a_session_measured_anew(tree: SampleTree, deep: Path, config: Path) -> None:
    tree.workstream("ws", "Other", {})
    tree.turn(None, tree.ago(1), workstream="ws")
    files_bytes(tree, config)
    tree.turn("one", tree.now + HOUR, workstream="ws")
    grow(deep, 5000)
    assert files_bytes(tree, config, 2) == (6000, 7200)
    grow(deep, 9000)
    assert files_bytes(tree, config, 3) == (6000, 10800)


@pytest.mark.parametrize("change", ["new", "removed"])
def test_messages_of_a_workstream_that_are_new_or_removed_have_everything_measured_anew(
    tree: SampleTree, deep: Path, config: Path, change: str
) -> None:
    tree.workstream("ws", "Other", {})
    if change == "removed":
        tree.turn(None, tree.ago(1), workstream="ws")
    files_bytes(tree, config)
    grow(deep, 5000)
    if change == "removed":
        (tree.workstreams / "ws" / "messages.jsonl").unlink()
    else:
        tree.turn(None, tree.ago(1), workstream="ws")
    assert files_bytes(tree, config, 1) == (6000, 0)


def test_on_main_every_session_is_measured(tmp_path: Path, config: Path) -> None:
    server = arawn_servers.extract("main-stopped", tmp_path / "home")
    last_day = int(datetime(2026, 11, 20, 12, tzinfo=UTC).timestamp()) * SECOND
    settings = load(
        Flags(config=config, base_path=str(server.root)), {"HOME": str(server.home), "STATE_DIRECTORY": str(tmp_path / "state")}
    )
    for hours in (0, 1):
        events: list[Event] = []
        now = last_day + hours * HOUR
        check(settings, context(now, events, settings.state_directory))
        assert next(event for event in events if isinstance(event, DiskCheck)).sample_age_secs == 0


def test_other_messages_have_everything_measured_anew(tree: SampleTree, deep: Path, config: Path) -> None:
    files_bytes(tree, config)
    grow(deep, 5000)
    os.replace(shutil.copy(tree.messages, f"{tree.messages}.new"), tree.messages)
    assert files_bytes(tree, config, 1) == (6000, 0)
    grow(deep, 9000)
    assert files_bytes(tree, config, 2) == (6000, 3600), "and are gone on from"


def test_where_turns_cannot_be_known_everything_is_measured(tree: SampleTree, deep: Path, config: Path) -> None:
    files_bytes(tree, config)
    grow(deep, 5000)
    tree.messages.unlink()
    tree.messages.mkdir()
    assert files_bytes(tree, config, 1) == (6000, 0)


def test_a_clock_that_went_back_has_everything_measured_anew(tree: SampleTree, deep: Path, config: Path) -> None:
    files_bytes(tree, config, 5)
    grow(deep, 5000)
    assert files_bytes(tree, config, 4) == (6000, 0)


def test_a_session_that_was_away_while_it_was_measured_is_not_remembered_as_empty(
    tree: SampleTree, deep: Path, config: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def measuring(start: int, subtrees: list[Subtree], threads: int, advance: Callable[[int], None]) -> list[Usage]:
        (tree.sessions / "one").rename(tree.root / "away")
        try:
            return measure_all(start, subtrees, threads, advance)
        finally:
            (tree.root / "away").rename(tree.sessions / "one")

    with monkeypatch.context() as patched:
        patched.setattr("arawn_cli.diskcheck.measuring.measure_all", measuring)
        assert files_bytes(tree, config) == (1000, 0)
    assert files_bytes(tree, config, 1) == (2000, 3600)


def test_a_report_measures_what_a_check_remembers(tree: SampleTree, deep: Path, config: Path) -> None:
    files_bytes(tree, config)
    grow(deep, 5000)
    report = reported(tree, config)
    assert {session.id: session.size for session in report.sessions} == {"one": 5000, "two": 1000}


def test_sizes_are_measured_anew_in_rotation_and_none_is_older_than_the_period() -> None:
    size = CachedSize(0, "shape", Usage())
    left = [sum(is_current(f"session-{number}", size, "shape", hour * HOUR, DAY) for number in range(1000)) for hour in range(25)]
    assert left[12] == 1000
    assert left[24] == 0
    steps = [before - after for before, after in pairwise(left[12:])]
    assert all(40 < step < 130 for step in steps), steps


def test_what_shares_files_or_fails_is_not_kept() -> None:
    assert is_cacheable(Usage(1, 512, 1, 1, 1, 5))
    assert not is_cacheable(Usage())
    assert not is_cacheable(Usage(2**63, 512, 1, 1, 1, 5))
    assert not is_cacheable(Usage(1, 512, 1, 1, 2**63, 5))
    assert not is_cacheable(Usage(1, 512, 1, 1, 1, 5, {(1, 2): HardLinks(1, 512, 1, 2)}))
    assert not is_cacheable(Usage(1, 512, 1, 1, 1, 5, other_filesystems=("x",)))


def test_a_session_with_too_many_directories_has_no_fingerprint(tmp_path: Path) -> None:
    session = tmp_path / "s"
    for number in range(6000):
        (session / f"{number}").mkdir(parents=True)
    parent = os.open(tmp_path, os.O_RDONLY)
    tracemalloc.start()
    try:
        assert size_cache.fingerprint(parent, "s") is None
        assert tracemalloc.get_traced_memory()[1] < 2**19, "memory does not grow with the session"
    finally:
        tracemalloc.stop()
        os.close(parent)
