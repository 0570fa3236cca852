"""What one cleanup did: each outcome as a log line and an event, and all of them as the last event."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field

from rich.filesize import decimal

from arawn_cli.cleanup_events import ScratchCleanup, ScratchSessionEvent
from arawn_cli.config import Config
from arawn_cli.events import FailureReport, rendered
from arawn_cli.leftovers import Purged
from arawn_cli.model import Failure
from arawn_cli.names import escape
from arawn_cli.scratch_session import Action, Outcome
from arawn_cli.surroundings import Surroundings


@dataclass(slots=True)
class CleanupReport:
    """What has happened in a run so far."""

    outcomes: list[Outcome] = field(default_factory=list)
    purged: list[Purged] = field(default_factory=list)
    failures: list[FailureReport] = field(default_factory=list)
    told: set[FailureReport] = field(default_factory=set)


def failures_of(outcome: Outcome) -> tuple[Failure, ...]:
    """What failed with a session alone; a failed source that all sessions share is reported once for all."""
    usage = outcome.session.usage
    return (*outcome.failures, *outcome.session.evidence.own_failures, *(usage.failures if usage else ()))


def sentence(outcome: Outcome) -> str:
    """What became of a session, for the log."""
    session = outcome.session
    turn = rendered(session.evidence.last_turn) or "not found"
    size = decimal(session.usage.apparent_bytes) if session.usage else "not measured"
    return f"{outcome.action} session {escape(session.name)} ({outcome.reason}): last turn {turn}, {size}"


def session_event(outcome: Outcome, surroundings: Surroundings, config: Config) -> ScratchSessionEvent:
    """What became of a session, as an event."""
    session = outcome.session
    return ScratchSessionEvent(
        timestamp=surroundings.timestamp(),
        host=surroundings.host,
        root=config.root_name,
        dry_run=config.dry_run,
        session_id=escape(session.name),
        action=outcome.action,
        reason=outcome.reason,
        last_turn=rendered(session.evidence.last_turn),
        last_activity=rendered(session.last_activity),
        bytes=session.usage.apparent_bytes if session.usage else None,
        files=session.usage.files if session.usage else None,
    )


def summary_event(
    report: CleanupReport, surroundings: Surroundings, config: Config, *, trash_bytes: int, duration_ms: int
) -> ScratchCleanup:
    """A whole run, as its last event."""
    cleaned = [outcome for outcome in report.outcomes if outcome.action in (Action.DELETED, Action.WOULD_DELETE)]
    stayed = Counter(str(outcome.reason) for outcome in report.outcomes if outcome.action in (Action.KEPT, Action.SKIPPED))
    freed = sum(outcome.freed_bytes for outcome in report.outcomes) + sum(purged.freed_bytes for purged in report.purged)
    return ScratchCleanup(
        timestamp=surroundings.timestamp(),
        host=surroundings.host,
        root=config.root_name,
        dry_run=config.dry_run,
        sessions_checked=len(report.outcomes),
        sessions_cleaned=len(cleaned),
        bytes_reclaimed=freed,
        cleaned_session_ids=tuple(outcome.session.name for outcome in cleaned),
        sessions_skipped=dict(sorted(stayed.items())),
        failures=tuple(report.failures),
        trash_bytes=trash_bytes,
        duration_ms=duration_ms,
    )
