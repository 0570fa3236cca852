"""Run `scratch-cleanup`: evidence, plan, removal, events."""

from __future__ import annotations

import logging
import os
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace

from arawn_cli.arawn.root import Root, opened_root, opened_sessions, reason_for_no_sessions, writable_by_group
from arawn_cli.cleanup.chats import ChatNeeds, chat_result, removable, why_chats_cannot_be_kept
from arawn_cli.cleanup.evidence import Evidence, decide_by_evidence, read_evidence
from arawn_cli.cleanup.obstacles import explained
from arawn_cli.cleanup.plan import Policy, RemovalLimit, block_all, keep_unapproved, sessions_to_measure, useless_patterns
from arawn_cli.cleanup.plan_file import plan_output, read_plan, render_plan
from arawn_cli.cleanup.removal import SessionRemover
from arawn_cli.cleanup.sessions import Decision, Outcome, ScratchSession, SessionsDirectory, list_sessions
from arawn_cli.cleanup.trash import (
    Purged,
    is_due,
    is_in_trash,
    list_trash_entries,
    locked,
    measure_entries,
    missing_permission,
    purge,
    put_back,
    remove_empty_trash,
    trash_usage,
)
from arawn_cli.cleanup.trash_entry import TrashEntry, TrashState
from arawn_cli.config.loader import Config
from arawn_cli.context import RunContext
from arawn_cli.errors import FAILURES_LISTED, ConfigurationError, ExitCode, Failure, StoppedError
from arawn_cli.events import (
    UNRESOLVED,
    Action,
    FailureReport,
    JobName,
    Reason,
    ScratchCleanup,
    ScratchSessionEvent,
    rendered,
    report_failure,
)
from arawn_cli.fs.measure import Subtree, measure_all, threads_for
from arawn_cli.fs.openat import identity_of
from arawn_cli.names import escape
from arawn_cli.runs import Clocks, Run, check_clock, longest_gap, record
from arawn_cli.timestamps import DAY, SECOND
from arawn_cli.units import period, size

log = logging.getLogger(__name__)

_LOGGED_FAILURES_MAX = 3  # of one session

# A session that is kept for one of these reasons needs attention.
_WARNING_REASONS = UNRESOLVED | {Reason.FUTURE_TIMESTAMP}


@dataclass(frozen=True, slots=True)
class CleanupResult:
    """The result of a cleanup: its last event, and the events of all scratch sessions."""

    summary: ScratchCleanup
    sessions: tuple[ScratchSessionEvent, ...]

    @property
    def exit_code(self) -> ExitCode:
        """Return 77 if a removal limit stopped the run, 1 if something failed or a due session may stay for ever, else 0."""
        kept = self.summary.sessions_kept.keys()
        if Reason.REMOVAL_LIMIT in kept:
            return ExitCode.REFUSED
        return ExitCode.PARTIAL if self.summary.failures or UNRESOLVED & kept else ExitCode.DONE


def clean(config: Config, context: RunContext) -> CleanupResult:
    """Remove the inactive scratch sessions of a root; in a dry run, only report which these are.

    Emit a `scratch_session` event for each scratch session, and `scratch_cleanup` at the end.

    Raises:
        ConfigurationError, RefusedError: the root is wrong or unsafe; nothing was touched.
        LockedError: another run is in progress.
    """
    started = context.monotonic()
    with opened_root(config.root, config.databases, context.stopping) as root, opened_sessions(root) as descriptor:
        if useless := useless_patterns(config, root.layout):
            raise ConfigurationError(useless)
        if shared := writable_by_group(root):
            log.warning("every account in the group of %s can write to it, and so decide what is removed", shared)
        with locked(context.state.directory, descriptor, root, context.clock(), hold=not config.dry_run):
            gap = longest_gap(config.older_than_days * DAY, period(config.maintenance.schedule.scratch_cleanup) * SECOND)
            clocks = Clocks(context.clock(), context.boot())
            check_clock(context.state, root.path, clocks, gap, force=config.force, dry_run=config.dry_run)
            cleanup = _Cleanup(config, context, root, clocks.wall)
            try:
                cleanup.run(descriptor)
            except StoppedError:
                log.warning("stopped by a signal while measuring: no session was removed")
            finally:
                if not config.dry_run:
                    remove_empty_trash(root)
        trash = trash_usage(root).apparent_bytes
    duration = (context.monotonic() - started) // 1_000_000
    summary = cleanup.summary(trash_bytes=trash, duration_ms=duration)
    context.emit(summary)
    if not config.dry_run:
        now = context.clock()
        failed = summary.failures or Reason.REMOVAL_LIMIT in summary.sessions_kept or context.stopping()
        run = Run(now, None if failed else now, summary.sessions_cleaned, summary.bytes_freed)
        record(context.state, JobName.SCRATCH_CLEANUP, root.path, run)
    return CleanupResult(summary, tuple(cleanup.events))


