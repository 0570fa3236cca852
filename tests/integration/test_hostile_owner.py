"""Whatever the owner of the tree puts in the way, root changes and reads nothing that the owner
could not."""

from __future__ import annotations

import os
import random
import shutil
import sqlite3
import stat
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from arawn_cli.errors import ExitCode
from tests.conftest import RunCommand, needs, needs_namespaces
from tests.support.owner import GROUP, OWNER, READABLE, as_account, give, listening, tree_of_owner
from tests.support.tree import SampleTree, set_age

pytestmark = needs_namespaces

SECRET = "only-root-may-read-this-7f3a"
DROP_INS = Path(f"/etc/systemd/system/arawn-cli-test-{os.getpid()}.service.d")  # its own in each worker
COMMANDS = (
    ("scratch-cleanup", "--dry-run", "--plan-out", "OUTPUT"),
    ("scratch-cleanup", "--plan-out", "OUTPUT"),
    ("scratch-cleanup", "--apply", "OUTPUT"),
    ("disk-check",),
    ("disk-check", "--dry-run"),
    ("trash", "list"),
    ("trash", "restore", "gone"),
    ("trash", "purge", "--all"),
    ("report",),
    ("report", "--html", "OUTPUT"),
    ("doctor", "--format=json"),
    ("config", "show"),
    ("config", "init", "OUTPUT", "--force"),
    ("schedule", "show", "--systemd"),
    ("schedule", "install", "--systemd", "--yes"),
    ("schedule", "install", "--systemd", "--user", "--yes"),
    ("schedule", "status", "--systemd"),
)
RACED = (
    *COMMANDS,
    ("scratch-cleanup",),
    ("scratch-cleanup", "--dry-run"),
    ("trash", "restore", "removed"),
    ("trash", "purge", "--all", "--dry-run"),
    ("report", "--html", "DIRECTORY"),
    ("scratch-cleanup", "--dry-run", "--plan-out", "DIRECTORY"),
    ("config", "init", "CONFIG", "--force"),
    ("config", "init", "DIRECTORY", "--force"),
)
PLACES = (
    *("state", "state/state.db", "state/state.db-wal", "state/state.db-shm", "state/state.db-journal", "state/new", "metrics", "output"),
    *("pages", "pages/page", "output.bak", "config.toml.bak"),
    *("workstreams.db", "workstreams.db-wal", "workstreams.db-shm", "workstreams.db-journal", "token", "ca.pem", "config.toml"),
    *("arawn", "arawn/workstreams", "arawn/workstreams/scratch", "arawn/workstreams/scratch/messages.jsonl", "arawn/workstreams.db"),
    *("arawn/workstreams/scratch/sessions", "arawn/workstreams/scratch/.trash", "arawn/workstreams/scratch/sessions/old"),
    *("arawn/workstreams/scratch/sessions/old/work", "arawn/workstreams/scratch/sessions/old/work/f"),
)
BESIDE = tuple(place for place in PLACES if not place.startswith("arawn"))  # a run that finds no tree ends before it does anything
# What an account does to a path, run as that account: argv is the action, the place, and a target.
ACT = """
import ctypes, os, random, shutil, socket, sys, time
action, place, target = sys.argv[1:]
def remove(path):
    shutil.rmtree(path) if os.path.isdir(path) and not os.path.islink(path) else os.path.lexists(path) and os.unlink(path)
def put(action):
    remove(place)
    if action == "link": os.symlink(target, place)
    elif action == "fifo": os.mkfifo(place)
    elif action == "directory": os.makedirs(place + "/inner")
    elif action == "socket": os.chdir(os.path.dirname(place)); socket.socket(socket.AF_UNIX).bind(os.path.basename(place))
    elif action == "copy": shutil.copyfile(target, place)
try:
    if action == "exchange":
        exchange, names = ctypes.CDLL(None).renameat2, (os.fsencode(place), os.fsencode(place + "~"))
        print(flush=True)
        while True:
            exchange(-100, names[0], -100, names[1], 2)
            time.sleep(random.random() * 0.003)
    if action == "appear":
        print(flush=True)
        while True:
            for old, new in ((place + "~", place), (place, place + "~")):
                try: os.rename(old, new)
                except OSError: pass
                time.sleep(random.random() * 0.003)
    put(action)
except OSError:
    pass
"""


