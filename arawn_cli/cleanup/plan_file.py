"""A plan on disk: what one run would remove, for a person to look at and a later run to carry out."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from arawn_cli import timestamps
from arawn_cli.cleanup.sessions import Decision, ScratchSession
from arawn_cli.errors import ConfigurationError, RefusedError
from arawn_cli.events import Reason
from arawn_cli.fs.files import AtomicFile
from arawn_cli.fs.openat import Identity
from arawn_cli.names import escape

VERSION: Literal[1] = 1


_PRIVATE = 0o600


class PlannedSession(BaseModel):
    """One session of a plan; `last_activity_ns` is nanoseconds since the epoch, null when nothing tells of it."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)

    session_id: str
    device: Annotated[int, Field(ge=0)]
    inode: Annotated[int, Field(ge=0)]
    last_activity_ns: int | None
    last_activity: str | None
    bytes: Annotated[int, Field(ge=0)] | None
    reason: str

    def matches(self, session: ScratchSession) -> bool:
        """Whether a session is still what was planned to go."""
        identity: Identity = (self.device, self.inode)
        size = session.usage.apparent_bytes if session.usage else None
        planned = (identity, self.last_activity_ns, self.bytes)
        return self.reason == Reason.EXPIRED and planned == (session.identity, session.last_activity, size)


class PlanFile(BaseModel):
    """A plan: for one root, made at one time, with every scratch session in it."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)

    version: Literal[1]
    root: str
    created: str
    older_than_days: Annotated[int, Field(ge=1)]
    sessions: tuple[PlannedSession, ...] = Field(strict=False)


def to_be_written(path: Path) -> AtomicFile:
    """The file that a plan goes to; only its account reads it, as it names sessions.

    Raises:
        ConfigurationError: it shows already that it cannot be written there.
    """
    return AtomicFile(path, "the plan", _PRIVATE)


def text_of(root: Path, decisions: Iterable[Decision], older_than_days: int, now: int) -> str:
    """A plan as its file has it."""
    plan = PlanFile(
        version=VERSION,
        root=escape(str(root)),
        created=timestamps.render(now),
        older_than_days=older_than_days,
        sessions=tuple(_planned(decision) for decision in decisions),
    )
    return plan.model_dump_json(indent=2) + "\n"


def read(path: Path, root: Path) -> dict[str, PlannedSession]:
    """The sessions of a plan, by id.

    Raises:
        ConfigurationError: the file cannot be read or is no plan.
        RefusedError: it is of another version, or for another root.
    """
    try:
        text = path.read_bytes()
    except OSError as error:
        raise ConfigurationError(f"cannot read the plan {path}: {error.strerror}") from error
    try:
        plan = PlanFile.model_validate_json(text)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        place = ".".join(str(part) for part in first["loc"])
        if place == "version":
            raise RefusedError(f"{path} is a plan of another version than {VERSION}: make a new one with --plan-out") from error
        raise ConfigurationError(f"{path} is no plan: {escape(place)}: {first['msg']}") from error
    if plan.root != escape(str(root)):
        raise RefusedError(f"{path} is a plan for {plan.root}, not for {root}: nothing removed")
    return {session.session_id: session for session in plan.sessions}


def _planned(decision: Decision) -> PlannedSession:
    session = decision.session
    activity = session.last_activity
    return PlannedSession(
        session_id=escape(session.name),
        device=session.identity[0],
        inode=session.identity[1],
        last_activity_ns=activity,
        last_activity=None if activity is None else timestamps.render(activity),
        bytes=session.usage.apparent_bytes if session.usage else None,
        reason=decision.reason,
    )
