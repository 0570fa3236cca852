"""Run commands of the program with a fault in one of their system calls.

Each run is a fork of a process that has imported what an earlier run without a fault has needed:
system calls are counted from the start of the command, none of them is one of an import, and a run
is ten times as fast as a new process.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from contextlib import suppress
from importlib import import_module
from pathlib import Path

HANGS_SECS = 90  # SQLite waits 10 seconds for each lock of a log


def serve(folder: Path) -> None:
    """Answer each line of standard input, a command and options of strace, with a code."""
    for name in ("stdout", "stderr", "log", "modules"):
        (folder / name).touch()
    for line in sys.stdin:
        arguments, options = json.loads(line)
        sys.stdout.write(json.dumps(_run(arguments, options, folder)) + "\n")
        sys.stdout.flush()
        for module in (folder / "modules").read_text().split():
            if module not in sys.modules:
                with suppress(ImportError):
                    import_module(module)
        _build_models()


def _build_models() -> None:
    """Have pydantic build the schema, which it defers to the first use, as a part of the imports.

    CPython 3.11 raises a SystemError, no MemoryError, if the kernel refuses memory for a call.
    """
    if (schema := sys.modules.get("arawn_cli.config.schema")) is not None:
        schema.ConfigFile.model_validate({})


def _run(arguments: list[str], options: list[str], folder: Path) -> int | None:
    child = os.fork()
    if child == 0:
        _become_command(arguments, folder, stopped=bool(options))
    if not options:
        (folder / "log").write_text("")
        return _ended(child)
    os.waitpid(child, os.WUNTRACED)
    order = ["strace", "-f", "-o", str(folder / "log"), *options, "-p", str(child)]
    with subprocess.Popen(order, stdin=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True) as strace:
        assert strace.stderr is not None
        first = strace.stderr.readline()
        assert "attached" in first, first
        os.kill(child, signal.SIGCONT)
        code = _ended(child)
        strace.stderr.read()
    return code


def _ended(child: int) -> int | None:
    until = time.monotonic() + HANGS_SECS
    pause = 0.001
    while time.monotonic() < until:
        ended, status = os.waitpid(child, os.WNOHANG)
        if ended:
            return os.waitstatus_to_exitcode(status)
        time.sleep(pause)
        pause = min(pause * 1.5, 0.05)
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    return None


def _become_command(arguments: list[str], folder: Path, *, stopped: bool) -> None:
    code = 99
    try:
        for number, (name, flags) in enumerate(
            [("/dev/null", os.O_RDONLY), *((str(folder / name), os.O_WRONLY | os.O_TRUNC) for name in ("stdout", "stderr"))]
        ):
            descriptor = os.open(name, flags)
            os.dup2(descriptor, number)
            os.close(descriptor)
        sys.argv = ["arawn-cli", *arguments]
        from arawn_cli.cli.app import main

        if stopped:
            os.kill(os.getpid(), signal.SIGSTOP)
        code = main()
        with suppress(OSError):
            sys.stderr.flush()
        if not stopped:
            (folder / "modules").write_text("\n".join(sys.modules))
    finally:
        os._exit(code)


if __name__ == "__main__":
    serve(Path(sys.argv[1]))
