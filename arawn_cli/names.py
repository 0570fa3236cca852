"""Recognise Arawn's ids among names on disk, shorten them, and make any name printable."""

from __future__ import annotations

import re
import string
from collections.abc import Sequence
from fnmatch import fnmatchcase

_ID = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_-]*", re.ASCII)
_NAME_MAX = 255  # bytes in a name on disk
_WORD = string.ascii_letters + string.digits + "_"
_HEX = "0123456789abcdef"

ID_ALPHABETS = (_WORD, *[f"{_WORD}-"] * (_NAME_MAX - 1))
"""The characters that are possible at each place of an id that fits on disk."""

UUID_ALPHABETS = tuple("-" if place in (8, 13, 18, 23) else _HEX for place in range(36))
"""The characters that are possible at each place of a UUID."""

# The parts of a shell pattern, as fnmatch takes it apart. A `[` without its `]` is a character.
_PARTS = re.compile(r"\*+|\[!?+\]?+[^\]]*+\]|.", re.DOTALL)
_UUID = re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}")


def is_valid_id(name: str) -> bool:
    """Return whether a name can be the id of a workstream or session.

    Arawn's rule: not empty, only ASCII letters, digits, `-` and `_`, not beginning with `-`.
    """
    return _ID.fullmatch(name) is not None


def is_uuid(name: str) -> bool:
    """Return whether a name is a UUID, as Arawn makes them for sessions and workstreams."""
    return _UUID.fullmatch(name) is not None


def can_match(pattern: str, alphabets: Sequence[str], shortest: int = 1) -> bool:
    """Return whether a shell pattern (fnmatch) matches any text.

    The text has a character of each alphabet in turn. It has at least `shortest` characters, and at
    most as many as there are alphabets.
    """
    parts = _PARTS.findall(pattern)

    def with_stars(place: int) -> set[int]:
        return {place, place + 1} if place < len(parts) and parts[place][0] == "*" else {place}

    places = with_stars(0)
    for length, alphabet in enumerate(alphabets, 1):
        found = [place for place in places if place < len(parts) and any(fnmatchcase(character, parts[place]) for character in alphabet)]
        places = set().union(*(with_stars(place if parts[place][0] == "*" else place + 1) for place in found))
        if length >= shortest and len(parts) in places:
            return True
    return False


def nearest_pattern(pattern: str) -> str | None:
    """Return a pattern that matches ids, made from one that matches none; None if nothing is left.

    It is the last part of a path, without the characters that no id has.
    """
    name = next((part for part in reversed(pattern.split("/")) if part.strip(" .")), "")
    parts = [part for part in _PARTS.findall(name) if can_match(part, ID_ALPHABETS[1:2])]
    near = "".join(parts).lstrip("-")
    return near if can_match(near, ID_ALPHABETS) and near.strip("*?") else None


LONGEST = 1000
"""The longest path or value in a message or event, in characters."""


def cut(text: str, most: int = LONGEST) -> str:
    """Return a text of at most `most` characters: of a longer one the middle is left out."""
    if len(text) <= most:
        return text
    return f"{text[: most // 2]}…{text[len(text) - (most - most // 2 - 1) :]}"


def shortened(id_: str) -> str:
    """Return an id for people: the first eight digits of a UUID, anything else in full."""
    return f"{id_[:8]}…" if is_uuid(id_) else id_


def escape(name: str) -> str:
    r"""Return a name as one printable line of text, from which the name can be restored.

    A backslash becomes `\\`. A byte that is not UTF-8, and every byte of a character that does not
    print (newline, escape, bidirectional controls), becomes `\xNN`. So the result is valid in
    strict JSON and cannot control a terminal.
    """
    if name.isascii() and name.isprintable() and "\\" not in name:
        return name
    return "".join(_escaped(character) for character in name)


def encodable(text: str) -> str:
    r"""Return a text that UTF-8 can encode: a byte that is not UTF-8 becomes `\xNN`."""
    return text if text.isascii() else "".join(_escaped(each) if "\ud800" <= each <= "\udfff" else each for each in text)


def _escaped(character: str) -> str:
    if character == "\\":
        return "\\\\"
    if character.isprintable():
        return character
    handler = "surrogateescape" if "\udc80" <= character <= "\udcff" else "surrogatepass"
    return "".join(f"\\x{byte:02x}" for byte in character.encode("utf-8", handler))
