"""Fail or kill a run at each system call; look at every session; run again.

What must hold is checked by code that shares nothing with the package but the builders of trees.
"""

from __future__ import annotations

import json
import os
import random
import re
import shutil
import signal
import sqlite3
import stat
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import closing
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest

from tests.conftest import ISOLATED, needs_strace, works
from tests.support.main_tree import MainTree, session_id
from tests.support.tree import SampleTree, set_age, write

KILL = "signal=KILL"
FAULTS = (
    *(f"error={name}" for name in ("EIO", "EACCES", "ENOSPC", "EROFS", "EMFILE", "ENOTCONN", "ESTALE", "EPERM", "ENOMEM")),
    KILL,
)
FIRST = 10  # calls of each kind, which fail in each way, and about as many of the later ones, which fail in two
SAMPLE = 5  # faults of each scenario
PARTS = 8
EXIT_CODES = {0, 1, 2, 69, 77, 78}
# Linux never lets them fail. The C library ignores that, aborts or waits for ever.
NEVER_FAIL = {
    *("execve", "exit", "exit_group", "futex", "restart_syscall", "set_robust_list", "rseq", "munmap", "brk", "madvise", "mprotect"),
    *("rt_sigaction", "rt_sigprocmask", "rt_sigreturn", "tgkill", "kill", "wait4", "gettid", "getpid", "geteuid", "getegid", "getuid"),
    *("getgid", "umask", "getppid", "set_tid_address", "sched_yield", "alarm"),
}
# Made by SQLite, and by the search for uses, for which several scenarios of a command are no
# different.
ALIKE = {
    *("fchown", "fcntl", "fdatasync", "ftruncate", "mkdir", "mmap", "pread64", "pwrite64", "unlink"),
    *("clone3", "ioctl", "lseek", "name_to_handle_at", "prlimit64", "readlink", "readlinkat", "recvfrom", "sendto", "socket", "statx"),
}
DUE = ("due-1", "due-2")
STAYING = ("by-turn", "by-row", "by-file")
FILES = {"a": 10, "b/c/d": 20, "b/e": 5, "locked/f": 7}
WRITTEN = {"new": 3, "b/later": 4}  # in a session whose files are in the trash
ENTRY = re.compile(r"(?:\.trash\.)?(held\.|gone\.)?([\w-]+)\.\d{8}T\d{6}Z\.[0-9a-f]{8}(?:-[0-9a-f]+){0,3}", re.ASCII)
CLEANUP, CHECK = ("scratch-cleanup",), ("disk-check",)
Contents = dict[str, tuple[int, bytes]]


@dataclass(frozen=True)
class Scenario:
    """A command on a tree, and the commands that run before."""

    generation: str
    command: tuple[str, ...]
    settings: str
    before: tuple[tuple[str, ...], ...] = ()
    needs: str = ""  # the file or directory of a session that its chat needs
    deletable: frozenset[str] = frozenset()
    start: bool = False  # whether calls before the lock fail, which all scenarios make
    alike: bool = True  # whether calls fail for the state and the processes, which others of the command make alike

    @property
    def is_restore(self) -> bool:
        return self.command[:2] == ("trash", "restore")

    @property
    def due(self) -> tuple[str, ...]:
        return (session_id(1), session_id(2)) if self.generation == "main" else DUE


OLD_ENTRY, HALF_ENTRY, YOUNG_ENTRY = "old.20200101T000000Z.01234567", "gone.half.20200101T000000Z.01234567", "young.%Y%m%dT%H%M%SZ.01234567"
CHATS = "keep_chats = true\ntrash_days = 3\n"
SCENARIOS = {
    "delete": Scenario("v0", CLEANUP, "trash_days = 0\n", deletable=frozenset({*DUE, "old", "half", "young"}), start=True),
    "trash": Scenario("v0", CLEANUP, "trash_days = 3\n", deletable=frozenset({"old", "half"}), alike=False),
    "chats": Scenario("main", CLEANUP, CHATS, needs="messages.jsonl", alike=False),
    "chats-v0": Scenario("v0", CLEANUP, CHATS, needs="work", deletable=frozenset({"old", "half"}), alike=False),
    "restore": Scenario("v0", ("trash", "restore", "due-1"), "trash_days = 3\n", (CLEANUP,)),
    "restore-chat": Scenario("main", ("trash", "restore", session_id(1)), CHATS, (CLEANUP,), "messages.jsonl", alike=False),
    "restore-chat-v0": Scenario("v0", ("trash", "restore", "due-1"), CHATS, (CLEANUP,), "work", alike=False),
    "purge": Scenario("v0", ("trash", "purge", "--all"), "trash_days = 3\n", (CLEANUP,), deletable=frozenset(DUE)),
    "check": Scenario("v0", CHECK, "trash_days = 3\n"),
}


