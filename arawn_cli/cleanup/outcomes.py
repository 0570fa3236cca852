"""Log, count and emit the actions of a cleanup, and sum them up."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Iterable, Sequence

from arawn_cli import timestamps
from arawn_cli.arawn.root import Root
from arawn_cli.cleanup.chats import chat_result
from arawn_cli.cleanup.history import Removal, Removed
from arawn_cli.cleanup.sessions import Decision, Outcome
from arawn_cli.cleanup.trash import Purged
from arawn_cli.cleanup_events import Action, ExpiringSession, ScratchCleanup, ScratchSessionEvent
from arawn_cli.config.loader import Config
from arawn_cli.context import RunContext
from arawn_cli.errors import FAILURES_LISTED, Failure
from arawn_cli.events import UNRESOLVED, FailureReport, Reason, rendered, report_failure
from arawn_cli.names import escape
from arawn_cli.problems import persistent
from arawn_cli.timestamps import DAY
from arawn_cli.units import size

log = logging.getLogger(__name__)

_LOGGED_FAILURES_MAX = 3  # of one session
_EXPIRING_MAX = 50  # in the summary

# A session that is kept for one of these reasons needs attention.
_WARNING_REASONS = UNRESOLVED | {Reason.FUTURE_TIMESTAMP}


class Outcomes:
    """The outcomes of one run so far.

    Attributes:
        events: the event of each session.
        outcomes: the outcome of each session.
        purged: the entries of the trash that it purged, or in a dry run would purge.
        restored: the sessions that it put back, with the times of their removals.
        over_budget: bytes by which a budget is still exceeded.
        expiring: the sessions that become due soon, oldest activity first; None if nobody asked.
        no_sessions: why there is no directory of scratch sessions, else None.
    """

    def __init__(self, config: Config, context: RunContext, root: Root, now: int) -> None:
        """Begin a run on an open root at `now`."""
        self.events: list[ScratchSessionEvent] = []
        self.outcomes: list[Outcome] = []
        self.purged: list[Purged] = []
        self.restored: dict[str, int] = {}
        self.over_budget = 0
        self.expiring: Sequence[Decision] | None = None
        self.no_sessions: str | None = None
        self._config = config
        self._context = context
        self._root = root
        self._now = now
        self._failures: list[FailureReport] = []
        self._failure_count = 0
        self._shared_failures: set[FailureReport] = set()

    def keep(self, decision: Decision) -> None:
        """Add the outcome of a session that stays."""
        self.add(Outcome(decision.session, Action.KEPT, decision.reason, detail=decision.detail))

    def add(self, outcome: Outcome) -> None:
        """Log, count and emit an outcome."""
        session, usage = outcome.session, outcome.session.usage
        self.add_evidence_failures(session.evidence.shared_failures)  # logged once, and not again for each session
        failures = (*outcome.failures, *session.evidence.own_failures, *(usage.failures if usage else ()))
        for failure in failures:
            self._count_failure(report_failure(failure, session.name))
        self._failure_count += usage.unlisted_failures if usage else 0
        self.outcomes.append(outcome)

        shared_causes = [str(failure) for failure in session.evidence.shared_failures]
        causes = [str(failure) for failure in failures]
        detail = outcome.detail or next(iter(causes + shared_causes if outcome.reason in UNRESOLVED else ()), "")
        last_turn = rendered(session.evidence.last_turn)
        level = logging.ERROR if failures else logging.WARNING if outcome.reason in _WARNING_REASONS else logging.INFO
        if log.isEnabledFor(level):
            measured = size(usage.apparent_bytes) if usage else "not measured"
            reason = outcome.reason if not detail or detail in shared_causes else f"{outcome.reason}: {detail}"
            sentence = f"{outcome.action} session {escape(session.name)} ({reason}): last turn {last_turn or 'not found'}, {measured}"
            text = "; ".join([sentence, *(cause for cause in causes[:_LOGGED_FAILURES_MAX] if cause != detail)])
            log.log(level, "%s", text, extra=persistent(f"session {session.name} {outcome.reason}"))

        event = ScratchSessionEvent(
            timestamp=self._context.timestamp(),
            host=self._context.host,
            root=self._config.root_name,
            dry_run=self._config.dry_run,
            session_id=escape(session.name),
            action=outcome.action,
            reason=outcome.reason,
            detail=detail or None,
            last_turn=last_turn,
            last_activity=rendered(session.last_activity),
            bytes=usage.apparent_bytes if usage else None,
            files=usage.files if usage else None,
        )
        self.events.append(event)
        self._context.emit(event)

    def add_evidence_failures(self, failures: Iterable[Failure]) -> None:
        """Log and count failures to read the evidence of all sessions, each of them once.

        Their end is not logged, since a run that does not read the messages cannot know it.
        """
        for failure in failures:
            self.add_failure(failure, ended="")

    def add_failure(self, failure: Failure, session: str | None = None, *, ended: str | None = None) -> None:
        """Log and count a failure that belongs to no outcome, or to several: only once.

        `ended` is the message when the failure is over, as for `persistent`.
        """
        report = report_failure(failure, session)
        if report not in self._shared_failures:
            self._shared_failures.add(report)
            if self._count_failure(report):
                log.error("%s", failure, extra=persistent(f"failure {failure}", ended=ended))

    def _count_failure(self, report: FailureReport) -> bool:
        """Count a failure, and return whether it is one of the first, which are listed."""
        self._failure_count += 1
        is_listed = len(self._failures) < FAILURES_LISTED
        if is_listed:
            self._failures.append(report)
        return is_listed

    def _expiring(self, decision: Decision) -> ExpiringSession:
        session = decision.session
        due = (session.last_activity or self._now) + self._config.older_than_days * DAY
        return ExpiringSession(session_id=escape(session.name), expires=timestamps.render(due))

    def removals(self, ended: int) -> list[Removal]:
        """Return the record of every removal of the run, which ended at this time."""
        return [
            Removal(
                session=outcome.session.name,
                removed_at=outcome.removed_at,
                run=self._now,
                reason=outcome.reason,
                detail=outcome.detail,
                bytes=outcome.session.usage.apparent_bytes if outcome.session.usage else 0,
                purged_at=ended if outcome.action is Action.DELETED else None,
            )
            for outcome in self.outcomes
            if outcome.removed_at is not None
        ]

    @property
    def purged_removals(self) -> list[Removed]:
        """The earlier removals that the run purged."""
        return [purged.entry.removal for purged in self.purged if purged.finished]

    def summary(self, *, trash_bytes: int | None, duration_ms: int) -> ScratchCleanup:
        """Return the last event of the run."""
        cleaned = [outcome for outcome in self.outcomes if outcome.action.is_removal]
        trashed = [outcome for outcome in cleaned if outcome.action in (Action.TRASHED, Action.WOULD_TRASH)]
        kept = Counter(str(outcome.reason) for outcome in self.outcomes if outcome.action is Action.KEPT)
        if self._failure_count > len(self._failures):
            text = "and %s more failures"
            log.error(text, f"{self._failure_count - len(self._failures):,}", extra=persistent("more failures"))
        freed = sum(outcome.freed_bytes for outcome in self.outcomes) + sum(purged.freed_bytes for purged in self.purged)
        return ScratchCleanup(
            timestamp=self._context.timestamp(),
            host=self._context.host,
            root=self._config.root_name,
            dry_run=self._config.dry_run,
            sessions_checked=len(self.outcomes),
            sessions_cleaned=len(cleaned),
            bytes_freed=freed,
            bytes_trashed=sum(outcome.session.usage.apparent_bytes for outcome in trashed if outcome.session.usage),
            trash_until=rendered(self._now + self._config.maintenance.cleanup.trash_days * DAY) if trashed else None,
            database_found=self._root.database is not None,
            chats=chat_result(self._config, self._root.layout),
            no_sessions=self.no_sessions,
            cleaned_session_ids=tuple(outcome.session.name for outcome in cleaned),
            sessions_restored=len(self.restored),
            sessions_kept=dict(sorted(kept.items())),
            failures=tuple(self._failures),
            failure_count=self._failure_count,
            trash_bytes=trash_bytes,
            over_budget_bytes=self.over_budget,
            expiring=None if self.expiring is None else tuple(map(self._expiring, self.expiring[:_EXPIRING_MAX])),
            duration_ms=duration_ms,
        )
