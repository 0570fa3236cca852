"""Commands on a pseudo-terminal: what they draw, and answers to their questions."""

from __future__ import annotations

import contextlib
import os
import pty
import select
import subprocess
import time
from collections.abc import Callable

import pytest

from tests.conftest import COMMAND

CTRL_C = b"\x03"


def on_a_terminal(environment: dict[str, str], *arguments: object) -> tuple[int, str]:
    """Run arawn-cli on a terminal of 100 columns. Return its exit code and everything it drew."""
    return _run([str(COMMAND), *map(str, arguments)], {**environment, "TERM": "xterm-256color", "COLUMNS": "100", "LINES": "30"})


def answered(
    environment: dict[str, str], question: bytes, keys: bytes, *words: object, before: Callable[[], object] = lambda: None
) -> tuple[int, str]:
    """Run a command on a terminal of 500 columns and press `keys` when it asks `question`.

    `before` is called before that. Return its exit code and everything it drew.
    """
    # A shell starts background processes with SIGINT ignored, and their children inherit that.
    command = ["setsid", "--ctty", "--wait", "env", "--default-signal=INT", *map(str, words)]
    return _run(command, {**environment, "TERM": "xterm", "COLUMNS": "500"}, question, keys, before)


def _run(
    command: list[str],
    environment: dict[str, str],
    question: bytes = b"",
    keys: bytes = b"",
    before: Callable[[], object] = lambda: None,
    seconds: float = 60,
) -> tuple[int, str]:
    try:
        ours, theirs = pty.openpty()
    except OSError:
        if os.environ.get("CI") == "true":
            raise
        pytest.skip("needs pseudo-terminals")
    process = subprocess.Popen(command, stdin=theirs, stdout=theirs, stderr=theirs, env=environment)
    os.close(theirs)
    drawn = b""
    pressed = False
    end = time.monotonic() + seconds
    try:
        while time.monotonic() < end:
            idle = not select.select([ours], [], [], 0.2)[0]
            if not idle:
                try:
                    drawn += os.read(ours, 65536)
                except OSError:  # EIO: no process has the other end open
                    return process.wait(timeout=seconds), drawn.decode()
            # Python handles a SIGINT that comes between the prompt and the read only after the
            # read: send it again.
            if keys and question in drawn and (not pressed or (idle and keys == CTRL_C)):
                if not pressed:
                    before()
                pressed = True
                with contextlib.suppress(OSError):
                    os.write(ours, keys)
        raise AssertionError(f"{command} did not end within {seconds} s, and drew {drawn!r}")
    finally:
        process.kill()
        process.wait(timeout=seconds)
        os.close(ours)
