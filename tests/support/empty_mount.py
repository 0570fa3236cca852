"""A program: a FUSE filesystem of one empty directory at argv[1], until it is killed (dead) or
stopped (hangs)."""

from __future__ import annotations

import ctypes
import os
import struct
import sys

libc = ctypes.CDLL(None, use_errno=True)
fd = os.open("/dev/fuse", os.O_RDWR)
options = f"fd={fd},rootmode=40000,user_id=0,group_id=0".encode()
if libc.mount(b"mini", sys.argv[1].encode(), b"fuse.mini", 6, options):
    raise OSError(ctypes.get_errno(), "mount")
attributes = struct.pack("<6Q10I", 1, 4096, 8, 1, 1, 1, 0, 0, 0, 0o40755, 2, 0, 0, 0, 4096, 0)
sys.stdout.write("ready\n")
sys.stdout.flush()
while True:
    request = os.read(fd, 1 << 17)
    _, operation, unique, *_ = struct.unpack("<IIQQIIII", request[:40])
    body, error = b"", 0
    if operation == 26:
        body = struct.pack("<IIIIHHIIHHI7I", 7, 31, 65536, 0, 12, 9, 65536, 1, 32, 0, 0, *[0] * 7)
    elif operation == 3:
        body = struct.pack("<QII", 0, 0, 0) + attributes
    elif operation == 27:
        body = struct.pack("<QII", 1, 0, 0)
    elif operation in (2, 42):
        continue
    else:
        error = -38
    os.write(fd, struct.pack("<IiQ", 16 + len(body), error, unique) + body)
