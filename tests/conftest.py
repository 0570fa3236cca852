"""Fixtures for all tests, limits of their time, and conditions for skipping them."""

from __future__ import annotations

import faulthandler
import json
import logging
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Generator, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

from arawn_cli.fs.permissions import Login
from tests.support.tree import SampleTree

pytest.register_assert_rewrite(
    "tests.support.installed", "tests.support.relay_fixtures", "tests.support.relay_site", "tests.support.simulated_relay"
)

# Every example builds a real tree, so its duration varies.
settings.register_profile("trees", deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture])
settings.load_profile("trees")

COMMAND = Path(sys.executable).with_name("arawn-cli")
ISOLATED = Path(__file__).parent / "support" / "isolated"

TIME_LIMITS = {"slow": 600, "long": 3600, "engine": 900}  # seconds for one test with its fixtures; pyproject.toml has that of others
_STDERR = pytest.StashKey[int]()
_VARIABLES = ("STATE_DIRECTORY", "CREDENTIALS_DIRECTORY", "JOURNAL_STREAM")  # systemd.exec(5)


def needs(condition: bool, what: str) -> pytest.MarkDecorator:
    """Skip a test if something is missing; on CI, fail instead."""
    if os.environ.get("CI") == "true" and not condition:
        raise RuntimeError(f"CI lacks {what}")
    return pytest.mark.skipif(not condition, reason=f"needs {what}")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark tests that need root by the reason of their skip, and give slow tests a longer limit."""
    for item in items:
        if any("root" in str(mark.kwargs.get("reason", "")) for mark in item.iter_markers("skipif")):
            item.add_marker(pytest.mark.root)
        if not item.get_closest_marker("timeout"):
            limits = [seconds for name, seconds in TIME_LIMITS.items() if item.get_closest_marker(name)]
            item.add_marker(pytest.mark.timeout(max(limits, default=float(item.config.getini("timeout")))))


def pytest_configure(config: pytest.Config) -> None:
    """Keep the real stderr, which pytest redirects, and drop variables that arawn-cli reads."""
    config.stash[_STDERR] = os.dup(2)
    os.environ["TZ"] = "UTC"  # screens show local time
    time.tzset()
    for name in [name for name in os.environ if name.startswith(("ARAWN_", "XDG_")) or name in _VARIABLES]:
        if name != "ARAWN_TEST_CACHE":
            del os.environ[name]


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_runtest_protocol(item: pytest.Item) -> Generator[None, object, object]:
    """End this process if a test is still running a minute after its limit."""
    _end_process_later(item)
    try:
        return (yield)
    finally:
        faulthandler.cancel_dump_traceback_later()


@pytest.hookimpl(trylast=True)
def pytest_exception_interact(node: pytest.Item) -> None:
    """Limit the teardown of a failed test: pytest and pytest-timeout cancel their timers here."""
    if isinstance(node, pytest.Item):
        _end_process_later(node)


def _end_process_later(item: pytest.Item) -> None:
    """Print the stacks of all threads and exit, unless cancelled; xdist starts another worker.

    pytest-timeout raises in the test once. That does not help if the test is in C code, or waits
    again while it cleans up.
    """
    mark = item.get_closest_marker("timeout")
    assert mark is not None
    faulthandler.dump_traceback_later(mark.args[0] + 60, exit=True, file=item.config.stash[_STDERR])


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Print the number of faults that tests have injected."""
    reports = [*terminalreporter.getreports("passed"), *terminalreporter.getreports("failed")]
    if faults := sum(int(str(value)) for report in reports for name, value in report.user_properties if name == "faults"):
        terminalreporter.write_line(f"{faults} faults were injected")


def works(*command: str) -> bool:
    """Return whether a command exists and succeeds."""
    return shutil.which(command[0]) is not None and subprocess.run(command, capture_output=True, check=False, timeout=30).returncode == 0


needs_root = needs(os.getuid() == 0, "root")
needs_strace = needs(shutil.which("strace") is not None, "strace")
needs_setpriv = needs(os.getuid() == 0 and shutil.which("setpriv") is not None, "root and setpriv")
needs_namespaces = needs(os.getuid() == 0 and works("unshare", "--mount", "true"), "root and mount namespaces")
needs_user_namespaces = needs(os.getuid() == 0 and works("unshare", "--user", "--map-root-user", "true"), "root and user namespaces")
needs_chattr = needs(os.getuid() == 0 and shutil.which("chattr") is not None, "root and chattr")

# Root without the capabilities to access other accounts' files.
WITHOUT_FILE_POWERS = ("setpriv", "--bounding-set=-dac_override,-dac_read_search", "--inh-caps=-all")


