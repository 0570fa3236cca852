"""Write to chats while removals exchange them, and remove on filesystems that cannot exchange."""

from __future__ import annotations

import errno
import os
import re
import subprocess
import sys
import time
from pathlib import Path

import pytest

from arawn_cli.cleanup.chats import ChatNeeds, Places, prepare
from arawn_cli.cleanup.trash_entry import confirmed_name, parse_entry, pending_name
from arawn_cli.fs.openat import opened_directory
from tests.conftest import COMMAND, needs_namespaces, needs_strace
from tests.support.main_tree import MainTree, session_id
from tests.support.tree import SampleTree

SESSIONS = {"main": tuple(session_id(number) for number in (1, 2)), "v0": ("due-1", "due-2")}
NEEDS = ChatNeeds("messages.jsonl", is_file=True)
AT_CWD = -100  # AT_FDCWD of fcntl.h; the paths are absolute
FILES = {"a": 10, "b/c/d": 20, "b/e": 5}


class Field:
    """A tree of either generation with two due sessions and a configuration that keeps chats and
    has a trash."""

    def __init__(self, folder: Path, generation: str) -> None:
        self.generation = generation
        folder.mkdir()
        self.tree: MainTree | SampleTree = (MainTree if generation == "main" else SampleTree)(folder / "arawn", time.time_ns())
        self.configuration = folder / "maintenance.toml"
        self.configuration.write_text("[maintenance.cleanup]\nkeep_chats = true\ntrash_days = 3\n")
        self.names = SESSIONS[generation]
        for name in self.names:
            self.tree.session(name, files=FILES, age_days=30)
        self.trash = self.tree.workstreams / "scratch" / ".trash"

    def chat(self, name: str) -> Path:
        return self.tree.sessions / name / ("messages.jsonl" if self.generation == "main" else "work")

    def files_in(self, session: Path) -> set[str]:
        top = session if self.generation == "main" else session / "work"
        return {name for name in FILES if (top / name).is_file()}

    def entries(self, name: str) -> list[Path]:
        """Return its entries in the trash, which is beside the sessions if there was no space for a
        directory."""
        return [*self.trash.glob(f"*{name}.*"), *self.tree.sessions.glob(f".trash.*{name}.*")]

    def check(self) -> None:
        """Each chat has what it needs, and the files of each session are all in place or all in the
        trash."""
        for name in self.names:
            assert self.chat(name).exists()
            holders = [place for place in (self.tree.sessions / name, *self.entries(name)) if self.files_in(place)]
            assert [self.files_in(place) for place in holders] == [set(FILES)], holders

    def run(self, environment: dict[str, str], *arguments: str, prefix: tuple[str, ...] = ()) -> subprocess.CompletedProcess[str]:
        order = [*prefix, str(COMMAND), *arguments, "--config", str(self.configuration), "--base-path", str(self.tree.root)]
        return subprocess.run(order, capture_output=True, text=True, env=environment, check=False, timeout=60)


# One program, like Arawn's server: it appends, replaces or moves one after the other. Two programs
# that replaced the file by what they had read would lose each other's lines without any cleanup.
PROGRAM = """
import os, random, sys, time
scratch, thesis, session, log = sys.argv[1:]
path = f"{scratch}/{session}/messages.jsonl"
random.seed(int(os.environ["SEED"]))
pause = float(os.environ["PAUSE"])
number = 0
print("ready", flush=True)
while True:
    time.sleep(random.random() * pause)
    line = f"line {number}\\n"
    try:
        if (what := random.choice(os.environ["KINDS"].split())) == "append":
            file = os.open(path, os.O_WRONLY | os.O_APPEND)
            os.write(file, line.encode())
            os.close(file)
        elif what == "replace":
            with open(path) as old:
                text = old.read()
            with open(f"{path}.tmp", "w") as new:
                new.write(text + line)
            os.rename(f"{path}.tmp", path)
        else:
            os.makedirs(f"{thesis}/{session}", exist_ok=True)
            os.rename(path, f"{thesis}/{session}/messages.jsonl")
            path = f"{thesis}/{session}/messages.jsonl"
            continue
    except FileNotFoundError:
        continue  # its temporary file was moved away with the old directory: Arawn reports that and tries again
    with open(log, "a") as written:
        written.write(line)
    number += 1
    old_time = time.time() - 30 * 86400
    for used in (path, os.path.dirname(path)):
        try:
            os.utime(used, (old_time, old_time))
        except FileNotFoundError:
            pass
"""

