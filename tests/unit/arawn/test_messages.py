from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from arawn_cli import timestamps
from arawn_cli.arawn import messages

SECOND = timestamps.SECOND
NOW = 1_700_000_000 * SECOND
CUTOFF = NOW - 7 * timestamps.DAY


def line(session: str | None, at: int, content: str = "x") -> bytes:
    message = {"id": "m", "workstream_id": "scratch", "session_id": session, "role": "user", "content": content}
    return json.dumps({**message, "timestamp": timestamps.render(at)}).encode() + b"\n"


@contextmanager
def opened(path: Path, content: bytes, mtime: int = NOW) -> Iterator[int]:
    path.write_bytes(content)
    os.utime(path, ns=(mtime, mtime))
    descriptor = os.open(path, os.O_RDONLY)
    try:
        yield descriptor
    finally:
        os.close(descriptor)


def newest(path: Path, content: bytes, *sessions: str, mtime: int = NOW) -> dict[str, int]:
    with opened(path, content, mtime) as descriptor:
        return messages.read(descriptor, sessions, CUTOFF).newest


def test_the_newest_turn_of_each_session_is_found(tmp_path: Path) -> None:
    content = line("a", NOW - 50 * SECOND) + line("b", NOW - 40 * SECOND) + line("a", NOW - 30 * SECOND) + line(None, NOW)
    assert newest(tmp_path / "m", content, "a", "b", "c") == {"a": NOW - 30 * SECOND, "b": NOW - 40 * SECOND}


def test_an_empty_file_has_no_turns(tmp_path: Path) -> None:
    assert newest(tmp_path / "m", b"", "a") == {}


def test_a_whole_last_line_without_newline_counts(tmp_path: Path) -> None:
    assert newest(tmp_path / "m", line("a", NOW)[:-1], "a") == {"a": NOW}


def test_a_torn_last_line_is_no_unreadable_line_and_counts_as_of_the_files_mtime(tmp_path: Path) -> None:
    torn = line("b", NOW)[:-20]
    with opened(tmp_path / "m", line("a", NOW - 20 * timestamps.DAY) + torn, mtime=NOW - SECOND) as descriptor:
        turns = messages.read(descriptor, ("a", "b"), CUTOFF)
    assert turns.newest == {"a": NOW - 20 * timestamps.DAY, "b": NOW - SECOND}
    assert turns.unreadable_lines == 0


def test_unreadable_lines_are_counted_and_count_for_the_session_that_they_name(tmp_path: Path) -> None:
    glued = line("a", NOW)[:40] + line("b", NOW - 9 * SECOND)
    later = line("c", NOW - 3 * SECOND)
    with opened(tmp_path / "m", b"\xff\xfe no json\n" + glued + b"[1]\n{}\n" + later) as descriptor:
        turns = messages.read(descriptor, ("b", "c"), CUTOFF)
    assert turns.newest == {"b": NOW - 3 * SECOND, "c": NOW - 3 * SECOND}
    assert turns.unreadable_lines == 3  # reading stops before the first line: every session is known to be active


def test_a_stepped_clock_does_not_hide_a_newer_turn_before_it(tmp_path: Path) -> None:
    content = line("a", NOW - SECOND) + line("b", 0) * 500
    assert newest(tmp_path / "m", content, "a", "b") == {"a": NOW - SECOND, "b": 0}


