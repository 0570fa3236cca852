"""Carry out a plan: purge trash, remove sessions, and report which budgets are not met."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass, replace

from arawn_cli.arawn.root import Root
from arawn_cli.cleanup.budget import Space, split, unmet_text
from arawn_cli.cleanup.outcomes import Outcomes
from arawn_cli.cleanup.plan import Plan, oldest_first, over_budget, usages_of
from arawn_cli.cleanup.removal import SessionRemover
from arawn_cli.cleanup.sessions import Decision, ScratchSession
from arawn_cli.cleanup.trash import purge
from arawn_cli.cleanup.trash_entry import TrashEntry
from arawn_cli.config.loader import Config
from arawn_cli.context import RunContext
from arawn_cli.events import Reason
from arawn_cli.fs.measure import threads_for
from arawn_cli.fs.usage import Usage
from arawn_cli.problems import persistent
from arawn_cli.units import size

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Execution:
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