KINDS = ["append", "append replace", "append append append append append move", "append append replace replace move"]


class Writer:
    """A program that writes to the chat of a session until it is stopped; its lines and where they
    must be."""

    def __init__(self, field: Field, kinds: str, pause: float, seed: int) -> None:
        self.places = [field.tree.workstreams / "thesis" / field.names[0] / "messages.jsonl", field.chat(field.names[0])]
        self.log = field.tree.root / "written"
        self.log.touch()
        scratch, thesis = field.tree.sessions, field.tree.workstreams / "thesis"
        order = [sys.executable, "-c", PROGRAM, str(scratch), str(thesis), field.names[0], str(self.log)]
        environment = {**os.environ, "KINDS": kinds, "PAUSE": str(pause), "SEED": str(seed)}
        self.program = subprocess.Popen(order, env=environment, stdout=subprocess.PIPE)
        assert self.program.stdout is not None
        self.program.stdout.readline()

    def stop(self) -> None:
        self.program.kill()
        self.program.communicate()

    def check(self) -> None:
        """No line is lost, and none is twice in a file.

        If messages are replaced and then moved within one exchange, the older file moves, and the
        newer one stays in scratch.
        """
        found = [place.read_text().splitlines() for place in self.places if place.exists()]
        assert not set(self.log.read_text().splitlines()) - {line for lines in found for line in lines}
        assert [len(lines) for lines in found] == [len(set(lines)) for lines in found]


@pytest.mark.parametrize(
    "exchanges", [pytest.param(100, marks=pytest.mark.slow, id="some"), pytest.param(3000, marks=pytest.mark.long, id="many")]
)
@pytest.mark.parametrize("kinds", KINDS)
@pytest.mark.parametrize("pause", [0, 0.0005])
def test_a_program_that_writes_to_a_chat_during_many_exchanges_loses_no_line(
    tmp_path: Path, kinds: str, pause: float, exchanges: int
) -> None:
    """Each session is exchanged, and put back at once or after the exchange was confirmed."""
    for seed in range(exchanges):
        field = Field(tmp_path / f"{seed}", "main")
        writer = Writer(field, kinds, pause, seed)
        try:
            done = sum(exchanged_and_back(field, seed + number) for number in range(100))
        finally:
            writer.stop()
        writer.check()
        assert field.files_in(field.tree.sessions / field.names[0]) == set(FILES)
        exchanges -= done + 1
        if exchanges <= 0:
            break


def exchanged_and_back(field: Field, seed: int) -> bool:
    """Exchange the first session and put it back, as a removal and a restore do; false if its chat
    was moved away."""
    name = field.names[0]
    field.trash.mkdir(exist_ok=True)
    with (
        opened_directory(AT_CWD, str(field.tree.sessions)) as sessions,
        opened_directory(sessions, name) as session,
        opened_directory(sessions, ".trash") as trash,
    ):
        try:
            entry, _ = prepare(session, NEEDS, trash, pending_name(name, time.time_ns(), exchanged=True))
        except FileNotFoundError:
            return False
        if not places(sessions, name, trash, entry).exchange():
            places(sessions, name, trash, entry).complete()
        elif seed % 2 or not places(sessions, name, trash, entry).is_unchanged():
            until_it_succeeds(sessions, name, trash)
        else:
            os.rename(entry, confirmed_name(entry), src_dir_fd=trash, dst_dir_fd=trash)
            until_it_succeeds(sessions, name, trash)
        assert os.listdir(trash) == []
    return True


def places(sessions: int, name: str, trash: int, entry: str) -> Places:
    parsed = parse_entry((), entry)
    assert parsed is not None
    assert parsed.exchanged is not None
    return Places(sessions, name, trash, entry, NEEDS, parsed.exchanged)


def until_it_succeeds(sessions: int, name: str, trash: int) -> None:
    """Put a session back; a call that found new files again and again is completed by the next
    run."""
    for _ in range(20):
        (entry,) = os.listdir(trash)
        try:
            places(sessions, name, trash, entry).bring_back()
        except OSError as error:
            if error.errno not in (errno.EBUSY, errno.EEXIST, errno.ENOTEMPTY):
                raise
        else:
            return


