"""Whose a file is: what the tool wrote carries a first line by which an edit of it is noticed."""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass
from enum import Enum

_SEAL = re.compile(r"# arawn-cli schedule sha256=([0-9a-f]{64}) made=(\d+) stamps=(\d+)\n", re.ASCII)


class Condition(Enum):
    """What is found where a file of the tool's belongs."""

    MISSING = "missing"
    CURRENT = "current"
    OUTDATED = "outdated"
    EDITED = "edited"
    FOREIGN = "foreign"

    @property
    def is_ours(self) -> bool:
        """Whether the tool wrote all of it, so that nothing of anybody's is lost with it."""
        return self in (Condition.CURRENT, Condition.OUTDATED)


@dataclass(frozen=True, slots=True)
class Traces:
    """Directories that came into being with a file, as levels above it, and above the stamp file of its timer."""

    made: int = 0
    stamps: int = 0


def sealed(body: str, traces: Traces) -> str:
    """A file's text: the first line with the hash of all others, and the body."""
    digest = hashlib.sha256(body.encode()).hexdigest()
    return f"# arawn-cli schedule sha256={digest} made={traces.made} stamps={traces.stamps}\n{body}"


def condition_of(found: str | None, body: str | None) -> Condition:
    """What a text found is, compared with the body wanted; with None for it, an untouched text is outdated."""
    if found is None:
        return Condition.MISSING
    match = _SEAL.match(found)
    if match is None:
        return Condition.FOREIGN
    rest = found[match.end() :]
    if rest == body:
        return Condition.CURRENT
    untouched = hashlib.sha256(rest.encode("utf-8", "surrogateescape")).hexdigest() == match[1]
    return Condition.OUTDATED if untouched else Condition.EDITED


def traces_of(found: str | None) -> Traces:
    """What the first line says of directories; nothing where there is none."""
    match = _SEAL.match(found or "")
    return Traces(int(match[2]), int(match[3])) if match else Traces()
