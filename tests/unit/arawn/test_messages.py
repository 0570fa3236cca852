from __future__ import annotations

import codecs
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from arawn_cli.arawn import messages
from arawn_cli.arawn.messages import EVERY_SESSION, MessageLog, OtherMessagesError, Turns
from arawn_cli.errors import StoppedError
from arawn_cli.timestamps import DAY, SECOND
from tests.support import message_lines
from tests.support.message_lines import NOW, SESSIONS, Line, message

LIMITS = st.tuples(st.integers(1, 80), st.sampled_from([600, 16 << 20]))
"""Sizes of a block and of the longest line."""


@contextmanager
def opened(path: Path, content: bytes, mtime: int = NOW) -> Iterator[int]:
    path.write_bytes(content)
    os.utime(path, ns=(mtime, mtime))
    descriptor = os.open(path, os.O_RDONLY)
    try:
        yield descriptor
    finally:
        os.close(descriptor)


@contextmanager
def limits(block: int, longest: int) -> Iterator[None]:
    before = messages._BLOCK, messages._LONGEST
    messages._BLOCK, messages._LONGEST = block, longest
    try:
        yield
    finally:
        messages._BLOCK, messages._LONGEST = before


def read(path: Path, content: bytes, *sessions: str, mtime: int = NOW) -> Turns:
    log = MessageLog("m", sessions)
    with opened(path, content, mtime) as descriptor:
        log.read(descriptor)
    return log.turns


def damage_of(turns: Turns, session: str) -> int | None:
    return max((turns.damage[name].at for name in (session, EVERY_SESSION) if name in turns.damage), default=None)


@given(message_lines.lines(), LIMITS, st.booleans(), st.integers(NOW - 30 * DAY, NOW))
def test_turns_and_damage_are_found_in_any_order(
    tmp_path: Path, lines: list[Line], sizes: tuple[int, int], newline: bool, mtime: int
) -> None:
    content = b"\n".join(line.text for line in lines) + (b"\n" if newline else b"")
    with limits(*sizes):
        turns = read(tmp_path / "m", content, *SESSIONS, mtime=mtime)
    for session in SESSIONS:
        assert turns.newest.get(session) == message_lines.newest(lines, session)
        assert damage_of(turns, session) == message_lines.damage(lines, session, mtime)
    assert turns.damaged_lines == sum(line.at is None for line in lines)
    for damage in turns.damage.values():
        text = content[damage.offset :].partition(b"\n")[0]
        assert any(line.at is None and line.text == text for line in lines)


@given(message_lines.lines(), st.lists(st.integers(0, 5000), max_size=4), LIMITS)
def test_a_file_that_grows_is_read_like_a_whole_one(tmp_path: Path, lines: list[Line], cuts: list[int], sizes: tuple[int, int]) -> None:
    content = b"\n".join(line.text for line in lines)
    path = tmp_path / "m"
    log = MessageLog("m", SESSIONS)
    with limits(*sizes), opened(path, b"") as descriptor:
        for cut in [*sorted(cuts), len(content)]:
            if cut > os.fstat(descriptor).st_size:
                with path.open("ab") as file:
                    file.write(content[os.fstat(descriptor).st_size : cut])
                os.utime(path, ns=(NOW, NOW))
            log.read(descriptor)
    assert log.turns == read(path, content, *SESSIONS)


@given(st.lists(st.sampled_from([b"\n", b"\0" * 9000, message("a", NOW), message("b", NOW - DAY), b'{"session_id": "c"']), max_size=8))
def test_a_hole_is_read_like_the_zeros_in_it(tmp_path: Path, pieces: list[bytes]) -> None:
    content = b"".join(pieces)
    log = MessageLog("m", SESSIONS)
    with opened(tmp_path / "sparse", b"") as descriptor:
        with (tmp_path / "sparse").open("r+b") as file:
            for piece in pieces:
                if piece[0]:
                    file.write(piece)
                else:
                    file.seek(len(piece), os.SEEK_CUR)
            file.truncate(len(content))
        os.utime(tmp_path / "sparse", ns=(NOW, NOW))
        log.read(descriptor)
    assert log.turns == read(tmp_path / "whole", content, *SESSIONS)


@pytest.mark.parametrize("before", [b"", message("b", NOW - 40 * DAY) + b"\n"])
def test_a_byte_order_mark_hides_no_turn(tmp_path: Path, before: bytes) -> None:
    """An editor puts it before the first line, and `cat` in the middle."""
    turns = read(tmp_path / "m", before + codecs.BOM_UTF8 + message("a", NOW) + b"\n" + message("b", NOW - 30 * DAY), "a", "b")
    assert (turns.newest, turns.damage) == ({"a": NOW, "b": NOW - 30 * DAY}, {})


def test_an_empty_file_has_no_turns(tmp_path: Path) -> None:
    assert read(tmp_path / "m", b"", "a") == Turns("m", frozenset("a"))
    assert read(tmp_path / "m", b"\n \t\r\n", "a") == Turns("m", frozenset("a"))