class _Cleanup:
    """One run on one root, and what it did so far."""

    def __init__(self, config: Config, context: RunContext, root: Root, now: int) -> None:
        """Read the plan to apply, and check that the plan can be written.

        Raises:
            ConfigurationError, RefusedError: as `read_plan` and `plan_output`.
        """
        self.events: list[ScratchSessionEvent] = []
        self._config = config
        self._context = context
        self._root = root
        self._now = now
        self._policy = Policy.of(config)
        self._needs = ChatNeeds.to_keep(config, root.layout)
        self._threads = threads_for(config.maintenance.threads)
        self._approved = None if config.apply is None else read_plan(config.apply, root.path, context.stopping)
        self._plan_output = None if config.plan_out is None else plan_output(config.plan_out)
        self._no_sessions: str | None = None
        self._outcomes: list[Outcome] = []
        self._purged: list[Purged] = []
        self._purgeable_bytes = 0  # that a real run would purge
        self._failures: list[FailureReport] = []
        self._failure_count = 0
        self._shared_failures: set[FailureReport] = set()

    def run(self, descriptor: int | None) -> None:
        """Clean up. `descriptor` is the `sessions` directory, None if it is missing.

        Raises:
            StoppedError: a signal ended the run before it changed anything but the trash.
        """
        # Undo what an interrupted run had begun, before the sessions are listed.
        entries = self._put_back_pending()
        if descriptor is None:
            self._no_sessions = reason_for_no_sessions(self._root)
            log.info("%s has no scratch sessions: %s", self._root.path, self._no_sessions)
            self._purge_due(entries)
            return
        sessions = SessionsDirectory(self._root, descriptor, identity_of(os.fstat(descriptor)))
        if self._config.dry_run and (problem := missing_permission(sessions)):
            log.warning("%s", problem)

        # List the sessions and read their rows.
        try:
            listed = list_sessions(sessions)
        except OSError as error:
            self._record_failure(Failure.of("list", sessions.shown, error))
            return
        evidence = read_evidence(listed, self._root, self._context.stopping)
        if listed and self._root.database is None:
            log.warning("no database of Arawn's was found: a session with a turn in a workstream's messages counts as attached to it")

        # Plan.
        measured_at = self._context.monotonic()
        decisions = self._decide(listed, evidence, descriptor)
        for failure in evidence.failures:
            self._record_failure(failure)
        if evidence.damaged_lines:
            log.info("lines of messages.jsonl that are not messages: %d", evidence.damaged_lines)
        path = sessions.path
        decisions = [explained(decision, path) for decision in self._keep_unapproved(decisions)]
        if self._plan_output is not None:
            self._plan_output.write(render_plan(self._root.path, decisions, self._policy.older_than_days, self._now))
        exceeded = None if self._config.force else RemovalLimit.of(self._config).exceeded_by(decisions)
        if exceeded:
            log.error("refused: %s in one run; see them with --dry-run --verbose, and remove them with --force", exceeded)
            decisions = block_all(decisions, exceeded)

        # Carry it out.
        if self._approved is None and not exceeded:
            self._purge_due(entries)
        for decision in decisions:
            if not decision.is_removal:
                self._record_outcome(Outcome(decision.session, Action.KEPT, decision.reason, detail=decision.detail))
        remover = SessionRemover(
            sessions,
            evidence,
            self._context,
            measured_at=measured_at,
            purge=self._config.maintenance.cleanup.trash_days == 0,
            dry_run=self._config.dry_run,
            threads=self._threads,
            needs=self._needs,
            cannot_exchange=self._why_no_exchange(decisions, descriptor),
        )
        self._remove([decision for decision in decisions if decision.is_removal], remover)

    def _put_back_pending(self) -> list[TrashEntry]:
        """Move back what an interrupted run left PENDING; return the other entries."""
        entries, failures = list_trash_entries(self._root)
        for failure in failures:
            self._record_failure(failure)
        for entry in entries:
            if entry.state is not TrashState.PENDING:
                continue
            if self._config.dry_run:
                log.warning("an interrupted run left session %s pending in the trash; a real run moves it back", entry.session)
            elif failed := put_back(self._root, entry):
                if is_in_trash(self._root, entry):
                    self._record_failure(failed, entry.session)
            else:
                log.warning("moved back session %s, which an interrupted run had begun to remove", entry.session)
        return [entry for entry in entries if entry.state is not TrashState.PENDING]

    def _purge_due(self, entries: Sequence[TrashEntry]) -> None:
        """Purge the entries that were in the trash long enough, and those that are DELETING."""
        days = self._config.maintenance.cleanup.trash_days
        due = [entry for entry in entries if is_due(entry, self._now, days)]
        if self._config.dry_run:
            self._purgeable_bytes = measure_entries(self._root, due).freed_bytes
            return
        for entry in due:
            if self._context.stopping():
                return
            purged = purge(self._root, entry, self._context.stopping, self._threads)
            self._purged.append(purged)
            for failure in purged.failures:
                self._record_failure(failure, entry.session)
            if purged.finished:
                log.info("purged session %s from the trash: %s freed", entry.session, size(purged.freed_bytes))

    def _decide(self, sessions: Sequence[ScratchSession], evidence: Evidence, descriptor: int) -> list[Decision]:
        """Measure the sessions that rows do not keep, and decide on all."""
        undecided = sessions_to_measure(evidence.add_to(sessions, {}), self._policy, self._now)
        self._context.progress.start("measuring", len(undecided))
        usages = measure_all(descriptor, [Subtree((session.name,)) for session in undecided], self._threads, self._context.advance_or_stop)
        measured = {session.name: usage for session, usage in zip(undecided, usages, strict=True)}
        sessions, measured = removable(sessions, measured, descriptor, self._needs)
        return decide_by_evidence(sessions, measured, evidence, self._policy, self._now)

    def _why_no_exchange(self, decisions: Sequence[Decision], descriptor: int) -> OSError | None:
        """Return why a real run could not keep chats, None in a real run, which will see."""
        if not self._config.dry_run or self._needs is None or not any(decision.is_removal for decision in decisions):
            return None
        return why_chats_cannot_be_kept(self._config, self._root, descriptor, self._needs)

    def _keep_unapproved(self, decisions: list[Decision]) -> list[Decision]:
        """Return the plan as far as the file of `--apply` approves it."""
        if self._approved is None:
            return decisions
        approved = self._approved
        for session in approved.keys() - {escape(decision.session.name) for decision in decisions}:
            log.info("session %s of the plan does not exist any more", session)
        return keep_unapproved(
            decisions, lambda session: approved[session.name].change(session) if session.name in approved else "it is not in the plan"
        )

    def _remove(self, due: Sequence[Decision], remover: SessionRemover) -> None:
        self._context.progress.start("checking" if self._config.dry_run else "removing", len(due))
        begun = 0
        details = {decision.session.name: decision.detail for decision in due}
        for outcome in remover.remove([decision.session for decision in due]):
            is_removal = outcome.reason is Reason.EXPIRED
            self._record_outcome(replace(outcome, detail=details[outcome.session.name]) if is_removal else outcome)
            self._context.progress.advance()
            begun += 1
        if begun < len(due):
            log.warning("stopped by a signal; inactive sessions left for the next run: %d", len(due) - begun)

    def _record_outcome(self, outcome: Outcome) -> None:
        """Log, count and emit an outcome."""
        session, usage = outcome.session, outcome.session.usage
        for shared in session.evidence.shared_failures:
            self._record_failure(shared)  # logged once, and not again for each session
        failures = (*outcome.failures, *session.evidence.own_failures, *(usage.failures if usage else ()))
        for failure in failures:
            self._count_failure(report_failure(failure, session.name))
        self._failure_count += usage.unlisted_failures if usage else 0
        self._outcomes.append(outcome)

        shared_causes = [str(failure) for failure in session.evidence.shared_failures]
        causes = [str(failure) for failure in failures]
        detail = outcome.detail or next(iter(causes + shared_causes if outcome.reason in UNRESOLVED else ()), "")
        last_turn = rendered(session.evidence.last_turn)
        level = logging.ERROR if failures else logging.WARNING if outcome.reason in _WARNING_REASONS else logging.INFO
        if log.isEnabledFor(level):
            measured = size(usage.apparent_bytes) if usage else "not measured"
            reason = outcome.reason if not detail or detail in shared_causes else f"{outcome.reason}: {detail}"
            sentence = f"{outcome.action} session {escape(session.name)} ({reason}): last turn {last_turn or 'not found'}, {measured}"
            log.log(level, "%s", "; ".join([sentence, *(cause for cause in causes[:_LOGGED_FAILURES_MAX] if cause != detail)]))

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

    def _record_failure(self, failure: Failure, session: str | None = None) -> None:
        """Log and count a failure that belongs to no outcome, or to several: only once."""
        report = report_failure(failure, session)
        if report not in self._shared_failures:
            self._shared_failures.add(report)
            if self._count_failure(report):
                log.error("%s", failure)

    def _count_failure(self, report: FailureReport) -> bool:
        """Count a failure, and return whether it is one of the first, which are listed."""
        self._failure_count += 1
        is_listed = len(self._failures) < FAILURES_LISTED
        if is_listed:
            self._failures.append(report)
        return is_listed

    def summary(self, *, trash_bytes: int, duration_ms: int) -> ScratchCleanup:
        """Return the last event of the run."""
        cleaned = [outcome for outcome in self._outcomes if outcome.action.is_removal]
        trashed = [outcome for outcome in cleaned if outcome.action in (Action.TRASHED, Action.WOULD_TRASH)]
        kept = Counter(str(outcome.reason) for outcome in self._outcomes if outcome.action is Action.KEPT)
        if self._failure_count > len(self._failures):
            log.error("and %s more failures", f"{self._failure_count - len(self._failures):,}")
        freed = sum(outcome.freed_bytes for outcome in self._outcomes) + sum(purged.freed_bytes for purged in self._purged)
        return ScratchCleanup(
            timestamp=self._context.timestamp(),
            host=self._context.host,
            root=self._config.root_name,
            dry_run=self._config.dry_run,
            sessions_checked=len(self._outcomes),
            sessions_cleaned=len(cleaned),
            bytes_freed=freed + self._purgeable_bytes,
            bytes_trashed=sum(outcome.session.usage.apparent_bytes for outcome in trashed if outcome.session.usage),
            trash_until=rendered(self._now + self._config.maintenance.cleanup.trash_days * DAY) if trashed else None,
            database_found=self._root.database is not None,
            chats=chat_result(self._config, self._root.layout),
            no_sessions=self._no_sessions,
            cleaned_session_ids=tuple(outcome.session.name for outcome in cleaned),
            sessions_kept=dict(sorted(kept.items())),
            failures=tuple(self._failures),
            failure_count=self._failure_count,
            trash_bytes=trash_bytes,
            duration_ms=duration_ms,
        )