# Root of a PID namespace, without the capabilities to change other accounts' files or read-only
# directories.
ISOLATION = (
    *("unshare", "--pid", "--fork", "--kill-child", "--mount-proc"),
    *("setpriv", "--bounding-set=-dac_override,-dac_read_search", "--inh-caps=-all"),
)


@dataclass(frozen=True)
class Faulted:
    """How a run ended: the negative number of a signal or the exit code, None if it hangs."""

    code: int | None
    stdout: str
    stderr: str
    log: str

    @property
    def happened(self) -> bool:
        """Whether a fault was injected."""
        return "(INJECTED)" in self.log or "killed by SIGKILL" in self.log

    @property
    def calls(self) -> list[str]:
        """The system calls of the main thread."""
        lines = [line.split(maxsplit=1) for line in self.log.splitlines()]
        return [found[1] for thread, text in lines if thread == lines[0][0] and (found := re.match(r"([a-z]\w*)\(", text))]


class FaultServer:
    """A process that runs commands."""

    def __init__(self, folder: Path) -> None:
        """`folder` is also the home of the commands."""
        self._folder = folder
        isolated = os.getuid() == 0 and works(*ISOLATION, "true")
        environment = {
            "PATH": f"{ISOLATED}/bin:{os.environ['PATH']}",
            "PYTHONPATH": str(ISOLATED),
            "HOME": str(folder),
            "PYDANTIC_DISABLE_PLUGINS": "__all__",  # as the console script sets it
        }
        self._process = subprocess.Popen(
            [*(ISOLATION if isolated else ()), sys.executable, "-m", "tests.support.fault_server", str(folder)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            cwd=Path(__file__).parents[2],
            env=environment,
        )

    def run(self, *arguments: str, trace: str = "") -> Faulted:
        """Run a command, traced with these options of strace(1) if there are any."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps([arguments, trace.split()]) + "\n")
        self._process.stdin.flush()
        code = json.loads(self._process.stdout.readline())
        return Faulted(code, *((self._folder / name).read_text(errors="replace") for name in ("stdout", "stderr", "log")))

    def close(self) -> None:
        """End the process."""
        self._process.communicate()


class Site:
    """A root with sessions, a configuration and a state directory, which can be built again and
    again."""

    def __init__(self, folder: Path, scenario: Scenario, server: FaultServer) -> None:
        self.scenario = scenario
        self.server = server
        self.template = folder / "template"
        self.folder = folder / "site"
        self.root = self.folder / "arawn"
        self.workstreams = self.root / "workstreams"
        self.sessions = self.workstreams / "scratch" / ("" if scenario.generation == "main" else "sessions")
        self.folder.mkdir()
        self._fill()
        self.folder.rename(self.template)
        self.build()
        self.groups = self._groups()
        self.chats = self._chats()
        self.untouched = self._untouched()
        reference = self.run(*scenario.command)
        assert reference.code == 0, reference
        self.usage = {event["workstream_id"]: event["total_bytes"] for event in events_of(reference) if event["type"] == "workstream_usage"}
        self.final = {loose: self.snapshot(loose=loose) for loose in (False, True)}
        self.build()
        self._calls = self.run(*scenario.command, trace="-e trace=all").calls

    def faults(self) -> list[tuple[str, int, str]]:
        """Return system calls with the number of the call and what happens; the first calls after
        the lock, and later ones."""
        before, total = Counter(self._calls[: self._calls.index("flock")]), Counter(self._calls)
        found: list[tuple[str, int, str]] = []
        for call in sorted(total.keys() - NEVER_FAIL - (set() if self.scenario.alike else ALIKE)):
            calls = range(before[call] + 1, total[call] + 1)
            start = range(1, min(before[call], FIRST) + 1) if self.scenario.start else ()
            found += [(call, occurrence, fault) for occurrence in (*start, *calls[:FIRST]) for fault in FAULTS]
            later = calls[FIRST:]
            for number, occurrence in enumerate(later[:: max(1, len(later) // FIRST)]):
                found += [(call, occurrence, FAULTS[index % len(FAULTS)]) for index in (number, number + 5)]
        return found

    def _fill(self) -> None:
        tree: MainTree | SampleTree = (MainTree if self.scenario.generation == "main" else SampleTree)(self.root, time.time_ns())
        for name in (*self.scenario.due, *(STAYING if isinstance(tree, SampleTree) else ())):
            directory = tree.session(name, files=FILES, age_days=30)
            top = self._top(directory)
            (top / "b" / "out").symlink_to(self.folder / "canary")
            (top / "locked").chmod(0o555)
            set_age(directory, tree.ago(1 if name == "by-file" else 30))
            if name == self.scenario.due[1]:
                directory.chmod(0o555)
        if isinstance(tree, SampleTree):
            tree.turn("by-turn", tree.ago(1))
            for name in DUE:
                tree.turn(name, tree.ago(30))
            tree.session_row("by-row", tree.ago(30), tree.ago(1))
            tree.workstream("blog", "Blog", {"production/post": 3000, "work/draft": 20})
            if not self.scenario.before:
                trash = tree.workstreams / "scratch" / ".trash"
                for name in (OLD_ENTRY, HALF_ENTRY, time.strftime(YOUNG_ENTRY, time.gmtime())):
                    write(trash / name / "work" / "a", 10)
                trash.chmod(0o700)
        write(self.folder / "canary" / "precious", 100)
        (self.folder / "metrics").mkdir()
        (self.folder / "maintenance.toml").write_text(
            f'[maintenance]\nstate_dir = "{self.folder}/state"\nthreads = 1\n'
            f"[maintenance.cleanup]\n{self.scenario.settings}"
            '[maintenance.pressure]\nworkstream = "1kB"\n'
            '[maintenance.relay]\nurl = "http://127.0.0.1:9/pub/arawn"\ndeadline_secs = 1\n'
            f'[maintenance.metrics]\ntextfile_dir = "{self.folder}/metrics"\n'
        )

    def _top(self, session: Path) -> Path:
        return session if self.scenario.generation == "main" else session / "work"

    def build(self) -> None:
        """Make the site as it is before the command."""
        shutil.rmtree(self.folder, ignore_errors=True)
        shutil.copytree(self.template, self.folder, symlinks=True)
        for command in self.scenario.before:
            assert self.run(*command).code == 0
        if self.scenario.needs and self.scenario.before:
            directory = self.sessions / self.scenario.due[0]
            for name, size in WRITTEN.items():
                write(self._top(directory) / name, size)
            if (messages := directory / "messages.jsonl").exists():  # as Arawn edits the history
                edited = messages.with_suffix(".new")
                edited.write_bytes(messages.read_bytes() + b"edited\n")
                edited.rename(messages)

    def run(self, *command: str, trace: str = "") -> Faulted:
        return self.server.run(
            *command, "--config", f"{self.folder}/maintenance.toml", "--base-path", str(self.root), "--format", "json", trace=trace
        )

    # ---- The state of the sessions

    def places(self, name: str) -> dict[str, Path]:
        """Return the directories of a session by their state: `place`, `held.`, `gone.` or `` for
        the trash."""
        found = {"place": self.sessions / name} if (self.sessions / name).is_dir() else {}
        for directory in (self.workstreams / "scratch" / ".trash", self.workstreams / "scratch", self.sessions):
            for path in directory.iterdir() if directory.is_dir() else ():
                match = ENTRY.fullmatch(path.name)
                if match and match[2] == name:
                    found[match[1] or ""] = path
        return found

    def _files(self, session: Path) -> Contents:
        return {
            name: value for name, value in contents(session).items() if name.split("/")[-1] != "messages.jsonl" and value[1] != b"directory"
        }

    def _groups(self) -> dict[str, list[Contents]]:
        """Return for each session the files that must stay together; what was written later is a
        group of its own."""
        names = {*self.scenario.due, "old", "half", "young", *(STAYING if self.scenario.generation == "v0" else ())}
        groups: dict[str, list[Contents]] = {}
        for name in names:
            groups[name] = []
            for state, path in self.places(name).items():
                files = self._files(path)
                is_written = state == "place" and self.scenario.before
                groups[name] += [{file: value} for file, value in files.items()] if is_written else [files] if files else []
        return groups

    def check(self) -> None:
        """Each session is in one place and whole, or was to be deleted; nothing else has
        changed."""
        for name, groups in self.groups.items():
            places = self.places(name)
            kept = {state: self._files(path) for state, path in places.items() if state != "gone."}
            for group in groups:
                holders = [state for state, files in kept.items() if files.keys() & group.keys()]
                if not holders and name in self.scenario.deletable:
                    continue
                if name == "half":
                    continue
                assert len(holders) == 1, f"{name} is in {places}"
                assert group.items() <= kept[holders[0]].items(), f"{name} in {holders[0]} is not whole"
        assert self._chats() == self.chats
        assert self._untouched() == self.untouched

    def _chats(self) -> Contents:
        """Return what the chats of the due sessions need."""
        needs = self.scenario.needs
        found = {name: contents(self.sessions / name).get(needs) for name in self.scenario.due if needs}
        return {name: (stat.S_IFMT(value[0]), value[1]) if value else (0, b"missing") for name, value in found.items()}

    def _untouched(self) -> dict[str, tuple[int, bytes]]:
        """Return everything that no run may change."""
        due = tuple(str((self.sessions / name).relative_to(self.folder)) for name in self.scenario.due)
        return {
            name: value
            for name, value in contents(self.folder).items()
            if not name.startswith((*due, "state", "metrics")) and ".trash" not in name and not name.endswith(("-wal", "-shm"))
        }

    def snapshot(self, *, loose: bool = False) -> Contents:
        """Return all files, without times and places of entries if there is no `.trash`.

        `loose` leaves out whether their owners can write to directories: a kill after fchmod(2)
        leaves them writable.
        """
        found: Contents = {}
        for path, (mode, content) in contents(self.folder).items():
            name = re.sub(r"\.[0-9a-f]+-[0-9a-f]+\.lock$", ".lock", path)  # names the root by device and inode
            parts = name.split("/")
            for number, part in enumerate(parts):
                if match := ENTRY.fullmatch(part):
                    parts = ["trash", (match[1] or "") + match[2], *parts[number + 1 :]]
                    break
            # A kill leaves the unfinished metrics, which are hidden.
            if not name.endswith(("-wal", "-shm", "/.trash")) and not name.startswith("metrics/."):
                is_loose = loose and stat.S_ISDIR(mode)
                found["/".join(parts)] = (mode | 0o200 * is_loose, b"" if parts[0] in ("state", "metrics") else content)
        return found

    def check_events(self, run: Faulted) -> None:
        """What the events say is so; what they do not know is a failure or incomplete."""
        removed = 0
        for event in events_of(run):
            if "session_id" in event:
                states = {state for state, path in self.places(event["session_id"]).items() if self._files(path)}
                wanted = {"trashed": {""}, "kept": {"place"}, "restored": {"place"}}.get(event["action"], states)
                assert states == wanted, (event, states)
                assert event["action"] not in ("deleted", "purged") or states <= {"gone."}, (event, states)
                removed += event["action"] in ("deleted", "trashed")
            match event["type"]:
                case "scratch_cleanup":
                    assert event["sessions_cleaned"] == removed == len(event["cleaned_session_ids"]), event
                    assert run.code != 0 or event["failure_count"] == 0, event
                case "workstream_usage":
                    assert not event["complete"] or event["total_bytes"] == self.usage[event["workstream_id"]], event
                case "disk_check":
                    assert run.code != 0 or (event["complete"] and event["level"] == "critical"), event

    def outbox(self) -> list[str]:
        """Return the types of the stored events."""
        with closing(sqlite3.connect(self.folder / "state" / "state.db")) as connection:
            return [kind for (kind,) in connection.execute("SELECT type FROM outbox")]


def events_of(run: Faulted) -> list[dict[str, Any]]:
    """Return the events that a run has printed."""
    return [json.loads(line) for line in run.stdout.splitlines()]


def contents(top: Path) -> Contents:
    """Return mode and content of everything below a directory."""
    found: Contents = {}
    for directory, directories, files in os.walk(top):
        for name in (*directories, *files):
            path = Path(directory, name)
            mode = path.lstat().st_mode
            value = os.fsencode(os.readlink(path)) if path.is_symlink() else b"directory" if path.is_dir() else path.read_bytes()
            found[str(path.relative_to(top))] = (mode, value)
    return found


def problem_of(site: Site, call: str, occurrence: int, fault: str) -> str | None:
    """Run the command with a fault, and again; return what is wrong, "" for nothing, None if there
    was no fault."""
    site.build()
    run = site.run(*site.scenario.command, trace=f"-e trace={call} -e inject={call}:{fault}:when={occurrence}")
    if not run.happened:
        return None
    try:
        assert run.code is not None, "it hangs"
        assert run.code in (EXIT_CODES if fault != KILL else {-signal.SIGKILL, *EXIT_CODES}), "the exit code is wrong"
        assert "Traceback" not in run.stderr, "it prints a traceback"
        site.check()
        if run.code != -signal.SIGKILL:
            site.check_events(run)
        check_healing(site, loose=fault == KILL or call == "fchmod")
    except AssertionError as error:
        return f"{call} {occurrence} {fault}: {error}\nexit code {run.code}: {run.stderr}"
    return ""


def check_healing(site: Site, *, loose: bool) -> None:
    """Runs without a fault end with 0 and the usual state, the second at the latest.

    Moving a session back counts as a use of files, so that the next run keeps it.
    """
    wrong = ""
    for _ in range(2):
        again = site.run(*site.scenario.command)
        if site.scenario.is_restore and "no session" in again.stderr:  # it was restored
            again = site.run(*CLEANUP)
        assert again.code == 0, f"the next run ends with {again.code}: {again.stderr}"
        site.check()
        if not (wrong := difference(site.snapshot(loose=loose), site.final[loose])):
            break
    assert not wrong, wrong
    if site.scenario.command == CHECK:
        assert "disk_pressure" in site.outbox(), "the alert is lost"


def difference(found: Contents, wanted: Contents) -> str:
    """Return the first differences between two states, "" for none."""
    names = sorted(name for name in found.keys() | wanted.keys() if found.get(name) != wanted.get(name))
    return "; ".join(f"{name} is {found.get(name)} instead of {wanted.get(name)}" for name in names[:3])


OpenSite = Callable[[str], Site]


@pytest.fixture(scope="module")
def open_site() -> Iterator[OpenSite]:
    """Build the site of a scenario, once per process."""
    servers: list[FaultServer] = []
    in_memory = Path("/dev/shm")  # noqa: S108 - a site is built 12,000 times
    with TemporaryDirectory(dir=in_memory if in_memory.is_dir() else None) as folder:

        @cache
        def opened(name: str) -> Site:
            home = Path(folder, name, "home")
            home.mkdir(parents=True)
            servers.append(FaultServer(home.parent))
            return Site(home.parent, SCENARIOS[name], servers[-1])

        yield opened
        for server in servers:
            server.close()


def inject(site: Site, faults: Iterable[tuple[str, int, str]], record_property: Callable[[str, object], None]) -> None:
    """Inject faults one after the other; the summary of the tests has their number."""
    results = [problem for fault in faults if (problem := problem_of(site, *fault)) is not None]
    record_property("faults", len(results))
    assert results, "none of the faults happened"
    assert not any(results), "\n".join(filter(None, results))


@needs_strace
@pytest.mark.slow
@pytest.mark.parametrize("scenario", SCENARIOS)
def test_some_faults_harm_nothing_and_the_next_run_completes_the_work(
    open_site: OpenSite, scenario: str, record_property: Callable[[str, object], None]
) -> None:
    """pytest-randomly seeds the choice, and prints its seed."""
    site = open_site(scenario)
    inject(site, random.sample(site.faults(), SAMPLE), record_property)


@needs_strace
@pytest.mark.long
@pytest.mark.parametrize("part", range(PARTS))
@pytest.mark.parametrize("scenario", SCENARIOS)
def test_every_fault_harms_nothing_and_the_next_run_completes_the_work(
    open_site: OpenSite, scenario: str, part: int, record_property: Callable[[str, object], None]
) -> None:
    site = open_site(scenario)
    inject(site, site.faults()[part::PARTS], record_property)
