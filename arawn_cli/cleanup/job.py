"""Run `scratch-cleanup`: evidence, plan, removal, events."""

from __future__ import annotations

import logging
import os
from collections.abc import Collection, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import partial

from arawn_cli.arawn.layout import WORKSTREAMS
from arawn_cli.arawn.root import Root, opened_root, opened_sessions, reason_for_no_sessions, writable_by_group
from arawn_cli.cleanup.budget import Measure, Space, split, unmet_text
from arawn_cli.cleanup.chats import ChatNeeds, removable
from arawn_cli.cleanup.history import Clocks, check_clock, longest_gap, record
from arawn_cli.cleanup.lock import cleanup_lock
from arawn_cli.cleanup.obstacles import explained
from arawn_cli.cleanup.outcomes import Outcomes
from arawn_cli.cleanup.plan import (
    Plan,
    Policy,
    RemovalLimit,
    can_turns_decide,
    decide_all,
    keep_unapproved,
    make_plan,
    oldest_first,
    over_budget,
    selectable,
    sessions_to_measure,
    usages_of,
    useless_patterns,
)
from arawn_cli.cleanup.plan_file import PLAN_MODE, STANDARD_STREAM, PlannedSession, change_since_plan, read_plan, render_plan
from arawn_cli.cleanup.removal import SessionRemover
from arawn_cli.cleanup.sessions import Decision, Evidence, Outcome, ScratchSession, SessionsDirectory, TurnEvidence, list_sessions
from arawn_cli.cleanup.trash import (
    is_locked,
    list_trash_entries,
    measured_entries,
    missing_permission,
    purge,
    put_back,
    remove_empty_trash,
    trash_usage,
)
from arawn_cli.cleanup.trash_entry import TrashEntry, TrashState
from arawn_cli.cleanup_events import Action, ScratchCleanup, ScratchSessionEvent
from arawn_cli.config.loader import Config
from arawn_cli.context import RunContext
from arawn_cli.errors import ConfigurationError, ExitCode, Failure, NoSuchSessionError, StoppedError
from arawn_cli.events import UNRESOLVED, JobName, Reason
from arawn_cli.fs.files import AtomicFile
from arawn_cli.fs.measure import Subtree, measure_all, stop_when, threads_for
from arawn_cli.fs.openat import NO_IDENTITY, FileKind, exists
from arawn_cli.fs.usage import Usage
from arawn_cli.names import escape
from arawn_cli.problems import persistent
from arawn_cli.runs import Run
from arawn_cli.timestamps import DAY, SECOND, minute
from arawn_cli.units import period, size

log = logging.getLogger(__name__)

_SOON_DAYS = 2
"""Notifications name the sessions that become due within these days."""


@dataclass(frozen=True, slots=True)
class CleanupResult:
    """The result of a cleanup.

    Attributes:
        summary: its last event.
        sessions: the events of all scratch sessions.
        removed: the outcomes of the sessions that it removed, or in a dry run would remove.
        plan_text: the plan of `--plan-out` as JSON text; empty without the option.
        succeeded: whether it came to its end without a failure.
    """

    summary: ScratchCleanup
    sessions: tuple[ScratchSessionEvent, ...]
    succeeded: bool
    removed: tuple[Outcome, ...] = ()
    plan_text: str = ""

    @property
    def exit_code(self) -> ExitCode:
        """Return 77 if a removal limit stopped the run, else 1 if something is left to do, else 0.

        That is a failure, a due session that may stay for ever, or a budget that is not met.
        """
        kept = self.summary.sessions_kept.keys()
        if Reason.REMOVAL_LIMIT in kept:
            return ExitCode.REFUSED
        is_partial = self.summary.failures or self.summary.over_budget_bytes or UNRESOLVED & kept
        return ExitCode.PARTIAL if is_partial else ExitCode.DONE


