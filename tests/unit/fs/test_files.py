"""Small files are read, and pipes and devices written, without waiting for ever."""

from __future__ import annotations

import errno
import os
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from arawn_cli.errors import ConfigurationError, StoppedError
from arawn_cli.fs.files import AtomicFile, read_small_file, read_standard_input, write_atomic
from arawn_cli.names import cut


def plant_socket(path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(path))


SPECIAL: dict[str, Callable[[Path], None]] = {
    "fifo": os.mkfifo,
    "directory": Path.mkdir,
    "socket": plant_socket,
    "zero": lambda path: path.symlink_to("/dev/zero"),
    "null": lambda path: path.symlink_to("/dev/null"),
    "tty": lambda path: path.symlink_to("/dev/tty"),
}


@pytest.mark.parametrize("plant", SPECIAL.values(), ids=SPECIAL)
def test_a_special_file_is_not_read(tmp_path: Path, plant: Callable[[Path], None]) -> None:
    plant(tmp_path / "file")
    with pytest.raises(OSError, match="not a regular file"):
        read_small_file(tmp_path / "file", 10)


@pytest.mark.parametrize(("length", "is_read"), [(0, True), (10, True), (11, False), (1 << 40, False)])
def test_only_a_file_of_limited_size_is_read(tmp_path: Path, length: int, is_read: bool) -> None:
    with (tmp_path / "file").open("wb") as file:
        file.truncate(length)
    if is_read:
        assert read_small_file(tmp_path / "file", 10) == bytes(length)
        return
    with pytest.raises(OSError, match="larger than 10 bytes") as raised:
        read_small_file(tmp_path / "file", 10)
    assert raised.value.errno == errno.EFBIG


@contextmanager
def standard_input(descriptor: int) -> Iterator[None]:
    before = os.dup(0)
    os.dup2(descriptor, 0)
    try:
        yield
    finally:
        os.dup2(before, 0)
        os.close(before)


def test_standard_input_is_read_in_parts_to_its_end_up_to_a_limit() -> None:
    reader, writer = os.pipe()

    def write() -> None:
        for part in (b"one", b"two"):
            os.write(writer, part)
        os.close(writer)

    with standard_input(reader):
        threading.Timer(0.1, write).start()
        assert read_standard_input(6, lambda: False) == b"onetwo"
    with standard_input(os.open("/dev/zero", os.O_RDONLY)), pytest.raises(OSError, match="larger than"):
        read_standard_input(100, lambda: False)


def test_waiting_for_standard_input_ends_with_a_signal() -> None:
    reader, writer = os.pipe()
    with standard_input(reader), pytest.raises(StoppedError):
        read_standard_input(6, lambda: True)
    os.close(writer)
    os.close(reader)


@pytest.mark.parametrize(
    ("plant", "reason"),
    [
        (lambda path: os.link(path.parent / "other", path), "the file has several names"),
        (lambda path: path.symlink_to(path.parent / "other"), "it is a link to .*/other, and links are not followed"),
        (lambda path: path.symlink_to("nowhere"), "it is a link to nowhere"),
        (os.mkfifo, "it is not a regular file: name another one, or - for standard output"),
        (os.mkdir, "Is a directory"),
    ],
)
def test_only_a_regular_file_with_one_name_is_replaced(tmp_path: Path, plant: Callable[[Path], None], reason: str) -> None:
    path = tmp_path / "path"
    (tmp_path / "other").write_text("mine")
    file = AtomicFile(path, "the plan")
    plant(path)
    before = os.lstat(path)
    for write in (lambda: AtomicFile(path, "the plan"), lambda: file.write("text")):
        with pytest.raises(ConfigurationError, match=f"cannot write the plan {path}: {reason}"):
            write()
    with pytest.raises(OSError, match=reason):
        write_atomic(path, "text")
    assert os.lstat(path) == before
    assert (tmp_path / "other").read_text() == "mine"
    assert sorted(os.listdir(tmp_path)) == ["other", "path"]


@given(st.text(max_size=50), st.integers(1, 20))
def test_a_long_text_is_cut_in_the_middle(text: str, most: int) -> None:
    short = cut(text, most)
    assert len(short) == min(len(text), most)
    assert short == text or (short[: most // 2], short[most // 2 + 1 :]) == (text[: most // 2], text[len(text) - (most - most // 2 - 1) :])


def test_what_killed_writers_left_is_removed_by_the_next_one_but_nothing_that_is_being_written(tmp_path: Path) -> None:
    path = tmp_path / "file"
    script = (
        "import os, sys; from pathlib import Path; from arawn_cli.fs.files import write_atomic; "
        "os.fsync = lambda _: {}; write_atomic(Path(sys.argv[1]), 'x')"
    )
    for end in ("os.kill(os.getpid(), 9)",) * 2:
        subprocess.run([sys.executable, "-c", script.format(end), path], check=False)
    assert len(os.listdir(tmp_path)) == 2
    waiting = script.format("(print(flush=True), sys.stdin.read())")
    with subprocess.Popen([sys.executable, "-c", waiting, path], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as writer:
        assert writer.stdout is not None
        assert writer.stdout.readline() == b"\n"
        (tmp_path / ".other.12345678").touch()
        write_atomic(path, "whole")
        assert len(os.listdir(tmp_path)) == 3
        writer.kill()
    write_atomic(path, "whole")
    assert sorted(os.listdir(tmp_path)) == [".other.12345678", "file"]
