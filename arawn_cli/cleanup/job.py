"""Run `scratch-cleanup`: evidence, plan, removal, events."""

from __future__ import annotations

import logging
import os
from collections.abc import Collection, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace

from arawn_cli.arawn.root import Root, opened_root, opened_sessions, reason_for_no_sessions, writable_by_group
from arawn_cli.cleanup.budget import Measure, Space, oldest_first, over_budget, selectable, unmet_text, usages_of, with_selected, younger
from arawn_cli.cleanup.chats import ChatNeeds, removable, why_chats_cannot_be_kept
from arawn_cli.cleanup.evidence import Evidence, decide_by_evidence, is_used_since, read_evidence
from arawn_cli.cleanup.obstacles import explained
from arawn_cli.cleanup.outcomes import Outcomes
from arawn_cli.cleanup.plan import Policy, RemovalLimit, block_all, decide_all, keep_unapproved, sessions_to_measure, useless_patterns
from arawn_cli.cleanup.plan_file import STANDARD_STREAM, PlannedSession, plan_output, read_plan, render_plan
from arawn_cli.cleanup.removal import SessionRemover
from arawn_cli.cleanup.sessions import Decision, Outcome, ScratchSession, SessionsDirectory, TurnEvidence, list_sessions
from arawn_cli.cleanup.trash import (
    is_due,
    is_in_trash,
    is_locked,
    list_trash_entries,
    locked,
    missing_permission,
    purge,
    put_back,
    remove_empty_trash,
    trash_usage,
)
from arawn_cli.cleanup.trash_entry import TrashEntry, TrashState
from arawn_cli.config.loader import Config
from arawn_cli.context import RunContext
from arawn_cli.errors import ConfigurationError, ExitCode, Failure, NoSuchSessionError, StoppedError
from arawn_cli.events import (
    UNRESOLVED,
    Action,
    JobName,
    Reason,
    ScratchCleanup,
    ScratchSessionEvent,
)
from arawn_cli.fs.measure import Subtree, measure_all, threads_for
from arawn_cli.fs.openat import NO_IDENTITY, FileKind, identity_of
from arawn_cli.fs.usage import Usage
from arawn_cli.names import escape
from arawn_cli.problems import persistent
from arawn_cli.runs import Clocks, Run, check_clock, longest_gap, record
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
        planned: the sessions that a dry run would remove.
        plan_text: the plan of `--plan-out` as JSON text; empty without the option.
    """

    summary: ScratchCleanup
    sessions: tuple[ScratchSessionEvent, ...]
    planned: tuple[Decision, ...] = ()
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
        with locked(context.state.directory, descriptor, root, context.clock(), hold=not config.dry_run):
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
    if not config.dry_run:
        now = context.clock()
        failed = summary.failures or summary.over_budget_bytes or Reason.REMOVAL_LIMIT in summary.sessions_kept or context.stopping()
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
    return CleanupResult(summary, tuple(cleanup.done.events), cleanup.planned, cleanup.plan_text)


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
            ConfigurationError, RefusedError: as `plan_output`.
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
        self._plan_output = None if config.plan_out in (None, STANDARD_STREAM) else plan_output(config.plan_out)
        self._planned: list[Decision] = []
        self.plan_text = ""
        self.done = Outcomes(config, context, root, now)

    def run(self, descriptor: int | None) -> None:
        """Clean up. `descriptor` is the `sessions` directory, None if it is missing.

        Raises:
            StoppedError: a signal ended the run before it changed anything but the trash.
        """
        # Undo what an interrupted run had begun, before the sessions are listed.
        entries = self._put_back_pending()
        if descriptor is None:
            self._run_without_sessions(entries)
            return
        sessions = SessionsDirectory(self._root, descriptor, identity_of(os.fstat(descriptor)))
        if problem := missing_permission(sessions):
            log.warning("%s", problem)

        # List the sessions and read their rows.
        try:
            listed = list_sessions(sessions)
        except OSError as error:
            self.done.add_failure(Failure.of("list", sessions.shown, error))
            return
        self._refuse_unknown(listed)
        evidence = read_evidence(listed, self._root, self._context.stopping, removed=_sessions_of(entries))
        entries = self._restore_used(entries, evidence)
        listed = [session for session in listed if session.name not in self.done.restored]
        if listed and self._root.database is None:
            text = "no database of Arawn's was found: a session with a turn in a workstream's messages counts as attached to it"
            log.warning(text, extra=persistent("no database"))

        # Plan.
        measured_at = self._context.monotonic()
        space = self._space(descriptor)
        decisions, candidates = self._decide(listed, evidence, descriptor, space)
        for failure in evidence.failures:
            self.done.add_failure(failure)
        if evidence.damaged_lines:
            log.info("lines of messages.jsonl that are not messages: %d", evidence.damaged_lines)
        path = sessions.path
        decisions = [explained(decision, path) for decision in self._keep_unapproved(decisions)]
        others_due: list[Usage] = []
        if self._only:
            others_due = usages_of(decision for decision in decisions if decision.is_removal and not self._is_wanted(decision))
            decisions, candidates = self._only_wanted(decisions, candidates, entries, space)
        due = [decision for decision in decisions if decision.is_removal]
        if entries or (due and self._config.maintenance.cleanup.trash_days):
            space.add_limits()
        limit = None if self._config.force else RemovalLimit.of(self._config)
        room = len(candidates) if limit is None else max(limit.room(decisions), 0)
        if self._config.plan_out is not None or self._config.dry_run:
            trash = measure_all(self._root.workstreams, [Subtree(entry.path) for entry in entries], self._threads) if candidates else []
            plan = with_selected(decisions, candidates, space, trash, room)
            self._planned = [decision for decision in plan if self._is_wanted(decision)]
        self._write_plan()
        exceeded = None if limit is None else limit.exceeded_by(decisions)
        if exceeded:
            text = "refused: %s in one run; see them with --dry-run --verbose, and remove them with --force"
            log.error(text, exceeded, extra=persistent("removal limit"))
            decisions, due, candidates = block_all(decisions, exceeded), [], []

        # Carry it out.
        decisions = [decision for decision in decisions if self._is_wanted(decision)]
        if self._config.apply is not None or self._only:
            trash = measure_all(self._root.workstreams, [Subtree(entry.path) for entry in entries], self._threads)
            space.leave([*trash, *others_due])
        elif not exceeded:
            self._purge_trash(entries, space)
        undecided = {decision.session.name for decision in candidates}
        for decision in decisions:
            if not decision.is_removal and decision.session.name not in undecided:
                self._keep(decision)
        remover = SessionRemover(
            sessions,
            evidence,
            self._context,
            measured_at=measured_at,
            dry_run=self._config.dry_run,
            purged_inodes=int(space.freed.amounts[Measure.INODES]),
            threads=self._threads,
            needs=self._needs,
            cannot_exchange=self._why_no_exchange([*due, *candidates], descriptor),
        )
        self._remove_due(due, remover, space)
        self._remove_over_budget(candidates, remover, space, room)
        self._report_unmet(space)

    def _run_without_sessions(self, entries: Sequence[TrashEntry]) -> None:
        """Handle the trash of a root without a `sessions` directory."""
        self._refuse_unknown([])
        self.done.no_sessions = reason_for_no_sessions(self._root)
        log.info("%s has no scratch sessions: %s", self._root.path, self.done.no_sessions)
        self._write_plan()
        entries = self._restore_used(entries, read_evidence([], self._root, self._context.stopping, removed=_sessions_of(entries)))
        space = self._space(None)
        if entries:
            space.add_limits()
        if self._config.apply is None:
            self._purge_trash(entries, space)
        self._report_unmet(space)

    def _write_plan(self) -> None:
        """Render the plan for `--plan-out`, and write it to the file."""
        if self._config.plan_out is not None:
            self.plan_text = render_plan(self._root.path, self._planned, self._policy.older_than_days, self._now)
        if self._plan_output is not None:
            self._plan_output.write(self.plan_text)

    def _only_wanted(
        self, decisions: Sequence[Decision], candidates: Sequence[Decision], entries: Sequence[TrashEntry], space: Space
    ) -> tuple[list[Decision], list[Decision]]:
        """Return plan and budget candidates without the sessions that the command line omits.

        A budget selects no session that it does not select in a run on all sessions.
        """
        trash = measure_all(self._root.workstreams, [Subtree(entry.path) for entry in entries], self._threads) if candidates else []
        room = len(candidates) if self._config.force else max(RemovalLimit.of(self._config).room(decisions), 0)
        plan = with_selected(decisions, candidates, space, trash, room)
        selected = {decision.session.name for decision in plan if decision.reason is Reason.OVER_BUDGET}
        return [  # the share of the removal limit is one of all sessions
            decision if self._is_wanted(decision) or not decision.is_removal else replace(decision, reason=Reason.CHANGED_SINCE_PLAN)
            for decision in decisions
        ], [decision for decision in candidates if decision.session.name in selected and self._is_wanted(decision)]

    def _refuse_unknown(self, listed: Sequence[ScratchSession]) -> None:
        """Refuse ids on the command line that name no session.

        Raises:
            NoSuchSessionError: there is one.
        """
        if unknown := sorted(self._only - {session.name for session in listed}):
            names = ", ".join(map(escape, unknown))
            raise NoSuchSessionError(f"no scratch session {names} in {self._root.path}: nothing was done; see also `arawn-cli trash list`")

    def _is_wanted(self, decision: Decision) -> bool:
        """Whether the run handles this session."""
        return not self._only or decision.session.name in self._only

    @property
    def planned(self) -> tuple[Decision, ...]:
        """The sessions that a dry run would remove."""
        removed = {outcome.session.name for outcome in self.done.outcomes if outcome.action.is_removal}
        return tuple(decision for decision in self._planned if decision.session.name in removed)

    def _space(self, sessions: int | None) -> Space:
        """Measure the budgets."""
        return Space(self._config, self._root, sessions, self._threads, self._context.advance_or_stop)

    def _put_back_pending(self) -> list[TrashEntry]:
        """Move back what an interrupted run left PENDING; return the other entries."""
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
                if is_in_trash(self._root, entry):
                    self.done.add_failure(failed, entry.session)
            else:
                log.warning("moved back session %s, which an interrupted run had begun to remove", entry.session)
        return [entry for entry in entries if entry.state is not TrashState.PENDING]

    def _restore_used(self, entries: Sequence[TrashEntry], evidence: Evidence) -> list[TrashEntry]:
        """Restore sessions with a turn after their removal; return entries that may be purged.

        Of several removals of a session, only the last one is put back. What is in doubt, or cannot
        be put back, stays in the trash.

        Raises:
            StoppedError: a signal asked the run to end.
        """
        names = _sessions_of(entries)
        last = {entry.session: entry for entry in entries if entry.session in names and entry.state is TrashState.CONFIRMED}
        if self._only:
            last = {session: entry for session, entry in last.items() if session in self._only}
        if not last:
            return list(entries)
        evidence.complete()
        stay: set[TrashEntry] = set()
        for entry in entries:
            if entry.state is not TrashState.CONFIRMED or entry.session not in last:
                continue
            turns = evidence.of(entry.session)
            used = is_used_since(entry.removed_at, turns)
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
        (usage,) = measure_all(self._root.workstreams, [Subtree(entry.path)], 1, self._context.advance_or_stop)
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

    def _purge_trash(self, entries: Sequence[TrashEntry], space: Space) -> None:
        """Purge the due entries, and then the oldest ones until no bound is exceeded."""
        days = self._config.maintenance.cleanup.trash_days
        early = [entry for entry in entries if not is_due(entry, self._now, days)]
        self._purge([entry for entry in entries if is_due(entry, self._now, days)], space)
        measured = measure_all(self._root.workstreams, [Subtree(entry.path) for entry in early], self._threads) if space.is_exceeded else []
        while batch := space.needed(measured):
            self._purge([early[position] for position in batch], space, space.reason)
            early = [entry for position, entry in enumerate(early) if position not in batch]
            measured = [usage for position, usage in enumerate(measured) if position not in batch]

    def _purge(self, entries: Sequence[TrashEntry], space: Space, why_early: str = "") -> None:
        """Purge entries and measure again. `why_early` is the reason before their time is over."""
        for entry in entries:
            if self._context.stopping():
                return
            purged = purge(self._root, entry, self._context.stopping, self._threads, dry_run=self._config.dry_run)
            self.done.purged.append(purged)
            for failure in purged.failures:
                self.done.add_failure(failure, entry.session)
            if purged.finished:
                space.freed.add(purged.usage)
                verb = "would purge" if self._config.dry_run else "purged"
                early = f" before its time, because {why_early}" if why_early else ""
                level = logging.WARNING if why_early else logging.INFO
                log.log(level, "%s session %s from the trash%s: %s freed", verb, entry.session, early, size(purged.freed_bytes))
        if entries and space.is_exceeded and not self._config.dry_run:
            space.measure_again()

    def _decide(
        self, sessions: Sequence[ScratchSession], evidence: Evidence, descriptor: int, space: Space
    ) -> tuple[list[Decision], list[Decision]]:
        """Measure the sessions that rows do not keep, and decide on all.

        Return the plan by age, and its decisions on those sessions that an exceeded budget may
        select.
        """
        budget = younger(self._policy, self._config) if space.exceeds_budget else self._policy
        soon = self._policy.earlier(_SOON_DAYS) if "expiring" in self._config.maintenance.notify.on else self._policy
        youngest = min(budget, soon, key=lambda policy: policy.older_than_days)
        undecided = sessions_to_measure(evidence.add_to(sessions, {}), youngest, self._now)
        self._context.progress.start("measuring", len(undecided))
        usages = measure_all(descriptor, [Subtree((session.name,)) for session in undecided], self._threads, self._context.advance_or_stop)
        measured = {session.name: usage for session, usage in zip(undecided, usages, strict=True)}
        sessions, measured = removable(sessions, measured, descriptor, self._needs)
        decisions = decide_by_evidence(sessions, measured, evidence, youngest, self._now)
        if youngest == self._policy:
            return decisions, []
        known = list(evidence.add_to(sessions, measured))
        by_age = decide_all(known, self._policy, self._now)
        if soon != self._policy:
            self.done.expiring = selectable(by_age, decide_all(known, soon, self._now))
        return by_age, [] if budget == self._policy else selectable(by_age, decide_all(known, budget, self._now))

    def _why_no_exchange(self, decisions: Sequence[Decision], descriptor: int) -> OSError | None:
        """Return why a real run could not keep chats, None in a real run, which will see."""
        if not self._config.dry_run or self._needs is None or not any(decision.is_removal for decision in decisions):
            return None
        return why_chats_cannot_be_kept(self._config, self._root, descriptor, self._needs)

    def _keep_unapproved(self, decisions: list[Decision]) -> list[Decision]:
        """Return the plan as far as the file of `--apply` approves it."""
        if self._approved is None:
            return decisions
        for session in self._approved.keys() - {escape(decision.session.name) for decision in decisions}:
            log.info("session %s of the plan does not exist any more", session)
        return keep_unapproved(decisions, self._change_since_plan)

    def _change_since_plan(self, session: ScratchSession) -> str | None:
        """Return why the file of `--apply` does not approve a removal; None if it does."""
        if self._approved is None:
            return None
        return self._approved[session.name].change(session) if session.name in self._approved else "it is not in the plan"

    def _remove_due(self, due: Sequence[Decision], remover: SessionRemover, space: Space) -> None:
        """Remove the sessions due by age: to the trash if it is in use and has space."""
        if self._config.maintenance.cleanup.trash_days:
            due = oldest_first(due)
            while batch := space.needed(usages_of(due)):
                why = f"not kept in the trash, because {space.reason}"
                self._remove([replace(due[at], detail=f"{due[at].detail}; {why}") for at in batch], remover, space, purge=True)
                due = [decision for position, decision in enumerate(due) if position not in batch]
        self._remove(due, remover, space, purge=not self._config.maintenance.cleanup.trash_days)

    def _remove_over_budget(self, candidates: Sequence[Decision], remover: SessionRemover, space: Space, room: int) -> None:
        """Remove at most `room` sessions that a budget needs, oldest first; keep others."""
        allowed = [decision for decision in candidates if self._change_since_plan(decision.session) is None]
        left = {decision.session.name: decision for decision in candidates}
        while batch := space.needed(usages_of(allowed), budgets_only=True):
            chosen = [over_budget(allowed[position], space.reason) for position in batch[:room]]
            if self._context.stopping():
                break
            if not chosen:
                for position in batch:
                    name = allowed[position].session.name
                    left[name] = Decision(allowed[position].session, Reason.OVER_BUDGET, "the removal limit allows no more in this run")
                break
            removed = self._remove(chosen, remover, space, purge=True)
            room -= removed
            for decision in chosen:
                del left[decision.session.name]
            allowed = [decision for decision in allowed if decision.session.name in left]
        for decision in left.values():
            self._keep(decision)

    def _report_unmet(self, space: Space) -> None:
        """Log the budgets that are still exceeded."""
        if space.exceeds_budget and not self._config.dry_run:
            space.measure_again()
        for bound in space.unmet():
            self.done.over_budget = max(self.done.over_budget, bound.usage - bound.limit)
            log.error("%s", unmet_text(bound, self.done.outcomes), extra=persistent("budget"))

    def _remove(self, due: Sequence[Decision], remover: SessionRemover, space: Space, *, purge: bool) -> int:
        """Remove sessions, record the outcomes, measure again; return the number removed."""
        self._context.progress.start("checking files" if self._config.dry_run else "removing files", sum(map(_files, due)))
        begun = removed = 0
        planned = {decision.session.name: decision for decision in due}
        for outcome in remover.remove([decision.session for decision in due], purge=purge):
            decision = planned[outcome.session.name]
            is_removal = outcome.reason is Reason.EXPIRED
            self.done.add(replace(outcome, reason=decision.reason, detail=decision.detail) if is_removal else outcome)
            if is_removal:
                removed += 1
                if purge and space.is_exceeded:
                    space.freed.add(outcome.session.usage or Usage())
            self._context.progress.advance(_files(decision))
            begun += 1
        if begun < len(due):
            log.warning("stopped by a signal; inactive sessions left for the next run: %d", len(due) - begun)
        if removed and purge and space.is_exceeded and not self._config.dry_run:
            space.measure_again(only_less=True)
        return removed

    def _keep(self, decision: Decision) -> None:
        self.done.add(Outcome(decision.session, Action.KEPT, decision.reason, detail=decision.detail))


def _files(decision: Decision) -> int:
    """Return the files of a session for the progress, and 1 for an empty one."""
    return max(decision.session.usage.files if decision.session.usage else 0, 1)


def _sessions_of(entries: Iterable[TrashEntry]) -> list[str]:
    """Return the ids of the sessions in the trash that can be put back."""
    return [entry.session for entry in entries if entry.state is TrashState.CONFIRMED and not entry.session.endswith("+")]
