"""Run `scratch-cleanup`: evidence, plan, removal, report."""

from __future__ import annotations

import logging
import os
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field

from arawn_cli.arawn.layout import Root, opened_root, opened_sessions
from arawn_cli.cleanup import plan_file
from arawn_cli.cleanup.decisions import activity_of, decisions_on, list_sessions, policy_of, removal_limit_of, with_evidence
from arawn_cli.cleanup.evidence import Activity
from arawn_cli.cleanup.plan import approved, block_all, revalidate, sessions_to_measure
from arawn_cli.cleanup.removal import Look, Remover
from arawn_cli.cleanup.sessions import Decision, Outcome, ScratchSession
from arawn_cli.cleanup.trash import Purged, Sessions, TrashEntry, locked, out_of_reach, purge, put_back, trash_usage, waiting
from arawn_cli.config.loader import Config
from arawn_cli.context import RunContext
from arawn_cli.errors import ExitCode, Failure, StoppedError
from arawn_cli.events import Action, FailureReport, JobName, Reason, ScratchCleanup, ScratchSessionEvent, rendered, report_failure
from arawn_cli.fs.measure import Subtree, measure, measure_all, threads_for
from arawn_cli.fs.openat import identity_of
from arawn_cli.names import escape
from arawn_cli.runs import Run, record, refuse_earlier_clock
from arawn_cli.timestamps import DAY
from arawn_cli.units import size

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class CleanupResult:
    """The result of a cleanup: its last event, and the events of all scratch sessions."""

    summary: ScratchCleanup
    sessions: tuple[ScratchSessionEvent, ...]

    @property
    def exit_code(self) -> ExitCode:
        """Return 77 if a removal limit stopped the run, 1 if something failed, else 0."""
        if Reason.REMOVAL_LIMIT in self.summary.sessions_kept:
            return ExitCode.REFUSED
        return ExitCode.PARTIAL if self.summary.failures else ExitCode.DONE


@dataclass(slots=True)
class CleanupReport:
    """What has happened in a run so far."""

    outcomes: list[Outcome] = field(default_factory=list)
    events: list[ScratchSessionEvent] = field(default_factory=list)
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
    measured = size(session.usage.apparent_bytes) if session.usage else "not measured"
    return f"{outcome.action} session {escape(session.name)} ({outcome.reason}): last turn {turn}, {measured}"