@dataclass(frozen=True)
class Run:
    """Exit code and output of a command."""

    code: int
    stdout: str
    stderr: str

    @property
    def events(self) -> list[dict[str, object]]:
        return [json.loads(line) for line in self.stdout.splitlines()]

    @property
    def last(self) -> dict[str, object]:
        return self.events[-1]

    def of_type(self, name: str) -> list[dict[str, object]]:
        return [event for event in self.events if event["type"] == name]

    def sessions(self, *actions: str) -> set[object]:
        return {event["session_id"] for event in self.of_type("scratch_session") if event["action"] in actions}

    def removed(self) -> set[object]:
        """The sessions that were deleted or moved to the trash, or in a dry run would be."""
        return self.sessions("deleted", "trashed", "would_delete", "would_trash")

    def reasons(self) -> dict[object, object]:
        return {event["session_id"]: event["reason"] for event in self.of_type("scratch_session")}


RunCommand = Callable[..., Run]


@pytest.fixture(autouse=True)
def logging_restored() -> Iterator[None]:
    """Undo what a command in the process of the tests changed in logging: later tests read log
    records."""
    logger = logging.getLogger("arawn_cli")
    before = logger.propagate, logger.level, logger.handlers[:]
    yield
    logger.propagate, logger.level, logger.handlers[:] = before


@pytest.fixture(autouse=True)
def no_home(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Hide the configuration and roots of this account from the process of the tests; some of
    `system` need caches."""
    if "system" not in request.path.parts:
        monkeypatch.setenv("HOME", "/proc/nonexistent")  # which root cannot create either


@pytest.fixture(autouse=True)
def stays_root(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the process of the tests never become another account: there is no way back."""

    def refuse(_login: Login) -> None:
        raise PermissionError("the process of the tests stays root: start the program in a process of its own")

    monkeypatch.setattr(Login, "become", refuse)


@pytest.fixture
def environment(tmp_path: Path) -> dict[str, str]:
    """A clean environment with its own home, and no configuration or timers of this machine."""
    kept = {key: value for key, value in os.environ.items() if key == "LANG" or key.startswith("COV")}
    home = tmp_path / "home"
    home.mkdir()
    return {**kept, "PATH": f"{ISOLATED}/bin:{os.environ['PATH']}", "PYTHONPATH": str(ISOLATED), "HOME": str(home)}


@pytest.fixture
def tree(tmp_path: Path) -> SampleTree:
    """An empty Arawn root, with the present as its now."""
    return SampleTree(tmp_path / "arawn", time.time_ns())


@pytest.fixture
def run(environment: dict[str, str], tmp_path: Path) -> Callable[..., Run]:
    """Run the installed command."""

    def call(*arguments: object, prefix: tuple[str, ...] = (), traced: bool = False, timeout: float = 60, **extra: str) -> Run:
        """`traced` does not measure coverage, which makes system calls, too."""
        base = {key: value for key, value in environment.items() if not (traced and key.startswith("COV"))}
        done = subprocess.run(
            [*prefix, str(COMMAND), *(str(argument) for argument in arguments)],
            capture_output=True,
            text=True,
            timeout=timeout,
            env={**base, **extra},
            cwd=tmp_path,
            check=False,
        )
        return Run(done.returncode, done.stdout, done.stderr)

    return call


@pytest.fixture
def at_once(tmp_path: Path) -> Path:
    """A configuration with which removed sessions are deleted at once, and not kept in the
    trash."""
    path = tmp_path / "at-once.toml"
    path.write_text("[maintenance.cleanup]\ntrash_days = 0\n")
    return path


def snapshot(top: Path) -> dict[str, tuple[object, ...]]:
    """Return mode, size, mtime, inode and content of every path below a directory."""
    found: dict[str, tuple[object, ...]] = {}
    for directory, directories, files in os.walk(top):
        for name in (*directories, *files, "."):
            path = os.path.join(directory, name)
            status = os.lstat(path)
            content: object = None
            if os.path.islink(path):
                content = os.readlink(path)
            elif os.path.isfile(path):
                content = Path(path).read_bytes()
            found[path] = (status.st_mode, status.st_size, status.st_mtime_ns, status.st_ino, content)
    return found


def make_deep(top: Path, levels: int) -> None:
    """Make nested directories, deeper than any path can name, with one empty file at the bottom."""
    top.mkdir()
    here = os.open(top, os.O_RDONLY)
    for _ in range(levels):
        os.mkdir("d", dir_fd=here)
        below = os.open("d", os.O_RDONLY, dir_fd=here)
        os.close(here)
        here = below
    os.close(os.open("leaf", os.O_WRONLY | os.O_CREAT, dir_fd=here))
    os.close(here)


@pytest.fixture
def told(caplog: pytest.LogCaptureFixture) -> pytest.LogCaptureFixture:
    """The package's log records, from INFO on."""
    caplog.set_level(logging.INFO, "arawn_cli")
    return caplog