def clean(
    config: Config, context: RunContext, *, only: Collection[str] = (), approved: Mapping[str, PlannedSession] | None = None
) -> CleanupResult:
    """Remove the inactive scratch sessions of a root; in a dry run, only report which these are.

    With `only`, handle these sessions, and leave the others and the trash alone. With `approved`,
    remove only these sessions, as a plan file would approve them.

    Emit a `scratch_session` event for each scratch session, and `scratch_cleanup` at the end.

    Raises:
        ConfigurationError, RefusedError: the root is wrong or unsafe; nothing was touched.
        LockedError: another run is in progress.
        NoSuchSessionError: a session in `only` does not exist.
    """
    started = context.monotonic()
    with opened_root(config.root, config.databases, context.stopping) as root, opened_sessions(root) as descriptor:
        if useless := useless_patterns(config, root.layout):
            raise ConfigurationError(useless)
        if shared := writable_by_group(root):
            text = "every account in the group of %s can write to it, and so decide which sessions are removed"
            log.warning(text, shared, extra=persistent("writable by a group"))
        if config.apply is not None:  # before the lock: the run at the other end of a pipe may hold it
            approved = read_plan(config.apply, root.path, context.stopping)
        with cleanup_lock(context.state.directory, descriptor, root, context.clock(), hold=not config.dry_run):
            if not config.dry_run:
                context.started()
            gap = longest_gap(config.older_than_days * DAY, period(config.maintenance.schedule.scratch_cleanup) * SECOND)
            clocks = Clocks(context.clock(), context.boot())
            check_clock(context.state, root.path, clocks, gap, force=config.force, dry_run=config.dry_run)
            cleanup = _Cleanup(config, context, root, clocks.wall, only, approved)
            try:
                cleanup.run(descriptor)
            except StoppedError:
                log.warning("stopped by a signal while measuring: no session was removed")
            finally:
                if not config.dry_run:
                    remove_empty_trash(root)
        trash: int | None = None
        with suppress(StoppedError):
            trash = trash_usage(root, context.stopping).apparent_bytes
    duration = (context.monotonic() - started) // 1_000_000
    summary = cleanup.done.summary(trash_bytes=trash, duration_ms=duration)
    context.emit(summary)
    failed = summary.failures or summary.over_budget_bytes or Reason.REMOVAL_LIMIT in summary.sessions_kept or context.stopping()
    if not config.dry_run:
        now = context.clock()
        run = Run(now, None if failed else now, summary.sessions_cleaned, summary.bytes_freed)
        record(
            context.state,
            JobName.SCRATCH_CLEANUP,
            root.path,
            run,
            cleanup.done.removals(now),
            cleanup.done.purged_removals,
            list(cleanup.done.restored.items()),
        )
    removed = tuple(outcome for outcome in cleanup.done.outcomes if outcome.action.is_removal)
    return CleanupResult(summary, tuple(cleanup.done.events), not failed, removed, cleanup.plan_text)


