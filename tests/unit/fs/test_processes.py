"""What the kernel tells of processes and sockets, parsed."""

from __future__ import annotations

import os
import socket
import struct
import subprocess
import sys
from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st

from arawn_cli.fs.mounts import mount_id
from arawn_cli.fs.processes import BoundSocket, cached_identity, mapped_files, parse_sockets, sockets_of
from tests.conftest import needs_root

NUMBERS = st.integers(0, 2**32 - 1)


@given(
    st.lists(
        st.tuples(
            st.sampled_from(["08:01", "08:11", "00:2f", "103:00"]),
            NUMBERS,
            st.text(st.characters(exclude_characters="\n\0", codec="utf-8")),
        )
    )
)
def test_mapped_files_of_a_device_are_found_whatever_their_names(lines: list[tuple[str, int, str]]) -> None:
    text = "".join(f"7f00-7f01 r-xp 00000000 {device} {inode}                 /{name}\n" for device, inode, name in lines)
    anonymous = "7f02-7f03 rw-p 00000000 00:00 0\n7f04-7f05 rw-p 00000000 00:00 0    [heap]\n"
    found = set(mapped_files((text + anonymous).encode(), ["8:1", "259:0"]))
    assert found == {(inode, f"/{name}") for device, inode, name in lines if device in ("08:01", "103:00")}


def diag(bound: BoundSocket, before: bytes) -> bytes:
    numbers = struct.pack("=BBBBIII", 1, 1, 10, 0, bound.number, 0, 0)
    file = struct.pack("=HHII", 12, 1, bound.inode, os.major(bound.device) << 20 | os.minor(bound.device))
    name = struct.pack("=HH", 4 + len(before), 0) + before + b"\0" * (-len(before) % 4)
    body = numbers + name + file
    return struct.pack("=IHHII", 16 + len(body), 20, 2, 1, 0) + body


SOCKETS = st.builds(BoundSocket, NUMBERS, st.builds(os.makedev, st.integers(0, 4095), st.integers(0, 2**20 - 1)), NUMBERS)


@given(st.lists(st.tuples(SOCKETS, st.binary(max_size=108))))
def test_bound_sockets_are_found_whatever_their_names(sockets: list[tuple[BoundSocket, bytes]]) -> None:
    data = b"".join(diag(bound, name) for bound, name in sockets)
    assert parse_sockets(data) == ([bound for bound, _ in sockets], False)
    assert parse_sockets(data + struct.pack("=IHHII", 20, 3, 2, 1, 0) + b"\0" * 4) == ([bound for bound, _ in sockets], True)


def test_the_kernel_tells_the_file_of_a_bound_socket_after_it_was_renamed(tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(tmp_path / "new"))
        status = (tmp_path / "new").rename(tmp_path / "old").stat()
        inodes = {bound.inode for bound in sockets_of(None) if bound.number == os.fstat(server.fileno()).st_ino}
    assert inodes == {status.st_ino & 0xFFFFFFFF}


@needs_root
def test_a_thread_that_gets_no_memory_stops_no_look_into_another_namespace() -> None:
    """`Thread.start` waits for ever for a thread that ends before it has said that it runs."""
    program = (
        "import threading\n"
        "def no_memory(self): raise MemoryError\n"
        "threading.Thread._bootstrap = no_memory\n"
        "from arawn_cli.fs.processes import Task, sockets_of\n"
        "print(len(sockets_of(Task(1, 'self', '', '', '/'))))\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=30, check=True)
    assert int(done.stdout) >= 0


def test_identity_and_mount_of_a_descriptor_are_those_of_the_file(tmp_path: Path) -> None:
    opened, information = os.open(tmp_path, os.O_PATH), os.open("/proc/self/fdinfo", os.O_RDONLY)
    assert cached_identity(opened) == (tmp_path.stat().st_dev, tmp_path.stat().st_ino)
    assert mount_id(opened) == mount_id(str(opened), information) > 0
    os.close(opened)
    os.close(information)
