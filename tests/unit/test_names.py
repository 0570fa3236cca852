from __future__ import annotations

import os
import re
from fnmatch import fnmatchcase
from itertools import product

import pytest
from hypothesis import given
from hypothesis import strategies as st

from arawn_cli.names import ID_ALPHABETS, UUID_ALPHABETS, can_match, escape, is_uuid, is_valid_id, nearest_pattern, shortened


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


# Parts of shell patterns: those that can match a character of an id, and those that cannot.
patterns = st.lists(
    st.sampled_from(
        ["*", "?", "a", "-", "_", "[a-]", "[!a]", "[!-]", "[]a]", "[z-a]", "[!a-zA-Z0-9_-]", "[", "]", "!", "/", " ", ".", "é", "\n"]
    ),
    max_size=5,
).map("".join)


@given(patterns)
def test_a_pattern_is_accepted_if_an_id_matches_it_and_rejected_if_none_does(pattern: str) -> None:
    """An id of a pattern of five parts has at most six characters, and one of these three fits each
    part."""
    ids = ("".join(characters) for length in range(1, 7) for characters in product("a-_", repeat=length))
    found = any(is_valid_id(name) and fnmatchcase(name, pattern) for name in ids)
    assert can_match(pattern, ID_ALPHABETS) == found


@given(st.from_regex(r"[A-Za-z0-9_][A-Za-z0-9_-]{0,60}", fullmatch=True), st.data())
def test_a_pattern_made_from_an_id_is_accepted(name: str, data: st.DataObject) -> None:
    pattern = "".join(data.draw(st.sampled_from([character, "?", "*", f"[{character}]", f"{character}*"])) for character in name)
    assert fnmatchcase(name, pattern)
    assert can_match(pattern, ID_ALPHABETS)


@given(st.uuids().map(str), st.sets(st.integers(0, 35)))
def test_a_pattern_can_match_a_uuid_if_its_parts_fit(uuid: str, hidden: set[int]) -> None:
    pattern = "".join("?" if place in hidden else character for place, character in enumerate(uuid))
    assert is_uuid(uuid)
    assert can_match(pattern, UUID_ALPHABETS, 36)
    assert can_match(f"{uuid[:8]}*", UUID_ALPHABETS, 36)
    for wrong in (f"{pattern}?", pattern[:-1], f"*g{pattern[1:]}", "keep-*", uuid.replace("-", "_")):
        assert not can_match(wrong, UUID_ALPHABETS, 36)


def test_a_name_that_is_too_long_for_a_directory_is_no_id() -> None:
    assert [can_match("a" * length, ID_ALPHABETS) for length in (255, 256)] == [True, False]


@pytest.mark.parametrize("pattern", ["s1/", "./s1", "s1 ", "/srv/arawn/s1", "-s1", "s1.", "s1/.", "workstreams/s1/ "])
def test_the_nearest_pattern_to_a_path_is_the_name_of_the_session(pattern: str) -> None:
    assert nearest_pattern(pattern) == "s1"


@pytest.mark.parametrize("pattern", ["", "/", "..", "*.*", "é", "--", "[!a-zA-Z0-9_-]"])
def test_nothing_is_near_to_a_pattern_without_characters_of_an_id(pattern: str) -> None:
    assert nearest_pattern(pattern) is None
