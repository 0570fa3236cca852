"""Keep a child process that stays root while this process becomes another account."""

from __future__ import annotations

import ctypes
import errno
import json
import os
import select
import signal
import socket
import time
from collections.abc import Callable
from contextlib import suppress
from typing import Any, NoReturn

from arawn_cli.errors import StoppedError

_ANSWER_SECS = 120.0  # a scan of 20,000 processes takes about 10 seconds
_LOOK_SECS = 0.2
_END_SECS, _PAUSE_SECS = 1.0, 0.001
_PR_SET_PDEATHSIG = 1  # prctl(2)
_STREAMS = 3


class RootChild:
    """A child that answers requests, both JSON, with the permissions that this process has now.

    It has a socket to this process and no other file of it. It ends with this process.
    """

    def __init__(self, answer: Callable[[Any], object]) -> None:
        """Start it. `answer` makes the answer to a request; its OSError is raised by `ask`.

        Raises:
            OSError: no process can be started.
        """
        own, of_child = socket.socketpair()
        parent = os.getpid()
        self._process = os.fork()
        if self._process == 0:
            _serve(of_child, parent, answer)
        of_child.close()
        own.settimeout(_ANSWER_SECS)
        self._socket = own
        self._stream = own.makefile("rwb")

    def ask(self, request: object, stopping: Callable[[], bool] = lambda: False) -> Any:  # noqa: ANN401 - JSON
        """Return the answer to a request.

        Raises:
            OSError: `answer` raised it; or EPIPE, ETIMEDOUT: the child is dead or silent.
            StoppedError: `stopping` returned that a signal asked the run to end.
        """
        try:
            self._stream.write(json.dumps(request).encode() + b"\n")
            self._stream.flush()
            self._wait(stopping)
            line = self._stream.readline()
        except (OSError, ValueError) as error:
            self._socket.close()
            raise OSError(errno.ETIMEDOUT, "the process that inspects others as root does not answer", "/proc") from error
        if not line.endswith(b"\n"):
            raise OSError(errno.EPIPE, "the process that inspects others as root has ended", "/proc")
        answer = json.loads(line)
        if "error" in answer:
            raise OSError(*answer["error"])
        return answer["result"]

    def _wait(self, stopping: Callable[[], bool]) -> None:
        last_look = time.monotonic() + _ANSWER_SECS
        while not select.select([self._socket], [], [], _LOOK_SECS)[0]:
            if stopping():
                self._socket.close()  # its answer would be taken for another
                raise StoppedError("stopped by a signal")
            if time.monotonic() > last_look:
                raise TimeoutError

    def end(self) -> None:
        """End it and wait a little for that: a process number 1 in a container may not."""
        with suppress(OSError, ValueError):
            self._stream.close()
        self._socket.close()
        last_look = time.monotonic() + _END_SECS
        with suppress(OSError):
            while os.waitpid(self._process, os.WNOHANG)[0] == 0 and time.monotonic() < last_look:
                time.sleep(_PAUSE_SECS)


def _serve(connection: socket.socket, parent: int, answer: Callable[[Any], object]) -> NoReturn:
    """Answer requests until the socket closes, then exit."""
    try:
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):  # it ends when the parent ends
            signal.signal(number, signal.SIG_IGN)
        _close_others(connection.fileno())
        with connection.makefile("rwb") as stream:
            while os.getppid() == parent and (line := stream.readline()).endswith(b"\n"):
                stream.write(json.dumps(_answer(json.loads(line), answer)).encode() + b"\n")
                stream.flush()
    finally:
        os._exit(0)  # also after an error: the parent finds the socket closed


def _answer(request: object, answer: Callable[[Any], object]) -> dict[str, object]:
    try:
        return {"result": answer(request)}
    except OSError as error:
        return {"error": [error.errno, error.strerror, error.filename]}


def _close_others(kept: int) -> None:
    """Close all files but one, and leave every directory."""
    os.chdir("/")
    null = os.open(os.devnull, os.O_RDWR)
    for stream in range(_STREAMS):
        if stream != kept:
            os.dup2(null, stream)
    os.closerange(_STREAMS, kept)
    os.closerange(max(_STREAMS, kept + 1), os.sysconf("SC_OPEN_MAX"))
