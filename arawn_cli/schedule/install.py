"""The use cases `schedule install` and `schedule remove`: show what would change, ask, change it, tell systemd."""

from __future__ import annotations

import shlex
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass

from arawn_cli.errors import ExitCode, RefusedError
from arawn_cli.schedule.changes import AskedWronglyError, Change, ScheduleError
from arawn_cli.schedule.installation import Place, require_rights, units_of
from arawn_cli.vocabulary import Condition


@dataclass(frozen=True, slots=True)
class Consent:
    """How a change is agreed to.

    Attributes:
        yes: `--yes`, for what the tool wrote.
        force: `--force`, for what it did not write too.
        ask: puts a question, or None where nobody is there to answer.
        tell: shows a line.
    """

    yes: bool
    force: bool
    ask: Callable[[str], bool] | None
    tell: Callable[[str], None]

    def require_somebody(self) -> None:
        """Makes sure that there is consent, or somebody to give it.

        Raises:
            AskedWronglyError: there is not.
        """
        if not self.yes and self.ask is None:
            raise AskedWronglyError("standard input is no terminal, so nobody can be asked: say --yes, after a look with `schedule show`")

    def agreed(self, changes: Sequence[Change]) -> list[Change]:
        """The changes without those that would touch somebody's own edits and are not agreed to.

        Raises:
            RefusedError: there are such, and nobody to ask.
        """
        for change in changes:
            for line in change.diff():
                self.tell(line)
        return [change for change in changes if not change.needs_question or self.force or self._may_touch(change)]

    def goes_ahead(self, question: str) -> bool:
        """Whether it is agreed to go ahead."""
        return self.yes or (self.ask is not None and self.ask(question))

    def _may_touch(self, change: Change) -> bool:
        found = "was edited since the tool wrote it" if change.condition is Condition.EDITED else "is there and was not written by the tool"
        if self.ask is None:
            raise RefusedError(f"{change.place} {found}: left as it is, nothing was changed; look at it, and use --force to lose it")
        verb = "Remove" if change.after is None else "Overwrite"
        return self.ask(f"{change.place} {found}. {verb} it?")


def install(place: Place, bodies: Mapping[str, str], consent: Consent, located: Sequence[str] = ()) -> ExitCode:
    """Brings a place to the wanted texts and starts the timers; what is as it should be is not touched.

    `located` are the words that say where the configuration is, for the commands that are named at the end.

    Raises:
        AskedWronglyError, RefusedError, ScheduleError: it cannot be done here, or is not agreed to, or failed.
    """
    require_rights(place)
    changes = place.store.installing(bodies)
    if not changes and not _idle(place):
        consent.tell(f"Installed already, nothing to change ({place.title}).")
        _tell_of_logout(place, consent)
        return ExitCode.DONE
    consent.require_somebody()
    agreed = consent.agreed(changes)
    if not agreed and not _idle(place):
        consent.tell("Nothing changed.")
        return ExitCode.DONE
    if not consent.goes_ahead(f"Install {_count(agreed, 'file')} and start the timers ({place.title})?"):
        consent.tell("Nothing changed.")
        return ExitCode.DONE
    place.store.apply(agreed)
    _start(place, {change.name for change in agreed})
    status, doctor = (shlex.join(("arawn-cli", *words, *located)) for words in (("schedule", "status", *place.flags.split()), ("doctor",)))
    consent.tell(f"Installed {_count(agreed, 'file')}. See `{status}`, and `{doctor}`.")
    _tell_of_logout(place, consent)
    return ExitCode.DONE


def remove(place: Place, consent: Consent) -> ExitCode:
    """Takes away what `install` brought, and nothing else.

    Raises:
        AskedWronglyError, RefusedError, ScheduleError: as in `install`.
    """
    require_rights(place)
    changes = place.store.removing()
    if not changes:
        consent.tell(f"Nothing is installed ({place.title}).")
        return ExitCode.DONE
    consent.require_somebody()
    agreed = consent.agreed(changes)
    if not agreed or not consent.goes_ahead(f"Stop the timers and remove {_count(agreed, 'file')} ({place.title})?"):
        consent.tell("Nothing changed.")
        return ExitCode.DONE
    _stop(place, [change.name for change in agreed if change.name in place.timers])
    place.store.apply(agreed)
    _reload(place)
    consent.tell(f"Removed {_count(agreed, 'file')}.")
    return ExitCode.DONE


def _tell_of_logout(place: Place, consent: Consent) -> None:
    mend = place.manager.lingering() if place.manager is not None else None
    if mend is not None:
        consent.tell(f"The timers of this account stop when it logs out. To keep them running: {mend}")


def _idle(place: Place) -> list[str]:
    """The timers that do not run as their files say, or would not after the next start of the machine."""
    manager = place.manager
    if manager is None:
        return []
    runs = manager.answers()
    return [
        timer
        for timer in place.timers
        if manager.state("is-enabled", timer) != "enabled"
        or (runs and (manager.state("is-active", timer) != "active" or any(manager.is_behind(unit) for unit in units_of(timer))))
    ]


def _start(place: Place, changed: set[str]) -> None:
    """Enables the timers; one that runs already is started anew only when its own file has changed."""
    manager = place.manager
    if manager is None:
        return
    idle = _idle(place)
    _reload(place)
    manager.tell("enable", *place.timers)
    if manager.answers():
        for timer in place.timers:
            if timer in changed or timer in idle:
                manager.tell("restart", timer)


def _stop(place: Place, timers: Sequence[str]) -> None:
    manager = place.manager
    if manager is None or not timers:
        return
    manager.tell("disable", *timers)
    if manager.answers():
        manager.tell("stop", *timers)
        with suppress(ScheduleError):  # no timer has a stamp file before it first ran
            manager.tell("clean", "--what=state", *timers)


def _reload(place: Place) -> None:
    if place.manager is not None and place.manager.answers():
        place.manager.tell("daemon-reload")
        with suppress(ScheduleError):  # unless one of them has failed there is nothing to forget
            place.manager.tell("reset-failed", *(units_of(timer)[1] for timer in place.timers))


def _count(changes: Sequence[Change], noun: str) -> str:
    return f"{len(changes)} {noun}" if len(changes) == 1 else f"{len(changes)} {noun}s"