def test_reading_ends_after_a_long_stretch_of_old_lines(tmp_path: Path) -> None:
    old = line("b", CUTOFF - SECOND, "y" * 1000)
    content = line("a", NOW) + old * (messages._OLD_BYTES // len(old) + 2)
    assert newest(tmp_path / "m", content, "a", "b") == {"b": CUTOFF - SECOND}


def test_one_huge_old_line_hides_no_turn_before_it(tmp_path: Path) -> None:
    content = line("a", NOW) + line("b", 0, "y" * 3_000_000)
    assert newest(tmp_path / "m", content, "a", "b") == {"a": NOW, "b": 0}


def test_an_unreadable_line_is_dated_by_the_newest_of_the_lines_after_it(tmp_path: Path) -> None:
    content = b'{"session_id":"a","timestamp":"\n' + line("b", 0) + line("b", NOW - SECOND)
    assert newest(tmp_path / "m", content, "a", "c") == {"a": NOW - SECOND}


def test_only_what_was_appended_is_read_after_a_mark(tmp_path: Path) -> None:
    path = tmp_path / "m"
    with opened(path, line("a", NOW - 30 * timestamps.DAY) + b'{"torn') as descriptor:
        position = messages.read(descriptor, ("a",), CUTOFF).position
        with path.open("ab") as file:
            file.write(b'": 1}\n' + line("a", NOW))
        assert messages.read(descriptor, ("a",), CUTOFF, position).newest == {"a": NOW}


def test_a_file_that_shrank_below_the_mark_is_an_error(tmp_path: Path) -> None:
    path = tmp_path / "m"
    with opened(path, line("a", NOW)) as descriptor:
        position = messages.read(descriptor, ("a",), CUTOFF).position
        os.truncate(path, 3)
        with pytest.raises(OSError, match=r"[Ss]tale"):
            messages.read(descriptor, ("a",), CUTOFF, position)


def test_lines_longer_than_many_blocks_are_whole(tmp_path: Path) -> None:
    assert newest(tmp_path / "m", line("a", NOW, "z" * 700_000) + line("b", NOW), "a", "b") == {"a": NOW, "b": NOW}


def test_a_hole_as_large_as_a_disk_is_read_in_bounded_memory_and_hides_no_turn(tmp_path: Path) -> None:
    path = tmp_path / "m"
    path.write_bytes(line("a", NOW) + b'{"session_id": "b"')
    os.truncate(path, 1 << 29)
    os.utime(path, ns=(NOW, NOW))
    code = (
        "import os, resource, sys; from arawn_cli.arawn import messages; before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss;"
        "turns = messages.read(os.open(sys.argv[1], os.O_RDONLY), ('a', 'b', 'c'), 0);"
        "print(sorted(turns.newest), turns.position.offset, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 256 << 10)"
    )
    done = subprocess.run([sys.executable, "-c", code, str(path)], capture_output=True, text=True, check=False)
    assert done.stdout == f"['a', 'b'] {len(line('a', NOW))} True\n", done.stderr


@given(st.sampled_from(range(1, 40)), st.integers(1, 30))
def test_a_line_longer_than_any_message_counts_for_every_session_that_it_names(tmp_path: Path, longest: int, block: int) -> None:
    names = [f"s{number}" for number in range(9)]
    content = "".join(f'{{"session_id": "{name}", "content": "{"x" * len(name) * longest}"}}' for name in names).encode() + b"\n"
    before = messages._BLOCK, messages._LONGEST, messages._NAMING
    messages._BLOCK, messages._LONGEST, messages._NAMING = block, 50 + longest, 40
    try:
        assert newest(tmp_path / "m", content, *names, "x") == dict.fromkeys(names, NOW)
    finally:
        messages._BLOCK, messages._LONGEST, messages._NAMING = before


@given(st.lists(st.binary(max_size=300).filter(lambda piece: b"\n" not in piece), max_size=40), st.integers(1, 50))
def test_lines_come_backwards_whatever_the_block_size(tmp_path: Path, pieces: list[bytes], block: int) -> None:
    content = b"\n".join(pieces)
    before, messages._BLOCK = messages._BLOCK, block
    try:
        with opened(tmp_path / "m", content) as descriptor:
            lines = list(messages._lines_backwards(descriptor, 0, len(content)))
            assert [line for _, line in lines] == content.split(b"\n")[::-1]
            assert all(content[begin:].startswith(line) and content[begin - 1 : begin] in (b"", b"\n") for begin, line in lines)
    finally:
        messages._BLOCK = before


@given(st.lists(st.tuples(st.sampled_from("abc"), st.integers(CUTOFF, NOW)), max_size=30), st.binary(max_size=60))
def test_readable_turns_are_found_among_any_noise(tmp_path: Path, turns: list[tuple[str, int]], noise: bytes) -> None:
    content = b"".join(noise.replace(b"\n", b"") + b"\n" + line(session, at) for session, at in turns)
    found = newest(tmp_path / "m", content, "a", "b", "c")
    for session in "abc":
        times = [at // 1000 * 1000 for name, at in turns if name == session]
        assert found.get(session, 0) >= max(times[-1:], default=0)
        assert (session in found) == bool(times)