def test_a_stretch_of_zeros_in_which_a_message_can_be_lost_counts_for_every_session(tmp_path: Path) -> None:
    for zeros, names in ((5, {"a"}), (200, {"a", EVERY_SESSION})):
        content = message("a", NOW)[:-10] + b"\0" * zeros + message("b", NOW)[-10:]
        assert set(read(tmp_path / "m", content, "a", "b", "c").damage) == names


@pytest.mark.parametrize("change", ["replaced", "shorter", "written again"])
def test_a_file_that_is_not_the_same_any_more_is_an_error(tmp_path: Path, change: str) -> None:
    path = tmp_path / "m"
    log = MessageLog("m", ("a",))
    with opened(path, message("a", NOW) + b"\n" + message("a", NOW) + b"\n") as descriptor:
        log.read(descriptor)
        if change == "shorter":
            os.truncate(path, 3)
        if change == "written again":
            path.write_bytes(message("a", NOW) * 5 + b"\n")
        with opened(tmp_path / "other", (message("a", NOW) + b"\n") * 5) as other, pytest.raises(OtherMessagesError):
            log.read(other if change == "replaced" else descriptor)


def test_a_file_that_lost_only_its_torn_last_line_is_an_error(tmp_path: Path) -> None:
    whole = message("a", NOW) + b"\n"
    log = MessageLog("m", ("a",))
    with opened(tmp_path / "m", whole + b'{"session_id":"a"') as descriptor:
        log.read(descriptor)
        os.truncate(tmp_path / "m", len(whole))
        with pytest.raises(OtherMessagesError):
            log.read(descriptor)


def test_a_signal_ends_reading_within_a_block(tmp_path: Path) -> None:
    asked = iter([False, True])
    with opened(tmp_path / "m", message("a", NOW) + b"\n" + b"x" * 4 * messages._BLOCK) as descriptor, pytest.raises(StoppedError):
        MessageLog("m", ("a",)).read(descriptor, lambda: next(asked))


def test_a_line_as_long_as_a_disk_is_read_in_bounded_memory_and_hides_no_turn(tmp_path: Path) -> None:
    path = tmp_path / "m"
    with path.open("wb") as file:
        file.write(message("a", NOW) + b'\n{"session_id": "b", "content": "')
        for _ in range(100):
            file.write(b'\\"session_id\\": ' * (1 << 16))
        file.write(b"\n" + message("c", NOW) + b"\n")
        file.truncate(1 << 50 if os.statvfs(tmp_path).f_bsize > 4096 else 1 << 40)
    code = (
        "import os, resource, sys; from arawn_cli.arawn.messages import MessageLog;"
        "log = MessageLog('m', ('a', 'b', 'c', 'd')); before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss;"
        "log.read(os.open(sys.argv[1], os.O_RDONLY));"
        "more = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before;"
        "print(sorted(log.turns.newest), [str(name) for name in log.turns.damage], more < 128 << 10)"
    )
    done = subprocess.run([sys.executable, "-c", code, str(path)], capture_output=True, text=True, check=False)
    assert done.stdout == "['a', 'c'] ['b', 'None'] True\n", done.stderr


@given(st.integers(1, 40), st.integers(1, 300), st.sampled_from([b"", b"\0" * 60, b"\\u0041"]))
def test_a_line_longer_than_any_message_counts_for_the_sessions_that_it_names(tmp_path: Path, long: int, block: int, lost: bytes) -> None:
    names = [f"s{number}" for number in range(9)]
    texts = [f'{{"session_id" : "{name}", "content": "{"x" * len(name) * long}"}}'.encode() for name in names]
    content = texts[0] + lost + b"".join(texts[1:]) + b"y" * 2000 + b"\n"
    with limits(block, 700):
        turns = read(tmp_path / "m", content, *names, "x")
    assert set(turns.damage) == {*names, *([EVERY_SESSION] if lost else [])}
    assert {damage.at for damage in turns.damage.values()} == {NOW}


def test_a_line_that_is_too_long_and_names_other_sessions_is_no_turn_of_these(tmp_path: Path) -> None:
    with limits(100, 700):
        assert not read(tmp_path / "m", message("other", NOW, "x" * 3000) + b"\n" + message("a", NOW - SECOND), "a").damage
        assert set(read(tmp_path / "m", message(None, NOW, "x" * 3000) + b"\n" + message("a", NOW), "a").damage) == {EVERY_SESSION}


@given(st.lists(st.integers(0, 50), min_size=1, max_size=6), st.integers(0, 5))
def test_damage_names_the_message_that_dates_it(tmp_path_factory: pytest.TempPathFactory, days: list[int], after: int) -> None:
    """A message of the future before a torn line keeps every session until somebody corrects it."""
    lines = [message("other", NOW + ahead * DAY) for ahead in days]
    torn = min(after, len(lines))
    content = b"".join(line + b"\n" for line in (*lines[:torn], b'{"torn', *lines[torn:]))
    (damage,) = read(tmp_path_factory.mktemp("m") / "m", content, "a").damage.values()
    assert damage.dated_by is not None or torn == 0 or damage.at == NOW
    if damage.dated_by is not None:
        assert content[damage.dated_by :].partition(b"\n")[0] == message("other", damage.at)
        assert f", the time of the message at byte {damage.dated_by}" in damage.dated