def session_event(outcome: Outcome, context: RunContext, config: Config) -> ScratchSessionEvent:
    """What became of a session, as an event."""
    session = outcome.session
    return ScratchSessionEvent(
        timestamp=context.timestamp(),
        host=context.host,
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


def summary_event(report: CleanupReport, context: RunContext, config: Config, *, trash_bytes: int, duration_ms: int) -> ScratchCleanup:
    """A whole run, as its last event."""
    cleaned = [outcome for outcome in report.outcomes if outcome.action in (Action.DELETED, Action.WOULD_DELETE)]
    stayed = Counter(str(outcome.reason) for outcome in report.outcomes if outcome.action is Action.KEPT)
    freed = sum(outcome.freed_bytes for outcome in report.outcomes) + sum(purged.freed_bytes for purged in report.purged)
    return ScratchCleanup(
        timestamp=context.timestamp(),
        host=context.host,
        root=config.root_name,
        dry_run=config.dry_run,
        sessions_checked=len(report.outcomes),
        sessions_cleaned=len(cleaned),
        bytes_reclaimed=freed,
        cleaned_session_ids=tuple(outcome.session.name for outcome in cleaned),
        sessions_kept=dict(sorted(stayed.items())),
        failures=tuple(report.failures),
        trash_bytes=trash_bytes,
        duration_ms=duration_ms,
    )


_SHOWN_FAILURES = 3


# Reasons that tell of something wrong, and not of a session that merely stays.
_TROUBLE = frozenset({Reason.ACTIVITY_UNKNOWN, Reason.FUTURE_TIMESTAMP, Reason.IO_ERROR})


def clean(config: Config, context: RunContext) -> CleanupResult:
    """Remove the inactive scratch sessions of a root; in a dry run, only report which these are.

    Emit a `scratch_session` event for each scratch session, and `scratch_cleanup` at the end.

    Raises:
        ConfigurationError, RefusedError: the root is wrong or unsafe; nothing was touched.
        LockedError: another run is in progress.
    """
    started = context.monotonic()
    report = CleanupReport()
    with opened_root(config.root) as root, opened_sessions(root) as descriptor:
        if not config.force:
            refuse_earlier_clock(context.state, JobName.SCRATCH_CLEANUP, root.path, context.clock())
        with locked(descriptor, root, hold=not config.dry_run):
            try:
                _Cleanup(config, context, root, report).run(descriptor)
            except StoppedError:
                log.warning("stopped by a signal while measuring: no session was removed")
        trash = trash_usage(root).apparent_bytes
    duration = (context.monotonic() - started) // 1_000_000
    summary = summary_event(report, context, config, trash_bytes=trash, duration_ms=duration)
    context.emit(summary)
    if not config.dry_run:
        now = context.clock()
        failed = summary.failures or Reason.REMOVAL_LIMIT in summary.sessions_kept or context.stopping()
        run = Run(now, None if failed else now, summary.sessions_cleaned, summary.bytes_reclaimed)
        record(context.state, JobName.SCRATCH_CLEANUP, root.path, run)
    return CleanupResult(summary, tuple(report.events))


class _Cleanup:
    """One run on one root."""

    def __init__(self, config: Config, context: RunContext, root: Root, report: CleanupReport) -> None:
        self._config = config
        self._context = context
        self._root = root
        self._report = report
        self._now = context.clock()
        self._plan = None if config.apply is None else plan_file.read(config.apply, root.path)
        self._plan_out = None if config.plan_out is None else plan_file.to_be_written(config.plan_out)
        self._policy = policy_of(config)

    def run(self, descriptor: int | None) -> None:
        leftovers = self._leftovers()
        if descriptor is None:
            log.info("%s has no scratch sessions", self._root.path)
            self._purge_due(leftovers)
            return
        sessions = Sessions(self._root, descriptor, identity_of(os.fstat(descriptor)))
        if self._config.dry_run and (problem := out_of_reach(sessions)):
            log.warning("%s", problem)
        try:
            listed = list_sessions(sessions)
        except OSError as error:
            self._fail(Failure.of("getdents64", sessions.shown, error))
            return
        activity = self._activity(listed)
        decisions = self._approved(self._decisions(listed, activity, descriptor))
        if self._plan_out is not None:
            self._plan_out.write(plan_file.text_of(self._root.path, decisions, self._policy.older_than_days, self._now))
        decisions = self._braked(decisions)
        if self._plan is None and not any(decision.reason is Reason.REMOVAL_LIMIT for decision in decisions):
            self._purge_due(leftovers)
        for decision in decisions:
            if not decision.goes:
                self._tell(_staying(decision))
        self._remove([decision.session for decision in decisions if decision.goes], sessions, activity)

    def _leftovers(self) -> list[TrashEntry]:
        """What earlier runs left in the trash, after held sessions of a killed run went back to be judged anew."""
        found, failures = waiting(self._root)
        for failure in failures:
            self._fail(failure)
        for entry in found:
            if entry.held and self._config.dry_run:
                log.warning("session %s is held by an interrupted run; a real run puts it back and judges it anew", entry.session)
            elif entry.held:
                self._put_back(entry)
        return [entry for entry in found if not entry.held]

    def _put_back(self, entry: TrashEntry) -> None:
        obstacle = put_back(self._root, entry)
        if obstacle:
            self._fail(obstacle, entry.session)
        else:
            log.warning("put back session %s, which an interrupted run had begun to remove", entry.session)

    def _purge_due(self, leftovers: Sequence[TrashEntry]) -> None:
        """Takes apart what has waited in the trash long enough."""
        for entry in leftovers:
            if self._context.stopping():
                return
            if self._is_due(entry) and not self._config.dry_run:
                self._purge(entry)

    def _is_due(self, entry: TrashEntry) -> bool:
        days = self._config.maintenance.cleanup.trash_days
        return days == 0 or entry.gone or entry.removed_at < self._now - days * DAY

    def _purge(self, entry: TrashEntry) -> None:
        purged = purge(self._root, entry, self._context.stopping, threads_for(self._config.maintenance.threads))
        self._report.purged.append(purged)
        for failure in purged.failures:
            self._fail(failure, entry.session)
        if purged.finished:
            log.info("purged session %s from the trash: %s freed", entry.session, size(purged.freed_bytes))

    def _activity(self, listed: Sequence[ScratchSession]) -> Activity:
        activity = activity_of(listed, self._config, self._root, self._now)
        for failure in activity.failures:
            self._fail(failure)
        if activity.unreadable_lines:
            log.info("%d lines of messages.jsonl are no messages", activity.unreadable_lines)
        return activity

    def _decisions(self, listed: Sequence[ScratchSession], activity: Activity, descriptor: int) -> list[Decision]:
        known = with_evidence(listed, activity)
        walks = sessions_to_measure(known, self._policy, self._now)
        self._context.progress.start("measuring", len(walks))
        usages = measure_all(
            descriptor,
            [Subtree((session.name,)) for session in walks],
            threads_for(self._config.maintenance.threads),
            self._context.advance_or_stop,
        )
        measured = {session.name: usage for session, usage in zip(walks, usages, strict=True)}
        return decisions_on(known, measured, self._policy, self._now)

    def _approved(self, decisions: list[Decision]) -> list[Decision]:
        """The plan as far as the file of `--apply` approves it."""
        if self._plan is None:
            return decisions
        planned = self._plan
        for session in planned.keys() - {escape(decision.session.name) for decision in decisions}:
            log.info("session %s of the plan is not there any more", session)
        return approved(decisions, lambda session: session.name in planned and planned[session.name].matches(session))

    def _braked(self, decisions: list[Decision]) -> list[Decision]:
        exceeded = None if self._config.force else removal_limit_of(self._config).exceeded_by(decisions)
        if exceeded is None:
            return decisions
        log.error("refused: %s in one run; look at them with --dry-run --verbose, and go on with --force", exceeded)
        return block_all(decisions)

    def _remove(self, due: Sequence[ScratchSession], sessions: Sessions, activity: Activity) -> None:
        self._context.progress.start("checking" if self._config.dry_run else "removing", len(due))
        remover = Remover(
            sessions,
            _look_with(activity),
            self._context.clock,
            self._context.stopping,
            purge=self._config.maintenance.cleanup.trash_days == 0,
            dry_run=self._config.dry_run,
            threads=threads_for(self._config.maintenance.threads),
        )
        begun = 0
        for outcome in remover.remove(due):
            self._tell(outcome)
            self._context.progress.advance()
            begun += 1
        if begun < len(due):
            log.warning("stopped by a signal; inactive sessions left for the next run: %d", len(due) - begun)

    def _tell(self, outcome: Outcome) -> None:
        """The one place where an outcome is logged, counted and emitted."""
        self._report.outcomes.append(outcome)
        failures = failures_of(outcome)
        for shared in outcome.session.evidence.shared_failures:
            self._fail(shared)
        level = logging.ERROR if failures else logging.WARNING if outcome.reason in _TROUBLE else logging.INFO
        log.log(level, "%s", "; ".join([sentence(outcome), *(str(failure) for failure in failures[:_SHOWN_FAILURES])]))
        self._report.failures += [report_failure(failure, outcome.session.name) for failure in failures]
        event = session_event(outcome, self._context, self._config)
        self._report.events.append(event)
        self._context.emit(event)

    def _fail(self, failure: Failure, session: str | None = None) -> None:
        """Logs and counts a failure that belongs to no outcome, once however many sessions it concerns."""
        told = report_failure(failure, session)
        if told not in self._report.told:
            self._report.told.add(told)
            log.error("%s", failure)
            self._report.failures.append(told)


def _look_with(activity: Activity) -> Look:
    """The look right before and after a rename: everything that the plan rested on, read anew."""

    def look(session: ScratchSession, directory: int, name: str) -> Decision:
        usage = measure(directory, name, session.name)
        return revalidate(session, activity.look_again(session.name), usage)

    return look


def _staying(decision: Decision) -> Outcome:
    return Outcome(decision.session, Action.KEPT, decision.reason)