def state_of(top: Path) -> dict[str, tuple[object, ...]]:
    """Owner, group, mode and content of all files below a directory."""
    found: dict[str, tuple[object, ...]] = {}
    for path in (top, *sorted(top.rglob("*"))) if top.exists() else ():
        status = path.lstat()
        content = path.read_bytes() if stat.S_ISREG(status.st_mode) else b""
        found[str(path)] = (status.st_uid, status.st_gid, status.st_mode, content)
    return found


def build(top: Path, tree: SampleTree) -> None:
    """Make what belongs to root: secrets, the state of another program, and a public directory."""
    private, public = top / "private", top / "public"
    private.mkdir(mode=0o700)
    public.mkdir()
    (private / "secret").write_text(SECRET)
    (private / "secret").chmod(0o600)
    (public / "of-root").write_text("of root")
    (public / "empty").mkdir()
    with closing(sqlite3.connect(public / "state.db")) as connection:
        connection.execute("CREATE TABLE other (secret)")
        connection.execute("INSERT INTO other VALUES (?)", (SECRET,))
        connection.commit()
    (public / "state.db").chmod(0o600)
    tree.session("old", files={"f": 1}, age_days=30)
    tree.turn("old", tree.ago(30))
    tree.session("removed", files={"f": 1}, age_days=30)
    set_age(tree.sessions, tree.ago(30))


def configure(top: Path, chance: random.Random, port: int, *, is_of_root: bool) -> Path:
    """Write a configuration of the owner or of root, which may name what is root's, and return its
    path."""
    bad = (
        top / "private" / "secret",
        top / "public",
        top / "public" / "of-root",
        Path("/etc/shadow"),
        *([] if is_of_root else [DROP_INS]),  # root may name it
    )

    def place(name: str) -> str:
        return str(chance.choice(bad) if chance.random() < 0.5 else top / "home" / name)

    lines = [
        f'[maintenance]\nstate_dir = "{place(chance.choice(("state", "new")))}"',
        f'[maintenance.metrics]\ntextfile_dir = "{place("metrics")}"',
        f'[maintenance.relay]\nurl = "http://127.0.0.1:{port}/"\ndeadline_secs = 2\nallow_insecure = true',
        f'token_file = "{top / "private" / "secret"}"' if chance.random() < 0.4 else "",
        f'ca_file = "{place("ca.pem")}"' if chance.random() < 0.3 else "",
        "[maintenance.pressure]\ntotal = 1",
        f"[maintenance.cleanup]\ntrash_days = {chance.randrange(2)}",
    ]
    file = top / "config.toml" if is_of_root else top / "home" / "config.toml"
    file.write_text("\n".join(lines))
    return file


