"""Say why this account cannot remove or move a session, and which command helps."""

from __future__ import annotations

import errno
import os
import shlex
from collections.abc import Sequence
from dataclasses import replace

from arawn_cli.cleanup.sessions import Decision, ScratchSession, SessionsDirectory
from arawn_cli.events import Reason
from arawn_cli.fs.exchange import overlay_that_cannot_move
from arawn_cli.fs.permissions import Account, account_name, can_access, is_flagged, is_sticky
from arawn_cli.fs.usage import CUT_BYTES, Obstacle, ObstacleKind, Usage, shown_path
from arawn_cli.names import escape

_NAMED_MAX = 3  # objects that a text names


def explained(decision: Decision, directory: str) -> Decision:
    """Add objects and a fix to a decision by permissions, for the directory of the sessions."""
    usage = decision.session.usage
    if usage is None:
        return decision
    path = f"{directory}/{decision.session.name}"
    if decision.reason is Reason.NOT_PERMITTED and not decision.detail:
        return replace(decision, detail=not_permitted_text(usage, path, account_name(os.geteuid())))
    closed = any(failure.errno == errno.EACCES for failure in usage.failures)
    if decision.reason is Reason.ACTIVITY_UNKNOWN and closed and not usage.obstacles:
        # Only a directory of this account: those of others are obstacles. A dry run must not open
        # it.
        command = ["find", path, "-type", "d", "!", "-perm", "-u=rwx", "-exec", "chmod", "u+rwx", "{}", ";"]
        return replace(decision, detail=f"{decision.detail}: {_pasteable([command])}")
    return decision


def not_permitted_text(usage: Usage, path: str, account: str) -> str:
    """Return the obstacles that keep `account` from removing this absolute path, and a fix."""
    foreign = [obstacle for obstacle in usage.obstacles if obstacle.kind is ObstacleKind.FOREIGN]
    flagged = [obstacle.path for obstacle in usage.obstacles if obstacle.kind is ObstacleKind.FLAGGED]
    texts = [_foreign_text(foreign, usage, path, account)] if foreign else []
    if flagged:
        texts.append(_flagged_text(flagged, path))
    return "; ".join(texts)


def _foreign_text(foreign: Sequence[Obstacle], usage: Usage, path: str, account: str) -> str:
    owners = {obstacle.owner: account_name(obstacle.owner) for obstacle in foreign}
    owned = [f"{owners[id_]} owns {_listed([obstacle.path for obstacle in foreign if obstacle.owner == id_])}" for id_ in owners]
    if usage.foreign_links:
        return (
            f"{', '.join(owned)}; do not change the owner of everything in it, because these files have other names, perhaps elsewhere: "
            f"{_listed(usage.foreign_links)}"
        )
    commands: list[list[str]] = []
    for owner in owners.values():
        if usage.complete:
            commands.append(["sudo", "chown", "-hR", f"--from={owner}", account, path])
        else:  # unread directories may contain files that have a name elsewhere: leave these out
            tests = ["-user", owner, "!", "(", "-type", "f", "-links", "+1", ")"]
            commands.append(["sudo", "find", path, "-xdev", *tests, "-exec", "chown", "-h", account, "{}", "+"])
    return f"{', '.join(owned)}: {_pasteable(commands)}"


def _flagged_text(flagged: Sequence[bytes], path: str) -> str:
    whole = [os.fsdecode(below) for below in flagged[:_NAMED_MAX] if len(below) < CUT_BYTES]
    command = ["sudo", "chattr", "-i", "-a", *(f"{path}/{below}" if below else path for below in whole)]
    return f"{_listed(flagged)} is immutable or append-only: {_pasteable([command])}"


def _listed(paths: Sequence[bytes]) -> str:
    more = f" and {len(paths) - _NAMED_MAX} or more others" if len(paths) > _NAMED_MAX else ""
    return ", ".join(shown_path(path) or "." for path in paths[:_NAMED_MAX]) + more


def _pasteable(commands: Sequence[Sequence[str]]) -> str:
    text = " && ".join(map(shlex.join, commands))
    return text if text.isprintable() else f"{escape(text)} (type each \\xNN as the byte with this hexadecimal number)"


def why_immutable(directory: int, path: str) -> str | None:
    """Return why nothing can be moved out of an open directory, and a fix; None if it can."""
    if not is_flagged(directory):
        return None
    return f"is immutable or append-only: {shlex.join(['sudo', 'chattr', '-i', '-a', path])}"


def why_immovable(sessions: SessionsDirectory, session: ScratchSession, descriptor: int) -> Decision | None:
    """Return why the kernel would not move an open session out of its directory; None if it would.

    Its owner may make it writable, which the move needs because its `..` changes.

    Raises:
        OSError: one of the two directories cannot be read.
    """
    account = Account.current()
    above, status = os.fstat(sessions.descriptor), os.fstat(descriptor)
    writable = status.st_uid == account.user or can_access(descriptor, os.W_OK | os.X_OK)
    if not writable or (is_sticky(above, account) and not account.may_act_as_owner(status)):
        usage = (session.usage or Usage())._replace(obstacles=(Obstacle(ObstacleKind.FOREIGN, b"", status.st_uid),))
        return Decision(
            session, Reason.NOT_PERMITTED, not_permitted_text(usage, f"{sessions.path}/{session.name}", account_name(account.user))
        )
    if overlay := overlay_that_cannot_move(session.name, sessions.descriptor):
        return Decision(session, Reason.CANNOT_MOVE, cannot_move_text(overlay))
    return None


def cannot_move_text(overlay: str) -> str:
    """Say why the filesystem cannot move a session's directory, and name the remedy."""
    return (
        f"its directory is in a lower layer of the overlay at {escape(overlay)}, which cannot move it: "
        "mount the overlay with redirect_dir=on, or put the root on a separate volume"
    )
