"""What a report says of a root: values that the forms of it show."""

from __future__ import annotations

from dataclasses import dataclass

from arawn_cli.alerts import Transition
from arawn_cli.disk_events import Filesystem
from arawn_cli.events import Level
from arawn_cli.forecast import Sample
from arawn_cli.pressure import ScopeUsage
from arawn_cli.scratch_session import Reason

SHOWN_SESSIONS = 8
SHOWN_ALERTS = 12


@dataclass(frozen=True, slots=True)
class Standing:
    """A scope: its usage and level now, its usage over the period, and what that leads to.

    `growth` is per day, None when nobody knows. `next_limit` is None above all limits, `forecast_days` are
    the days until that limit is reached, None when that is unknown, more than a year off, or not coming.
    """

    usage: ScopeUsage
    level: Level
    trend: tuple[Sample, ...]
    growth: float | None
    next_limit: int | None
    forecast_days: int | None

    @property
    def percent(self) -> int:
        """Usage as a whole percentage of the limit, rounded down."""
        return self.usage.usage * 100 // max(self.usage.limit, 1)


@dataclass(frozen=True, slots=True)
class WorkstreamStanding:
    """A workstream, with its bytes by area in the configured measure.

    Where nobody knows its limit, the level is unknown, and the limits are zero.
    """

    id: str
    standing: Standing
    production: int
    work: int
    other: int


@dataclass(frozen=True, slots=True)
class Session:
    """A scratch session: `reason` says why it goes or stays, `due` from when on its age lets it go, None when no day is known."""

    id: str
    level: Level
    size: int
    last_activity: int | None
    reason: Reason
    due: int | None


@dataclass(frozen=True, slots=True)
class NextCleanup:
    """What a cleanup now would take, the oldest first, and what comes due after it, the earliest first."""

    going: tuple[Session, ...]
    freed: int
    coming: tuple[Session, ...]
    braked: bool


@dataclass(frozen=True, slots=True)
class Report:
    """A root at one instant. Times are nanoseconds since the epoch, sizes are bytes in the configured measure.

    Attributes:
        days: length of the period that trends and alerts cover.
        workstreams: the largest first.
        space: None where the filesystem does not count what `space` and `inodes` count.
        sessions: every scratch session, in no order.
        cleanup: None when nobody knows what a cleanup would do.
        transitions: changes of level in the period, newest first.
        problems: what could not be read, a line each; all figures leave it out.
    """

    now: int
    days: int
    host: str
    root: str
    older_than_days: int
    level: Level
    total: Standing
    workstreams: tuple[WorkstreamStanding, ...]
    space: Standing | None
    inodes: Standing | None
    filesystem: Filesystem
    trash: int
    foreign: int
    sessions: tuple[Session, ...]
    cleanup: NextCleanup | None
    transitions: tuple[Transition, ...]
    problems: tuple[str, ...]

    @property
    def complete(self) -> bool:
        """Whether everything could be read."""
        return not self.problems

    @property
    def has_history(self) -> bool:
        """Whether any earlier check is remembered."""
        return len(self.total.trend) > 1

    def largest(self) -> list[Session]:
        """The largest scratch sessions, largest first."""
        return sorted(self.sessions, key=lambda session: session.size, reverse=True)[:SHOWN_SESSIONS]

    def oldest(self) -> list[Session]:
        """The scratch sessions that nobody used for longest, oldest first."""
        known = [session for session in self.sessions if session.last_activity is not None]
        return sorted(known, key=activity_of)[:SHOWN_SESSIONS]


def activity_of(session: Session) -> int:
    """When a session was last used, for an order: one of which nobody knows comes first."""
    return session.last_activity or 0
