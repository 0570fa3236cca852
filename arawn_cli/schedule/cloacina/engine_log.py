"""Cloacina writes its log to standard output, where only events belong: it goes to our log instead."""

from __future__ import annotations

import logging
import os
import re
import signal
import sys
import threading
from collections.abc import Callable, MutableMapping

from arawn_cli.schedule.cloacina.runs import ENDING

log = logging.getLogger(__name__)

_LINE = re.compile(r"\S+Z\s+(?P<level>ERROR|WARN|INFO|DEBUG|TRACE)\s+(?P<rest>.*)")


_LEVELS = {"ERROR": logging.ERROR, "WARN": logging.WARNING, "INFO": logging.INFO}


_STDOUT = 1


class EngineLog:
    """Takes standard output from this process, and passes its lines on as records of the log; `stdout` is what it was before."""

    def __init__(self, environment: MutableMapping[str, str], cleaned: Callable[[str], str]) -> None:
        """`cleaned` takes secrets out of a line. Cloacina reads its level from the environment (tracing's EnvFilter)."""
        environment.setdefault("RUST_LOG", "warn")
        environment["NO_COLOR"] = "1"
        sys.stdout.flush()
        self.stdout = os.dup(_STDOUT)
        reader, writer = os.pipe()
        os.dup2(writer, _STDOUT)
        os.close(writer)
        threading.Thread(target=_forward, args=(reader, cleaned), name="engine-log", daemon=True).start()

    def end(self) -> None:
        """Passes nothing on any more: Cloacina complains of its own end."""
        nothing = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nothing, _STDOUT)
        os.close(nothing)


def _forward(descriptor: int, cleaned: Callable[[str], str]) -> None:
    signal.pthread_sigmask(signal.SIG_BLOCK, ENDING)
    with os.fdopen(descriptor, encoding="utf-8", errors="replace") as lines:
        for line in lines:
            found = _LINE.match(line)
            level = _LEVELS.get(found["level"], logging.DEBUG) if found else logging.WARNING
            log.log(level, "Cloacina: %s", cleaned((found["rest"] if found else line).strip()))