SLOW_EXCHANGE = (
    *("strace", "-f", "-qq", "-o", "/dev/null", "-e", "trace=renameat2"),
    *("-e", "inject=renameat2:delay_enter=9000:delay_exit=9000"),
)


@needs_strace
@pytest.mark.parametrize("prefix", [pytest.param((), id="fast"), pytest.param(SLOW_EXCHANGE, id="slow")])
@pytest.mark.parametrize("pause", [0, pytest.param(0.002, marks=pytest.mark.long)])
@pytest.mark.parametrize("kinds", KINDS)
@pytest.mark.slow
def test_a_program_that_writes_to_a_chat_while_cleanup_runs_in_a_loop_loses_no_line(
    environment: dict[str, str], tmp_path: Path, kinds: str, pause: float, prefix: tuple[str, ...]
) -> None:
    """Its files keep their old times, so that the session stays due; only the comparison of files
    can see it."""
    field = Field(tmp_path / "field", "main")
    name = field.names[0]
    writer = Writer(field, kinds, pause, seed=1)
    try:
        for _ in range(6):
            assert field.run(environment, "scratch-cleanup", prefix=prefix).returncode in (0, 1)
            for _ in range(20):
                if field.files_in(field.tree.sessions / name) == set(FILES):
                    break
                field.run(environment, "trash", "restore", name)
            assert field.files_in(field.tree.sessions / name) == set(FILES)
    finally:
        writer.stop()
    writer.check()


def without_exchange(field: Field, environment: dict[str, str], prefix: tuple[str, ...]) -> None:
    before = {path: path.stat().st_mtime_ns for path in field.tree.workstreams.rglob("*") if path.is_file()}
    for arguments in (("scratch-cleanup", "--dry-run"), ("scratch-cleanup",)):
        done = field.run(environment, *arguments, prefix=prefix)
        assert done.returncode == 1
        assert done.stderr.count("keep_chats = false") == 1, done.stderr
        assert '"sessions_cleaned":0' in done.stdout
        assert '"sessions_kept":{"cannot_move":2}' in done.stdout
        assert {path: path.stat().st_mtime_ns for path in field.tree.workstreams.rglob("*") if path.is_file()} == before
        assert not field.trash.exists()
    doctor = field.run(environment, "doctor", prefix=prefix)
    assert doctor.returncode == 1
    assert re.search('"check":"chats","status":"fail"', doctor.stdout), doctor.stdout


@needs_strace
@pytest.mark.slow
@pytest.mark.parametrize("generation", ["main", "v0"])
@pytest.mark.parametrize("error", ["EINVAL", "ENOSYS"])
def test_a_filesystem_that_refuses_to_exchange_keeps_every_session(
    environment: dict[str, str], tmp_path: Path, generation: str, error: str
) -> None:
    environment = {key: value for key, value in environment.items() if not key.startswith("COV")}
    prefix = ("strace", "-f", "-qq", "-o", "/dev/null", "-e", "trace=renameat2", "-e", f"inject=renameat2:error={error}")
    without_exchange(Field(tmp_path / "field", generation), environment, prefix)


@needs_namespaces
@pytest.mark.slow
@pytest.mark.parametrize("generation", ["main", "v0"])
def test_overlayfs_cannot_exchange_directories_of_a_lower_layer_and_keeps_them(
    environment: dict[str, str], tmp_path: Path, generation: str
) -> None:
    field = Field(tmp_path / "field", generation)
    for name in ("upper", "work"):
        (tmp_path / name).mkdir()
    options = f"lowerdir={field.tree.root},upperdir={tmp_path}/upper,workdir={tmp_path}/work,redirect_dir=off"
    script = (
        f'mount -t overlay overlay -o {options} {field.tree.root} || exit 99; "$@"; code=$?; ls -A {field.tree.sessions}/* >&2; exit $code'
    )
    done = field.run(environment, "scratch-cleanup", prefix=("unshare", "--mount", "sh", "-c", script, "sh"))
    if done.returncode == 99:
        pytest.skip("needs a filesystem that can be the upper layer of an overlay")
    assert done.returncode == 1
    assert re.search(r"in a lower layer of the overlay|keep_chats = false", done.stderr)  # Linux 6.6 tells it in advance
    assert '"sessions_kept":{"cannot_move":2}' in done.stdout
    assert done.stderr.count("messages.jsonl" if generation == "main" else "work") >= len(field.names)
    field.check()
