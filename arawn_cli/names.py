"""Recognise Arawn's ids among names on disk, shorten them, and make any name printable."""

from __future__ import annotations

import re

_ID = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_-]*", re.ASCII)
_UUID = re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}")


def is_valid_id(name: str) -> bool:
    """Return whether a name can be the id of a workstream or session.

    Arawn's rule: not empty, only ASCII letters, digits, `-` and `_`, not beginning with `-`.
    """
    return _ID.fullmatch(name) is not None


def is_uuid(name: str) -> bool:
    """Return whether a name is a UUID, as Arawn makes them for sessions and workstreams."""
    return _UUID.fullmatch(name) is not None


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


def _escaped(character: str) -> str:
    if character == "\\":
        return "\\\\"
    if character.isprintable():
        return character
    handler = "surrogateescape" if "\udc80" <= character <= "\udcff" else "surrogatepass"
    return "".join(f"\\x{byte:02x}" for byte in character.encode("utf-8", handler))