class _Cleanup:
    """One run on one root, and what it did so far."""

    def __init__(
        self,
        config: Config,
        context: RunContext,
        root: Root,
        now: int,
        only: Collection[str],
        approved: Mapping[str, PlannedSession] | None,
    ) -> None:
        """Check that the plan can be written.

        Raises:
            ConfigurationError, RefusedError: as `AtomicFile`.
        """
        self._config = config
        self._context = context
        self._root = root
        self._now = now
        self._policy = Policy.of(config)
        self._needs = ChatNeeds.to_keep(config, root.layout)
        self._threads = threads_for(config.maintenance.threads)
        self._only = frozenset(only)
        self._approved = approved
        self._plan_output = None if config.plan_out in (None, STANDARD_STREAM) else AtomicFile(config.plan_out, "the plan", PLAN_MODE)
        self.plan_text = ""
        self.done = Outcomes(config, context, root, now)

    def run(self, descriptor: int | None) -> None:
        """Clean up. `descriptor` is the `sessions` directory, None if it is missing.

        Raises:
            StoppedError: a signal ended the run before it changed anything but the trash.
        """
        # Undo the removals that an interrupted run had begun, before the sessions are listed.
        entries = self._put_back_pending()
        sessions = None if descriptor is None else SessionsDirectory(self._root, descriptor)
        try:
            listed = self._list(sessions)
        except OSError as error:
            self.done.add_failure(Failure.of("list", "/".join((WORKSTREAMS, *self._root.layout.sessions)), error))
            return
        removed = [entry.session for entry in entries if _can_be_restored(entry)]
        evidence = Evidence(listed, self._root, self._context.stopping, removed=removed)
        entries = self._restore_used(entries, evidence)
        listed = [session for session in listed if session.name not in self.done.restored]

        measured_at = self._context.monotonic()
        space = Space(self._config, self._root, descriptor, self._threads, self._context.advance_or_stop)
        decisions, candidates = ([], []) if sessions is None else self._decide(sessions, listed, evidence, space)
        plan = self._plan(decisions, candidates, entries, space)
        self._write(plan)

        execution = _Execution(self._config, self._context, self._root, plan, space, self.done)
        execution.purge_trash()
        execution.keep()
        if sessions is not None:
            purged_inodes = space.freed.amounts[Measure.INODES]
            execution.remove(SessionRemover(sessions, evidence, self._config, self._context, self._now, measured_at, purged_inodes))
        execution.report_unmet()

    def _list(self, sessions: SessionsDirectory | None) -> list[ScratchSession]:
        """List the sessions, and log the problems that concern all of them.

        Raises:
            OSError: as `list_sessions`.
            NoSuchSessionError: an id on the command line names no session.
        """
        if sessions is not None and (problem := missing_permission(sessions)):
            log.warning("%s", problem)
        listed = list_sessions(sessions) if sessions else []
        if unknown := sorted(self._only - {session.name for session in listed}):
            names = ", ".join(map(escape, unknown))
            raise NoSuchSessionError(f"no scratch session {names} in {self._root.path}: nothing was done; see also `arawn-cli trash list`")
        if self._root.database is None:  # also without a session: it is still missing
            text = "no database of Arawn's was found: a session with a turn in a workstream's messages counts as attached to it"
            log.warning(text, extra=persistent("no database"))
        if sessions is None:
            self.done.no_sessions = reason_for_no_sessions(self._root)
            log.info("%s has no scratch sessions: %s", self._root.path, self.done.no_sessions)
        return listed

    def _put_back_pending(self) -> list[TrashEntry]:
        """Move back the sessions that an interrupted run left PENDING; return the other entries."""
        entries, failures = list_trash_entries(self._root)
        for failure in failures:
            self.done.add_failure(failure)
        for entry in entries:
            if entry.state is not TrashState.PENDING:
                continue
            if self._config.dry_run:
                log.warning("an interrupted run left session %s pending in the trash; a real run moves it back", entry.session)
            elif is_locked(self._root, entry):
                log.warning("session %s stays pending in the trash, because another run is removing it", entry.session)
            elif failed := put_back(self._root, entry):
                if exists("/".join(entry.path), self._root.workstreams):  # else Arawn 0.0 has promoted it with scratch
                    self.done.add_failure(failed, entry.session)
            else:
                log.warning("moved back session %s, which an interrupted run had begun to remove", entry.session)
        return [entry for entry in entries if entry.state is not TrashState.PENDING]

    def _restore_used(self, entries: Sequence[TrashEntry], evidence: Evidence) -> list[TrashEntry]:
        """Restore sessions with a turn after their removal; return entries that may be purged.

        Of several removals of a session, only the last one is put back. One in doubt, and one
        that cannot be put back, stay in the trash.

        Raises:
            StoppedError: a signal asked the run to end.
        """
        removed = [entry for entry in entries if _can_be_restored(entry) and (not self._only or entry.session in self._only)]
        if not removed:
            return list(entries)
        evidence.complete()
        last = {entry.session: entry for entry in removed}  # they are sorted by time
        stay: set[TrashEntry] = set()
        for entry in removed:
            turns = evidence.of(entry.session)
            used = turns.has_turn_after(entry.removed_at)
            if used is not False:
                stay.add(entry)
            if used is None:
                text = "session %s stays in the trash unpurged: it is not known if its chat goes on"
                log.warning(text, entry.session, extra=persistent(f"trash {entry.session}"))
            elif used and entry is last[entry.session]:
                self._restore(entry, turns)
            elif used:  # a later removal of it is in the way
                text = "session %s, removed at %s, stays in the trash until its later removal is restored or purged: its chat went on"
                log.warning(text, entry.session, minute(entry.removed_at), extra=persistent(f"trash {entry.session}"))
        return [entry for entry in entries if entry not in stay]

    def _restore(self, entry: TrashEntry, turns: TurnEvidence) -> None:
        """Restore a session whose chat goes on; a failure names the command for later."""
        usage = measured_entries(self._root, [entry], self._context.advance_or_stop)[entry]
        if failure := put_back(self._root, entry, used=True, dry_run=self._config.dry_run):
            command = f"arawn-cli trash restore {entry.session}"
            text = f"its chat goes on, but it stays in the trash ({failure.detail or os.strerror(failure.errno)}); then: {command}"
            self.done.add_failure(replace(failure, detail=text), entry.session)
            return
        self.done.restored[entry.session] = entry.removed_at
        session = ScratchSession(entry.session, FileKind.DIRECTORY, NO_IDENTITY, evidence=turns, usage=usage)
        action = Action.WOULD_RESTORE if self._config.dry_run else Action.RESTORED
        turn = minute(turns.last_turn) if turns.last_turn is not None else ""
        self.done.add(Outcome(session, action, Reason.ACTIVE, detail=f"turn, {turn}, after its removal at {minute(entry.removed_at)}"))

    def _decide(
        self, directory: SessionsDirectory, sessions: Sequence[ScratchSession], evidence: Evidence, space: Space
    ) -> tuple[list[Decision], list[Decision]]:
        """Measure the sessions that rows do not keep, and decide on all.

        Return the decisions by age, and those of them on sessions that a budget may select.
        """
        soon = self._policy.earlier(_SOON_DAYS) if "expiring" in self._config.maintenance.notify.on else None
        budget = self._policy.for_budgets(self._config) if space.exceeds_budget else None
        youngest = min(filter(None, (self._policy, soon, budget)), key=lambda policy: policy.older_than_days)
        undecided = sessions_to_measure(evidence.add_to(sessions, {}), youngest, self._now)
        self._context.progress.start("measuring", len(undecided))
        subtrees = [Subtree((session.name,)) for session in undecided]
        usages = measure_all(directory.descriptor, subtrees, self._threads, self._context.advance_or_stop)
        measured = {session.name: usage for session, usage in zip(undecided, usages, strict=True)}
        sessions, measured = removable(sessions, measured, directory.descriptor, self._needs)
        sessions = evidence.add_all_to(sessions, measured, partial(can_turns_decide, policy=youngest, now=self._now))
        self.done.add_evidence_failures(evidence.failures)
        if evidence.damaged_lines:
            log.info("lines of messages.jsonl that are not messages: %d", evidence.damaged_lines)
        by_age = decide_all(sessions, self._policy, self._now)
        if soon:
            self.done.expiring = selectable(by_age, decide_all(sessions, soon, self._now))
        candidates = selectable(by_age, decide_all(sessions, budget, self._now)) if budget else []
        if self._approved is not None:
            for session in self._approved.keys() - {escape(decision.session.name) for decision in by_age}:
                log.info("session %s of the plan does not exist any more", session)
            change = partial(change_since_plan, self._approved)
            by_age = keep_unapproved(by_age, change)
            candidates = [decision for decision in candidates if change(decision.session) is None]
        return [explained(decision, directory.path) for decision in by_age], candidates

    def _plan(self, decisions: Sequence[Decision], candidates: Sequence[Decision], entries: Sequence[TrashEntry], space: Space) -> Plan:
        trash_days = self._config.maintenance.cleanup.trash_days
        is_due = any(decision.is_removal and (not self._only or decision.session.name in self._only) for decision in decisions)
        if entries or (is_due and trash_days):
            space.add_limits()
        leaves_trash = self._only or self._config.apply is not None
        expired = None if leaves_trash else [entry for entry in entries if entry.is_due(self._now, trash_days)]
        trash: dict[TrashEntry, Usage] = {}
        if space.is_exceeded:
            trash = measured_entries(self._root, entries, stop_when(self._context.stopping), self._threads)
        return make_plan(decisions, candidates, expired, trash, space, RemovalLimit.of(self._config), self._only)

    def _write(self, plan: Plan) -> None:
        """Write the plan of `--plan-out`, and log if it is refused."""
        if self._config.plan_out is not None:
            self.plan_text = render_plan(self._root.path, plan.decisions, self._policy.older_than_days, self._now)
        if self._plan_output is not None:
            self._plan_output.write(self.plan_text)
        if plan.refusal:
            text = "refused: %s in one run; see them with --dry-run --verbose, and remove them with --force"
            log.error(text, plan.refusal, extra=persistent("removal limit"))


