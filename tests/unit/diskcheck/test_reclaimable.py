"""What an alert says that a cleanup would free, and what a cleanup then frees."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from arawn_cli.arawn.root import opened_root
from arawn_cli.check_events import DiskPressure
from arawn_cli.diskcheck.measuring import measure_root
from arawn_cli.diskcheck.reclaimable import removal_now
from arawn_cli.errors import StoppedError
from arawn_cli.fs.usage import combined
from arawn_cli.timestamps import DAY
from tests.support.in_process import checked, cleaned, configuration_of, context
from tests.support.limits import MIB, configured
from tests.support.tree import SampleTree, write

__all__ = ["configured"]


def test_what_would_help_is_what_a_cleanup_then_frees(tree: SampleTree, configured: Callable[..., Path]) -> None:
    config = configured(total_gb=0.001, cleanup={"protect": ["keep-*"]})
    tree.workstream("blog", "My blog", {"work/f": 2 * MIB})
    for name, days in (("old", 30), ("older", 60), ("keep-me", 30), ("fresh", 1)):
        tree.session(name, files={"f": MIB}, age_days=days)
    tree.turn("older", tree.ago(1))
    os.link(tree.sessions / "old" / "work" / "f", tree.workstreams / "blog" / "work" / "linked")
    write(tree.sessions / "old" / "work" / "own", 1000)
    os.utime(tree.sessions / "old" / "work" / "own", ns=(0, 0))
    os.utime(tree.sessions / "old" / "work", ns=(0, 0))
    _, events = checked(tree, config)
    promised = {event.scope: event.reclaimable_bytes for event in events if isinstance(event, DiskPressure)}
    assert promised == {"total": 1000}
    assert cleaned(tree, config=config)[0].bytes_freed == 1000


@pytest.mark.parametrize(("days_later", "more", "freed"), [(4, 0, 0), (6, 0, 700), (6, 2, 0)])
def test_the_trash_counts_as_reclaimable_as_soon_as_a_cleanup_purges_it(
    tree: SampleTree, configured: Callable[..., Path], days_later: int, more: int, freed: int
) -> None:
    config = configured(workstream=100, cleanup={"trash_days": 5, "max_sessions": 1})
    tree.workstream("blog", "My blog", {"work/f": 2 * MIB})
    tree.session("old", files={"f": 700}, age_days=30)
    cleaned(tree, config=config)
    for number in range(more):  # above the removal limit, a cleanup purges nothing
        tree.session(f"s{number}", files={"f": 100}, age_days=30)
    later = tree.now + days_later * DAY
    _, events = checked(tree, config, now=later)
    assert [event.reclaimable_bytes for event in events if isinstance(event, DiskPressure) and event.scope == "scratch"] == [freed]
    assert cleaned(tree, config=config, now=later)[0].bytes_freed == freed


def test_a_session_in_use_does_not_count_as_reclaimable(tree: SampleTree, configured: Callable[..., Path]) -> None:
    config = configured(total_gb=0.001)
    tree.workstream("blog", "My blog", {"work/f": 2 * MIB})
    for name in ("free", "used"):
        tree.session(name, files={"f": 700}, age_days=30)
    with subprocess.Popen(["cat"], cwd=tree.sessions / "used" / "work", stdin=subprocess.PIPE) as process:
        _, events = checked(tree, config)
        process.communicate()
    assert [event.reclaimable_bytes for event in events if isinstance(event, DiskPressure)] == [700]


def test_a_cleanup_that_would_keep_everything_in_doubt_would_free_nothing(tree: SampleTree, configured: Callable[..., Path]) -> None:
    tree.workstream("blog", "My blog", {"work/f": 2 * MIB})
    tree.session("old", files={"f": 700}, age_days=30)
    tree.database.write_bytes(b"no database" * 100)
    result, events = checked(tree, configured(total_gb=0.001))
    assert [event.reclaimable_bytes for event in events if isinstance(event, DiskPressure)] == [0]
    assert not result.summary.complete


def test_turns_count_although_a_budget_selects_only_sessions_that_are_older_than_the_due_ones(
    tree: SampleTree, configured: Callable[..., Path]
) -> None:
    tree.workstream("blog", "My blog", {"work/f": 2 * MIB})
    tree.session("old", files={"f": 700}, age_days=10)
    tree.turn("old", tree.ago(1))
    _, events = checked(tree, configured(total_gb=0.001, cleanup={"max_total": MIB, "min_age_days": 20}))
    assert [event.reclaimable_bytes for event in events if isinstance(event, DiskPressure)] == [0]


def test_a_signal_ends_the_search_for_what_a_cleanup_would_free(tree: SampleTree, configured: Callable[..., Path]) -> None:
    tree.session("s", files={"f": 700}, age_days=30)
    config = configuration_of(tree, configured(cleanup={"trash_days": 0}))
    run = context(tree.now, [], config.state_directory)
    with opened_root(config.root, config.databases) as root:
        measured = measure_root(root, config, run, {})
        found = removal_now(root, config, measured, tree.now, run.stopping)
        assert found is not None
        assert found.freed.freed_bytes == combined(measured.sessions.values()).freed_bytes
        with pytest.raises(StoppedError):
            removal_now(root, config, measured, tree.now, lambda: True)
