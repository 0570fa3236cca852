"""A child process without a program of its own: answers, errors, time limits, and its end."""

from __future__ import annotations

import errno
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from arawn_cli.errors import StoppedError
from arawn_cli.fs.child import Child

Start = Callable[[Callable[[Any], object]], Child]


@pytest.fixture
def start() -> Iterator[Start]:
    children: list[Child] = []

    def started(answer: Callable[[Any], object]) -> Child:
        children.append(Child("the test", answer))
        return children[-1]

    yield started
    for child in children:
        child.end()


def code_of(child: Child, request: object, seconds: float = 30) -> int | None:
    try:
        child.ask(request, seconds=seconds)
    except OSError as error:
        return error.errno
    return None


def wait_until(condition: Callable[[], bool]) -> None:
    end = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.01)


def test_requests_are_answered_one_after_the_other(start: Start) -> None:
    child = start(lambda request: [request, os.getpid()])
    answers = [child.ask({"number": number}) for number in range(3)]
    assert [request for request, _ in answers] == [{"number": number} for number in range(3)]
    assert {process for _, process in answers} == {child._process}


def test_an_error_of_the_answer_is_raised_here_and_the_child_goes_on(start: Start) -> None:
    child = start(lambda path: os.listdir(path))
    assert code_of(child, "/nonexistent") == errno.ENOENT
    assert child.ask("/")


def test_a_child_without_an_answer_is_an_error(start: Start) -> None:
    child = start(lambda _request: os._exit(0))
    assert [code_of(child, None), code_of(child, None)] == [errno.EPIPE] * 2
    silent = start(time.sleep)
    assert [code_of(silent, 60, 0.05), code_of(silent, 60, 0.05)] == [errno.ETIMEDOUT] * 2
    with pytest.raises(StoppedError):
        start(time.sleep).ask(60, lambda: True)


def test_an_end_kills_the_child_with_its_own_children_and_leaves_no_zombie(start: Start) -> None:
    child = start(lambda _request: subprocess.Popen(["sleep", "60"]).pid)
    of_child = psutil.Process(child.ask(None))
    child.end()
    with pytest.raises(ChildProcessError):
        os.waitpid(child._process, os.WNOHANG)
    wait_until(lambda: not of_child.is_running() or of_child.status() == psutil.STATUS_ZOMBIE)
    child.end()  # once more: its number may be that of another process by now


def test_nothing_of_the_run_is_used_by_the_child(start: Start, capfd: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    called: list[int] = []

    def answer(_request: object) -> list[bool]:
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            os.kill(os.getpid(), number)
        for stream in (1, 2):
            os.write(stream, b"printed")
        with pytest.raises(OSError, match="Bad file descriptor"):
            os.write(kept.fileno(), b"written")
        return [bool(called), os.getpgid(0) == os.getpid(), os.getcwd() == "/", signal.getsignal(signal.SIGALRM) is signal.SIG_IGN]

    numbers = (signal.SIGTERM, signal.SIGALRM)
    before = [signal.signal(number, lambda number, _frame: called.append(number)) for number in numbers]
    try:
        with (tmp_path / "kept").open("wb") as kept:
            assert start(answer).ask(None) == [False, True, True, True]
    finally:
        for number, handler in zip(numbers, before, strict=True):
            signal.signal(number, handler)
    assert capfd.readouterr() == ("", "")
    assert (tmp_path / "kept").read_bytes() == b""


def test_a_child_answers_beside_other_threads(start: Start) -> None:
    """Such as one that waits for the name of a relay. The child has none of them."""
    is_over = threading.Event()
    threads = [threading.Thread(target=is_over.wait) for _ in range(5)]
    for thread in threads:
        thread.start()
    try:
        for _ in range(5):
            assert start(lambda _request: threading.active_count()).ask(None) == 1
    finally:
        is_over.set()
        for thread in threads:
            thread.join()


def test_a_child_ends_with_a_run_that_is_killed_even_if_it_hangs() -> None:
    code = (
        "import os, time; from arawn_cli.fs.child import Child\n"
        "child = Child('', time.sleep); print(child._process, flush=True)\n"
        "child.ask(60)\n"
    )
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True) as run:
        assert run.stdout is not None
        child = psutil.Process(int(run.stdout.readline()))
        run.kill()
    wait_until(lambda: not child.is_running() or child.status() == psutil.STATUS_ZOMBIE)
