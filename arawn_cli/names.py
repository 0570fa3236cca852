"""Names found on disk: which of them are Arawn's ids, and how any of them is shown."""

from __future__ import annotations

import re

_ID = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_-]*", re.ASCII)


def is_valid_id(name: str) -> bool:
    """Whether a name can be a workstream or session id of Arawn's.

    Arawn's rule: not empty, only ASCII letters, digits, `-` and `_`, and no `-` at the start.
    """
    return _ID.fullmatch(name) is not None


def escape(name: str) -> str:
    r"""A name as one printable, reversible line of text.

    A backslash becomes `\\`; a byte that is not UTF-8 and every byte of a
    character that does not print (newline, escape, bidirectional controls)
    becomes `\xNN`. Strict JSON readers take the result, and it cannot steer a terminal.
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
