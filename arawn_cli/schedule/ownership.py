"""Whose a file is: what the tool wrote carries a first line by which an edit of it is noticed."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Sequence

from arawn_cli.vocabulary import Condition

_SEAL = re.compile(r"# arawn-cli schedule sha256=([0-9a-f]{64}) made=(\[.*\])\n", re.ASCII)


def sealed(body: str, made: Sequence[str] = ()) -> str:
    """A file's text: the first line with the hash of all others and the directories made with it, and the body."""
    digest = hashlib.sha256(body.encode()).hexdigest()
    return f"# arawn-cli schedule sha256={digest} made={json.dumps(list(made))}\n{body}"


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


def made_with(found: str | None) -> tuple[str, ...]:
    """The directories that the first line says were made, outermost first; none where there is no such line."""
    match = _SEAL.match(found or "")
    if match is None:
        return ()
    try:
        made = json.loads(match[2])
    except ValueError:
        return ()
    return tuple(path for path in made if isinstance(path, str))