def _can_be_restored(entry: TrashEntry) -> bool:
    """Whether an entry of the trash is that of a session that can be put back."""
    return entry.state is TrashState.CONFIRMED and not entry.session.endswith("+")


# ---- The plan is carried out


@dataclass(frozen=True, slots=True)
class _Execution:
    """A plan that is carried out. A dry run takes the same steps and changes nothing.

    Space in use is measured again after each step, because a session can stay in spite of the plan,
    and because another program can free or use space. Each outcome is added to `done`.
    """

    config: Config
    context: RunContext
    root: Root
    plan: Plan
    space: Space
    done: Outcomes

    def purge_trash(self) -> None:
        """Purge the expired entries, and then the oldest ones until no bound is exceeded."""
        self._purge(self.plan.expired)
        early = self.plan.early
        while batch := self.space.needed([usage for _, usage in early]):
            chosen, early = split(early, batch)
            self._purge([entry for entry, _ in chosen], self.space.reason)

    def _purge(self, entries: Sequence[TrashEntry], why_early: str = "") -> None:
        """Purge entries and measure again. `why_early` is the reason before their time is over."""
        threads = threads_for(self.config.maintenance.threads)
        for entry in entries:
            if self.context.stopping():
                return
            purged = purge(self.root, entry, self.context.stopping, threads, dry_run=self.config.dry_run)
            self.done.purged.append(purged)
            for failure in purged.failures:
                self.done.add_failure(failure, entry.session)
            if purged.finished:
                self.space.freed.add(purged.usage)
                verb = "would purge" if self.config.dry_run else "purged"
                early = f" before its time, because {why_early}" if why_early else ""
                level = logging.WARNING if why_early else logging.INFO
                log.log(level, "%s session %s from the trash%s: %s freed", verb, entry.session, early, size(purged.freed_bytes))
        if entries and self.space.is_exceeded and not self.config.dry_run:
            self.space.measure_again()

    def keep(self) -> None:
        """Report the sessions that stay by the plan."""
        for decision in self.plan.kept:
            self.done.keep(decision)

    def remove(self, remover: SessionRemover) -> None:
        """Remove the due sessions, and then those that a budget still needs, oldest first."""
        self._remove_due(remover)
        self._remove_over_budget(remover)

    def _remove_due(self, remover: SessionRemover) -> None:
        """Move the due sessions to the trash; delete them if it is not used or has no space."""
        due = self.plan.due
        if self.config.maintenance.cleanup.trash_days:
            due = oldest_first(due)
            while batch := self.space.needed(usages_of(due), after=self.plan.left):
                chosen, due = split(due, batch)
                why = f"not kept in the trash, because {self.space.reason}"
                self._remove(remover, [replace(decision, detail=f"{decision.detail}; {why}") for decision in chosen], purge=True)
        self._remove(remover, due, purge=not self.config.maintenance.cleanup.trash_days)

    def _remove_over_budget(self, remover: SessionRemover) -> None:
        """Remove as many candidates as a budget needs and the removal limit admits."""
        left, room = list(self.plan.candidates), self.plan.room
        while batch := self.space.needed(usages_of(left), budgets_only=True, after=self.plan.left):
            if self.context.stopping():
                break
            if not room:
                for position in batch:
                    left[position] = Decision(left[position].session, Reason.OVER_BUDGET, "the removal limit allows no more in this run")
                break
            chosen, left = split(left, batch[:room])
            room -= self._remove(remover, [over_budget(decision, self.space.reason) for decision in chosen], purge=True)
        for decision in left:
            self.done.keep(decision)

    def _remove(self, remover: SessionRemover, due: Sequence[Decision], *, purge: bool) -> int:
        """Remove sessions, record the outcomes, measure again; return the number removed."""
        stage = "checking files" if self.config.dry_run else "removing files"
        self.context.progress.start(stage, sum(_files(decision.session) for decision in due))
        begun = removed = 0
        for outcome in remover.remove(due, purge=purge):
            self.done.add(outcome)
            if outcome.action.is_removal:
                removed += 1
                if purge and self.space.is_exceeded:
                    self.space.freed.add(outcome.session.usage or Usage())
            self.context.progress.advance(_files(outcome.session))
            begun += 1
        if begun < len(due):
            log.warning("stopped by a signal; inactive sessions left for the next run: %d", len(due) - begun)
        if removed and purge and self.space.is_exceeded and not self.config.dry_run:
            self.space.measure_again(only_less=True)
        return removed

    def report_unmet(self) -> None:
        """Log the budgets that are still exceeded."""
        if self.space.exceeds_budget and not self.config.dry_run:
            self.space.measure_again()
        for bound in self.space.unmet():
            self.done.over_budget = max(self.done.over_budget, bound.usage - bound.limit)
            log.error("%s", unmet_text(bound, self.done.outcomes), extra=persistent("budget"))


def _files(session: ScratchSession) -> int:
    """Return the files of a session for the progress, and 1 for an empty one."""
    return max(session.usage.files if session.usage else 0, 1)