@dataclass
class Attack:
    """A place that the owner prepares, in which root runs commands.

    Attributes:
        top: a directory of root with the home of the owner, and with `private` and `public`, which
            are root's.
        config: the configuration of the owner or of root.
        received: the requests to the relay of the owner.
        shown: what the commands printed and logged.
        exchanges: the processes of the owner that exchange files.
        ends: descriptors that keep FIFOs open.
    """

    top: Path
    chance: random.Random
    config: Path
    received: list[bytes]
    shown: list[str] = field(default_factory=list)
    exchanges: list[subprocess.Popen[bytes]] = field(default_factory=list)
    ends: list[int] = field(default_factory=list)

    @property
    def home(self) -> Path:
        return self.top / "home"

    @property
    def is_of_root(self) -> bool:
        return self.config.parent == self.top

    def target(self) -> Path:
        return self.top / self.chance.choice(("private/secret", "private", "public", "public/of-root", "public/state.db"))

    def of_root(self) -> dict[str | Path, object]:
        return {name: state_of(self.top / name) for name in ("private", "public", "config.toml", DROP_INS)}

    def act(self, action: str, place: Path, target: Path) -> None:
        """Let the owner do something to a path of its own."""
        command = [*as_account(OWNER), sys.executable, "-c", ACT, action, str(place), str(target)]
        if action in ("exchange", "appear"):
            process = subprocess.Popen(command, stdout=subprocess.PIPE)
            self.exchanges.append(process)
            assert process.stdout is not None
            process.stdout.readline()
        else:
            subprocess.run(command, check=True, timeout=30)

    def put_hard_link(self, place: Path) -> None:
        """Put a file of root there, as the owner could if the kernel did not protect hard links."""
        if place.parent.is_dir() and not place.is_dir():
            place.unlink(missing_ok=True)
            place.hardlink_to(self.top / self.chance.choice(("private/secret", "public/of-root", "public/state.db")))

    def prepare_exchange(self, place: Path) -> None:
        """Put something hostile beside a path, which the owner exchanges with the path in a loop.

        At a path that is free, it appears and disappears.
        """
        other = Path(f"{place}~")
        if not place.parent.is_dir() or place.parent.is_symlink() or other.exists():
            return
        action = "exchange" if os.path.lexists(place) else "appear"
        match self.chance.choice(("link", "link", "link", "hard", "fifo", "file", "directory")):
            case "link":
                other.symlink_to(self.target())
                os.chown(other, OWNER, GROUP, follow_symlinks=False)
            case "hard":
                self.put_hard_link(other)
            case "fifo":
                os.mkfifo(other)
                os.chown(other, OWNER, GROUP)
                if place.is_dir() or ".db" in place.name:
                    # SQLite opens the directory of its files, and databases. Without another end
                    # its open would wait, which stops the run as a signal of the owner does.
                    self.ends.append(os.open(other, os.O_RDWR | os.O_NONBLOCK))
            case "file":
                other.write_text(SECRET)
                other.chmod(0o600)
            case "directory":
                other.mkdir(mode=0o700)
                (other / "secret").write_text(SECRET)
                (other / "secret").chmod(0o600)
        self.act(action, place, other)

    def run(self, run: RunCommand, words: Sequence[str], **variables: str) -> None:
        """Run a command as root. It ends with an exit code, and not with a traceback."""
        places = {
            "OUTPUT": self.home / "output" if self.chance.random() < 0.7 else self.top / "output",
            "DIRECTORY": self.home / "pages" / "page",
            "CONFIG": self.home / "config.toml",
        }
        arguments = [str(places.get(word, word)) for word in words]
        located = () if words[:2] == ("config", "init") else ("--base-path", self.home / "arawn", "--config", self.config)
        token = {} if self.is_of_root else {"ARAWN_RELAY_TOKEN": SECRET}
        done = run(*arguments, *located, prefix=READABLE, **token, **variables)
        self.shown.append(done.stdout + done.stderr)
        assert done.code in {*ExitCode} - {ExitCode.INTERNAL}, (arguments, done.stderr)
        assert "Traceback" not in done.stderr, (arguments, done.stderr)

    def end(self) -> None:
        for process in self.exchanges:
            process.kill()
            process.communicate()
        for descriptor in self.ends:
            os.close(descriptor)

    def assert_nothing_was_read(self) -> None:
        """No output, request or file that the owner can read holds the secret of root."""
        assert SECRET not in "".join(self.shown)
        files = [path for path in (*self.home.rglob("*"), self.top / "output") if path.is_file() and not path.is_symlink()]
        written = [path for path in files if path.stat().st_nlink == 1 and (path.stat().st_uid or path.stat().st_mode & 0o077)]
        assert not [path for path in written if SECRET.encode() in path.read_bytes()]
        if not self.is_of_root:
            assert not [request for request in self.received if SECRET.encode() in request]


