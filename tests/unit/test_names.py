from __future__ import annotations

import os
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from arawn_cli.names import escape, is_valid_id, shortened


@pytest.mark.parametrize("name", ["a", "A-1_b", "_x", "0", "7b1f3a52-9c6e-4d0b-8f27-1a5f0c3e9d11"])
def test_arawn_ids_are_valid(name: str) -> None:
    assert is_valid_id(name)


@pytest.mark.parametrize("name", ["", "-a", ".", "..", ".trash", "a b", "a/b", "ä", "a\n", "٣", "a.b"])
def test_anything_else_is_foreign(name: str) -> None:
    assert not is_valid_id(name)


def test_a_uuid_is_shortened_and_any_other_id_is_not() -> None:
    assert shortened("7b1f3a52-9c6e-4d0b-8f27-1a5f0c3e9d11") == "7b1f3a52…"
    assert shortened("a-very-long-name-of-a-session-that-is-no-uuid") == "a-very-long-name-of-a-session-that-is-no-uuid"


def _unescape(text: str) -> bytes:
    pieces = re.split(r"(\\\\|\\x[0-9a-f]{2})", text)
    return b"".join(
        b"\\" if piece == "\\\\" else bytes([int(piece[2:], 16)]) if piece.startswith("\\x") else piece.encode() for piece in pieces
    )


@given(st.binary(min_size=1, max_size=40))
def test_escaped_names_are_printable_and_can_be_read_back(name: bytes) -> None:
    shown = escape(os.fsdecode(name))
    assert shown.isprintable()
    assert _unescape(shown) == name


def test_names_cannot_steer_a_terminal() -> None:
    assert escape("a\x1b[2Jb\nc\u202e") == "a\\x1b[2Jb\\x0ac\\xe2\\x80\\xae"
