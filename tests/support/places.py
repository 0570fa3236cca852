"""One case of `test_places`: build a root, replace a place, run commands, print all.

Started as `python -m tests.support.places GENERATION PLACE KIND DIRECTORY`, in a mount namespace of
its own. The commands run in forks, because starting Python for each would take longer than all of
them.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from importlib import import_module
from pathlib import Path

from arawn_cli.cli import app
from tests.support.main_tree import MainTree, session_id
from tests.support.tree import SampleTree, set_age

WORKSTREAM = "0d24e1a0-aaaa-4bbb-8ccc-000000000001"
SIZE = 1_000_000

PLACES = {
    "v0": ("root", "workstreams", "scratch", "sessions", "trash", "messages", "session", "workstream", "production", "inner"),
    "main": ("root", "workstreams", "scratch", "trash", "messages", "session", "workstream", "inner"),
}
KINDS = ("plain", "tmpfs", "bind", "link", "dangling", "file", "fifo", "missing")

COMMANDS = {
    "dry run": ("scratch-cleanup", "--no-relay", "--format", "json", "--dry-run"),
    "disk-check": ("disk-check", "--dry-run", "--no-relay", "--format", "json"),
    "nagios": ("disk-check", "--dry-run", "--no-relay", "--format", "nagios"),
    "doctor": ("doctor", "--no-relay", "--format", "json"),
    "report": ("report",),
    "trash list": ("trash", "list", "--format", "json"),
    "cleanup": ("scratch-cleanup", "--no-relay", "--format", "json"),
}


@dataclass(frozen=True)
class Said:
    """The exit code and the output of a command."""

    code: int
    stdout: str
    stderr: str


def build(generation: str, directory: Path) -> dict[str, Path]:
    """Build a root with an inactive session and a workstream, both of SIZE; return its places."""
    root, now = directory / "arawn", time.time_ns()
    tree: SampleTree | MainTree
    if generation == "v0":
        tree = SampleTree(root, now)
        session = tree.session("s1", files={"f": SIZE, "inner/g": SIZE}, age_days=30)
        workstream = tree.workstream(WORKSTREAM, "blog", {"production/p": SIZE, "work/w": SIZE})
        tree.turn("s1", tree.ago(40))
        messages = tree.messages
        inner = session / "work" / "inner"
    else:
        tree = MainTree(root, now)
        session = tree.session(session_id(1), files={"f": SIZE, "inner/g": SIZE}, age_days=30)
        workstream = tree.workstreams / "thesis"
        (workstream / "p").write_bytes(b"p" * SIZE)
        messages = session / "messages.jsonl"
        inner = session / "inner"
    scratch = tree.workstreams / "scratch"
    return {
        "root": root,
        "workstreams": tree.workstreams,
        "scratch": scratch,
        "sessions": tree.sessions,
        "trash": scratch / ".trash",
        "messages": messages,
        "session": session,
        "workstream": workstream,
        "production": workstream / "production",
        "inner": inner,
    }


def replace(place: Path, kind: str, elsewhere: Path) -> None:
    """Put something of this kind in the place of a file or directory, which moves elsewhere."""
    age = place.stat().st_mtime_ns
    if kind == "tmpfs":
        shutil.copytree(place, elsewhere)
        subprocess.run(["mount", "-t", "tmpfs", "-o", "size=16m,mode=755", "tmpfs", place], check=True)
        subprocess.run(["cp", "-a", f"{elsewhere}/.", place], check=True)
        shutil.rmtree(elsewhere)
        os.utime(place, ns=(age, age))
        return
    if kind == "plain":
        return
    place.rename(elsewhere)
    if kind == "bind":
        place.mkdir() if elsewhere.is_dir() else place.touch()
        subprocess.run(["mount", "--bind", elsewhere, place], check=True)
    elif kind in ("link", "dangling"):
        place.symlink_to(elsewhere if kind == "link" else elsewhere.with_name("nowhere"))
    elif kind == "file":
        place.write_bytes(b"f" * 100)
    elif kind == "fifo":
        os.mkfifo(place)


def behind(top: Path) -> Iterator[Path]:
    """Yield every file that a program finds at or below a path, through links and mounts."""
    if top.is_file():
        yield top
    for directory, _, names in os.walk(top, followlinks=True):
        yield from (Path(directory, name) for name in names if Path(directory, name).is_file())


def size_behind(top: Path) -> int:
    """Return the size of all of these files."""
    return sum(path.stat().st_size for path in behind(top))


def run(command: str, root: Path, directory: Path) -> Said:
    """Run a command in a fork."""
    outputs = [directory / "stdout", directory / "stderr"]
    process = os.fork()
    if process == 0:
        code = 70
        try:
            for number, output in enumerate(outputs, start=1):
                os.dup2(os.open(output, os.O_CREAT | os.O_WRONLY | os.O_TRUNC), number)
            sys.argv = ["arawn-cli", *COMMANDS[command], "--config", str(directory / "config.toml"), "--base-path", str(root)]
            code = app.main()
            sys.stdout.flush()
        finally:
            os._exit(code)
    _, status = os.waitpid(process, 0)
    return Said(os.waitstatus_to_exitcode(status), *(output.read_text() for output in outputs))


def main(generation: str, place: str, kind: str, name: str) -> None:
    """Run one case and print it as JSON."""
    directory = Path(name)
    for module in ("cleanup", "diskcheck", "doctor", "report"):
        import_module(f"arawn_cli.cli.{module}")
    places = build(generation, directory)
    root = places["root"]
    (directory / "config.toml").write_text("[maintenance.cleanup]\ntrash_days = 3\n")
    if place == "trash":
        places["trash"].mkdir(mode=0o700)
    times = {session: session.stat().st_mtime_ns for session in (places["session"],)}
    replace(places[place], kind, directory / "elsewhere")
    for session, time_ns in times.items():
        if session.is_dir() and not session.is_symlink() and place in ("inner", "messages"):
            set_age(session, time_ns)
    elsewhere = directory / "elsewhere"
    before = sorted(map(str, behind(elsewhere)))
    result = {
        "size": size_behind(root / "workstreams"),
        "mounted": size_behind(places[place]) if kind == "tmpfs" else 0,
        "said": {command: asdict(run(command, root, directory)) for command in COMMANDS},
        "size_after": size_behind(root / "workstreams"),
        "elsewhere": (size_behind(elsewhere), before, sorted(map(str, behind(elsewhere)))),
    }
    json.dump(result, sys.stdout)


if __name__ == "__main__":
    main(*sys.argv[1:])
