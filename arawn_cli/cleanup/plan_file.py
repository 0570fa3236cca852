"""Write a plan for people to approve, and read it for a run that removes only its sessions."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from arawn_cli import timestamps
from arawn_cli.cleanup.sessions import Decision, Outcome, ScratchSession
from arawn_cli.errors import ConfigurationError, RefusedError
from arawn_cli.events import REMOVED_FOR, rendered
from arawn_cli.fs.files import read_small_file, read_standard_input
from arawn_cli.names import escape

VERSION: Literal[1] = 1


PLAN_MODE = 0o600
"""Only its owner can read a plan, because it names sessions."""

STANDARD_STREAM = Path("-")
"""Standard output or standard input in place of a file."""

_STANDARD_INPUT = ("-", "/dev/stdin")
_MAX_BYTES = 64 * 1024 * 1024  # a session takes about 300


class PlannedSession(BaseModel):
    """One session of a plan. `last_activity_ns` is nanoseconds since the epoch, null if unknown."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, defer_build=True)

    session_id: str
    device: Annotated[int, Field(ge=0)]
    inode: Annotated[int, Field(ge=0)]
    last_activity_ns: int | None
    last_activity: str | None
    bytes: Annotated[int, Field(ge=0)] | None
    reason: str

    def change(self, session: ScratchSession) -> str | None:
        """Name the change since a removal was planned; return None without one."""
        if self.reason not in REMOVED_FOR:
            return f"planned as {self.reason}"
        if session.identity != (self.device, self.inode):
            return "replaced since the plan was made"
        if session.last_activity != self.last_activity_ns:
            return f"last activity at {rendered(session.last_activity)}, planned with {self.last_activity}"
        size = session.usage.apparent_bytes if session.usage else None
        return None if size == self.bytes else f"{size} bytes, planned with {self.bytes}"


class PlanFile(BaseModel):
    """A plan for one root, with every scratch session."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, defer_build=True)

    version: Literal[1]
    root: str
    created: str
    older_than_days: Annotated[int, Field(ge=1)]
    sessions: tuple[PlannedSession, ...] = Field(strict=False)


def render_plan(root: Path, decisions: Iterable[Decision], older_than_days: int, now: int) -> str:
    """Return a plan as JSON text."""
    plan = PlanFile(
        version=VERSION,
        root=escape(str(root)),
        created=timestamps.render(now),
        older_than_days=older_than_days,
        sessions=tuple(_planned(decision) for decision in decisions),
    )
    return plan.model_dump_json(indent=2) + "\n"


def approval(outcomes: Iterable[Outcome]) -> dict[str, PlannedSession]:
    """Return the approval of removals that a dry run announced, as `read_plan` returns a file's."""
    return {(planned := _planned(outcome)).session_id: planned for outcome in outcomes}


def change_since_plan(approved: Mapping[str, PlannedSession], session: ScratchSession) -> str | None:
    """Return why a plan does not approve the removal of a session; None if it does."""
    return approved[session.name].change(session) if session.name in approved else "it is not in the plan"


def read_plan(path: Path, root: Path, stopping: Callable[[], bool]) -> dict[str, PlannedSession]:
    """Return the sessions of a plan by id. The file `-` is standard input.

    Raises:
        StoppedError: `stopping` returned that a signal asked the run to end.
        ConfigurationError: the file cannot be read or is not a plan.
        RefusedError: it has another version, or is for another root.
    """
    try:
        text = read_standard_input(_MAX_BYTES, stopping) if str(path) in _STANDARD_INPUT else read_small_file(path, _MAX_BYTES)
    except OSError as error:
        raise ConfigurationError(f"cannot read the plan {path}: {error.strerror}") from error
    try:
        plan = PlanFile.model_validate_json(text)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        key = ".".join(str(part) for part in first["loc"])
        if key == "version":
            raise RefusedError(f"{path} is a plan of another version than {VERSION}: write a new one with --plan-out") from error
        raise ConfigurationError(f"{path} is not a plan: {escape(key)}: {first['msg']}") from error
    if plan.root != escape(str(root)):
        raise RefusedError(f"{path} is a plan for {plan.root}, not for {root}: nothing removed")
    return {session.session_id: session for session in plan.sessions}


def _planned(decision: Decision | Outcome) -> PlannedSession:
    session = decision.session
    activity = session.last_activity
    return PlannedSession(
        session_id=escape(session.name),
        device=session.identity[0],
        inode=session.identity[1],
        last_activity_ns=activity,
        last_activity=rendered(activity),
        bytes=session.usage.apparent_bytes if session.usage else None,
        reason=decision.reason,
    )