@contextmanager
def attack(chance: random.Random) -> Iterator[Attack]:
    """A place with a tree of the owner. At the end, what is root's is as it was, and nobody has
    read it."""
    received: list[bytes] = []
    with tree_of_owner() as tree, listening(received) as port:
        top = tree.root.parent
        build(top, tree)
        home = top / "home"
        home.mkdir()
        tree.root.rename(home / "arawn")
        (top / "state").rename(home / "state")
        for name in ("metrics", "pages"):
            (home / name).mkdir()
        (home / "token").write_text("a-token")
        (home / "token").chmod(0o600)
        config = configure(top, chance, port, is_of_root=chance.random() < 0.3)
        give(home)
        found = Attack(top, chance, config, received)
        before = found.of_root()
        try:
            yield found
        finally:
            found.end()
        assert found.of_root() == before
        found.assert_nothing_was_read()


def attacked(seed: int, run: RunCommand) -> None:
    """Let root run some commands in a place that the owner prepared."""
    chance = random.Random(seed)  # noqa: S311 - reproducible
    with attack(chance) as place:
        for _ in range(chance.randint(1, 4)):
            action = chance.choice(("link", "link", "hard", "fifo", "directory", "socket", "copy", "exchange"))
            path = place.home / chance.choice(PLACES if chance.random() < 0.2 else BESIDE)
            if action == "hard":
                place.put_hard_link(path)
            elif action == "exchange":
                place.prepare_exchange(path)
            else:
                place.act(action, path, place.target())
        names = ("TMPDIR", "HOME", "XDG_STATE_HOME", "XDG_CONFIG_HOME")
        variables = {name: str(place.home) for name in names if chance.random() < 0.2}
        for words in (*chance.sample(COMMANDS, 2), ("disk-check",)):
            place.run(run, words, **variables)


def raced(words: Sequence[str], seed: int, run: RunCommand, delays: Path) -> None:
    """Let root run a command while the owner exchanges files, with delays between each check and
    use."""
    chance = random.Random(f"{words} {seed}")  # noqa: S311 - reproducible
    with attack(chance) as place:
        if words[0] == "trash" or "--apply" in words:
            place.run(run, ("scratch-cleanup", "--plan-out", str(place.home / "output")))
        likely = PLACES if words[0] != "config" else ("output", "config.toml", "output.bak", "config.toml.bak", "pages", "pages/page")
        for path in chance.sample(likely, 2):
            place.prepare_exchange(place.home / path)
        place.run(run, words, LD_PRELOAD=str(delays), DELAYED=str(place.top))


@pytest.fixture(scope="module")
def delays() -> Iterator[Path]:
    """A library that delays file operations, for LD_PRELOAD."""
    with tempfile.TemporaryDirectory(prefix="arawn-delays-") as name:
        library = Path(name, "delays.so")
        Path(name).chmod(0o755)
        source = Path(__file__).parents[1] / "support" / "delays.c"
        subprocess.run(["gcc", "-shared", "-fPIC", "-Wall", "-Werror", "-o", str(library), str(source), "-ldl"], check=True)
        yield library


@pytest.mark.parametrize("seed", range(6))
def test_root_does_nothing_that_a_hostile_owner_could_not(run: RunCommand, seed: int) -> None:
    attacked(seed, run)


@pytest.mark.long
@pytest.mark.parametrize("seed", range(1000, 1300))
def test_root_does_nothing_that_a_hostile_owner_could_not_in_any_place(run: RunCommand, seed: int) -> None:
    attacked(seed, run)


@needs(shutil.which("gcc") is not None, "gcc")
@pytest.mark.parametrize("number", range(3))
def test_no_race_with_the_owner_lets_root_do_what_the_owner_could_not(run: RunCommand, delays: Path, number: int) -> None:
    raced(random.Random(number).choice(RACED), number, run, delays)  # noqa: S311 - reproducible


@pytest.mark.long
@needs(shutil.which("gcc") is not None, "gcc")
@pytest.mark.parametrize("words", RACED, ids=" ".join)
@pytest.mark.parametrize("seed", range(100, 200))
def test_no_race_in_any_command_lets_root_do_what_the_owner_could_not(
    run: RunCommand, delays: Path, words: tuple[str, ...], seed: int
) -> None:
    raced(words, seed, run, delays)
