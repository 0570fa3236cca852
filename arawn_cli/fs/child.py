"""Answer requests in a forked child process.

Its memory is as private as that of this process. The kernel would open that of a program that was
started with exec to every process of its account (ptrace(2)), also if root became that account.
"""

from __future__ import annotations

import errno
import gc
import json
import os
import select
import signal
import socket
import time
import warnings
from collections.abc import Callable
from contextlib import suppress
from typing import Any, NoReturn

from arawn_cli.errors import StoppedError, never_stopping
from arawn_cli.fs.system_calls import call

_ANSWER_SECS = 120.0  # a scan of 20,000 processes takes about 10 seconds
_LOOK_SECS = 0.2
_END_SECS, _PAUSE_SECS = 1.0, 0.001
_PR_SET_PDEATHSIG = 1  # prctl(2)
_STREAMS = 3


class Child:
    """A child that answers requests, both JSON, with the permissions that this process has now.

    It has a socket to this process, and no other file or terminal of it. It ends with this process.
    """

    def __init__(self, title: str, answer: Callable[[Any], object]) -> None:
        """Start it, from the main thread: the kernel ends it with the thread that started it.

        `title` names it in errors. `answer` makes the answer to a request; its OSError is raised by
        `ask`.

        Raises:
            OSError: no process can be started.
        """
        own, of_child = socket.socketpair()
        parent = os.getpid()
        with warnings.catch_warnings():
            # A thread may still wait for the name of a relay. It holds no lock that a child needs.
            warnings.simplefilter("ignore", DeprecationWarning)
            self._process = os.fork()
        if self._process == 0:
            _serve(of_child, parent, answer)
        of_child.close()
        own.settimeout(_ANSWER_SECS)
        self._title = title
        self._is_running = True
        self._socket = own
        self._stream = own.makefile("rwb")

    def ask(self, request: object, stopping: Callable[[], bool] = never_stopping, *, seconds: float = _ANSWER_SECS) -> Any:  # noqa: ANN401 - JSON
        """Return the answer to a request, if it comes within some seconds.

        Raises:
            OSError: `answer` raised it; or EPIPE, ETIMEDOUT: the child is dead or silent.
            StoppedError: `stopping` returned that a signal asked the run to end.
        """
        try:
            self._stream.write(json.dumps(request).encode() + b"\n")
            self._stream.flush()
            self._wait(seconds, stopping)
            line = self._stream.readline()
        except ConnectionError:
            line = b""
        except (OSError, ValueError) as error:
            self._socket.close()
            raise OSError(errno.ETIMEDOUT, f"{self._title} does not answer", "/proc") from error
        if not line.endswith(b"\n"):
            raise OSError(errno.EPIPE, f"{self._title} has ended", "/proc")
        answer = json.loads(line)
        if "error" in answer:
            raise OSError(*answer["error"])
        return answer["result"]

    def _wait(self, seconds: float, stopping: Callable[[], bool]) -> None:
        end = time.monotonic() + seconds
        while not select.select([self._socket], [], [], max(0, min(_LOOK_SECS, end - time.monotonic())))[0]:
            if stopping():
                self._socket.close()  # its answer would be taken for another
                raise StoppedError
            if time.monotonic() >= end:
                raise TimeoutError

    def end(self) -> None:
        """End it with the processes that it started, and wait a little for that.

        This process may not kill a child that stayed root, which ends when its socket closes.
        """
        if not self._is_running:
            return
        self._is_running = False  # its number may be that of another process soon
        for kill in (os.killpg, os.kill):  # it may not have its group yet
            with suppress(OSError):
                kill(self._process, signal.SIGKILL)
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
        call("prctl", _PR_SET_PDEATHSIG, signal.SIGKILL)
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGALRM):  # it ends when the parent ends
            signal.signal(number, signal.SIG_IGN)
        os.setpgid(0, 0)
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
    gc.freeze()  # no object of the parent may close a file later that has the same number
    os.chdir("/")
    null = os.open(os.devnull, os.O_RDWR)
    for stream in range(_STREAMS):
        if stream != kept:
            os.dup2(null, stream)
    try:
        end = max(map(int, os.listdir("/proc/self/fd"))) + 1
    except OSError:
        end = os.sysconf("SC_OPEN_MAX")  # thousand millions in some containers
    os.closerange(_STREAMS, kept)
    os.closerange(max(_STREAMS, kept + 1), end)
