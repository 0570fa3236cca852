"""The same numbers in every output, before and after a cleanup, with and without a trash."""

from __future__ import annotations

import io
import re
from collections.abc import Callable, Iterable
from pathlib import Path

import pytest
from rich.console import Console, RenderableType

from arawn_cli.check_events import DiskPressure
from arawn_cli.cleanup_events import ScratchCleanup, ScratchSessionEvent
from arawn_cli.events import Event
from arawn_cli.output.nagios import status
from arawn_cli.output.prometheus import StateFigures, check_metrics, cleanup_metrics
from arawn_cli.output.report_html import page
from arawn_cli.output.report_text import check_renderables
from arawn_cli.output.tables import Tables
from arawn_cli.timestamps import DAY
from arawn_cli.timestamps import render as timestamp
from arawn_cli.units import size
from tests.support.in_process import checked, cleaned, configuration_of, reported
from tests.support.limits import MIB, configured
from tests.support.reports import text
from tests.support.tree import SampleTree

__all__ = ["configured"]


def shown(events: list[Event]) -> str:
    """What the table of a run says, on one line."""
    console = Console(file=io.StringIO(), width=300)
    tables = Tables(console, verbose=False)
    for event in events:
        tables.emit(event)
    return _words(console)


def drawn(renderables: Iterable[RenderableType]) -> str:
    """What a screen says, on one line."""
    console = Console(file=io.StringIO(), width=300)
    for renderable in renderables:
        console.print(renderable)
    return _words(console)


def _words(console: Console) -> str:
    assert isinstance(console.file, io.StringIO)
    return " ".join(console.file.getvalue().split())


def actions(events: list[Event]) -> dict[str, str]:
    return {event.session_id: event.action for event in events if isinstance(event, ScratchSessionEvent)}


def metrics(summary: ScratchCleanup, events: list[Event]) -> dict[str, float]:
    sessions = [event for event in events if isinstance(event, ScratchSessionEvent)]
    return {metric.name: metric.samples[0][1] for metric in cleanup_metrics(summary, sessions, StateFigures(), succeeded=True)}


def plain(html: str) -> str:
    return " ".join(re.sub(r"<[^>]+>", " ", html).split())


@pytest.mark.parametrize(("days", "total_gb"), [(0, 10), (3, 10), (3, 0.001)], ids=["no trash", "trash", "trash under pressure"])
def test_all_outputs_say_the_same_before_and_after_a_cleanup(
    tree: SampleTree, configured: Callable[..., Path], days: int, total_gb: float
) -> None:
    config = configured(cleanup={"trash_days": days or 3})
    tree.workstream("blog", "My blog", {"work/f": 2 * MIB})
    tree.session("purged", files={"f": 5 * MIB}, age_days=40)
    tree.now -= 3 * DAY  # this one is in the trash for three days
    cleaned(tree, config=config)
    tree.now += 3 * DAY
    config = configured(total_gb=total_gb, workstream=MIB, cleanup={"trash_days": days})
    days = days if total_gb == 10 else 0  # under pressure nothing stays in the trash
    tree.session("due", files={"f": 3 * MIB}, age_days=30)
    tree.session("fresh", files={"f": MIB}, age_days=1)
    freed, trashed = (5 * MIB, 3 * MIB) if days else (8 * MIB, 0)
    until = timestamp(tree.now + 3 * DAY)[:16].replace("T", " ")
    removal = f"1 session of 2: {size(3 * MIB)}, in the trash until {until} UTC. " if days else "1 session of 2. "

    # Before: the dry run, the alert, the report in both forms and the metrics promise the same.
    expected, dry = cleaned(tree, config=config, dry_run=True)
    assert (expected.bytes_freed, expected.bytes_trashed, expected.sessions_cleaned) == (freed, trashed, 1)
    assert f"Would remove {removal}Would free {size(freed)}." in shown(dry)
    assert actions(dry) == {"due": "would_trash" if days else "would_delete", "fresh": "kept"}
    result, alerts = checked(tree, config)
    assert {event.reclaimable_bytes for event in alerts if isinstance(event, DiskPressure) and event.scope in ("scratch", "total")} == {
        freed
    }
    assert f"A cleanup would free {size(freed)}." in drawn(check_renderables(result, verbose=False))
    report = reported(tree, config)
    assert report.cleanup is not None
    assert (report.cleanup.freed, report.cleanup.trashed) == (freed, trashed)
    promise = f"1 session{f': {size(trashed)}, in the trash until {until} UTC' if days else ''}. It would free {size(freed)}"
    for form in (text(report, width=300), plain(page(report))):
        assert f"A cleanup now would remove {promise}" in form
    total = {metric.name: metric.samples for metric in check_metrics(result, configuration_of(tree, config), StateFigures())}
    assert total["trash_bytes"] == [({}, 5 * MIB)]
    before = status(result, [])[0]

    # After: what was promised was done, and nothing is promised any more.
    done, real = cleaned(tree, config=config)
    assert (done.bytes_freed, done.bytes_trashed, done.cleaned_session_ids) == (freed, trashed, expected.cleaned_session_ids)
    assert f"Removed {removal}Freed {size(freed)}." in shown(real)
    assert actions(real) == {"due": "trashed" if days else "deleted", "fresh": "kept"}
    figures = metrics(done, real)
    assert (figures["last_run_freed_bytes"], figures["last_run_trashed_bytes"], figures["trash_bytes"]) == (freed, trashed, trashed)
    after, _ = checked(tree, config)
    assert result.summary.total_usage_bytes - after.summary.total_usage_bytes == freed
    assert (after.summary.trash_bytes, reported(tree, config).trash) == (trashed, trashed)
    usage = [int(re.search(r"'total'=(\d+)B", line)[1]) for line in (before, status(after, [])[0])]  # type: ignore[index]
    assert usage[0] - usage[1] == freed
    left = reported(tree, config)
    assert left.cleanup is not None
    assert (left.cleanup.freed, left.cleanup.removed) == (0, ())
    assert "A cleanup now would remove nothing: no session is due." in text(left, width=300)
    assert {(removal.session, removal.bytes, removal.purged_at is None) for removal in left.removals} == {
        ("due", 3 * MIB, bool(days)),
        ("purged", 5 * MIB, False),
    }
