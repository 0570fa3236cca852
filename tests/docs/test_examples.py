"""The examples of `arawn_cli/cli/examples.toml`: every option has one, each is one, and those that
change no machine do what they say."""

from __future__ import annotations

import shlex
import subprocess
import time
from collections.abc import Mapping
from pathlib import Path

import pytest
from typer.core import TyperCommand, TyperGroup

from arawn_cli.cli.help import examples
from tests.conftest import COMMAND, Run
from tests.support.commands import PROGRAM, commands, options_of
from tests.support.in_process import cleaned
from tests.support.tree import SampleTree

EXAMPLES = examples()
LINES = [(name, line) for name, lines in EXAMPLES.items() for line in lines]
# They change this machine, need a terminal, or stay until they are stopped; Cloacina has tests of
# its own.
LEFT_OUT = (
    "sudo ",
    "schedule install",
    "schedule remove",
    "schedule serve",
    "--cloacina",
    "--install-completion",
    "--show-completion",
    "--ask",
)
SAFE = [(name, line) for name, line in LINES if not any(words in line for words in LEFT_OUT)]
# Codes that tell of this machine: its disk may be full, and none of its timers are those of the
# test.
ALSO = {"nagios": {1, 2}, "--fail-on": {3}, "doctor": {1}, "schedule status": {1}}
IDS = ("old-and-forgotten", "survey-2", "survey-3", "survey-4")


def words_of(line: str) -> list[str]:
    return shlex.split(line.partition(" > ")[0].removeprefix("sudo "))


def test_every_option_of_every_command_has_an_example() -> None:
    lacking = {}
    for name, command in commands().items():
        if isinstance(command, TyperGroup) and name != PROGRAM:
            continue  # of its own it has --help alone
        shown = {word for line in EXAMPLES[name] for word in words_of(line)}
        long = {option for option in options_of(command) if option.startswith("--")}
        lacking[name] = long - shown
    assert {name: options for name, options in lacking.items() if options} == {}


def test_no_example_is_of_a_command_that_is_none() -> None:
    assert set(EXAMPLES) <= set(commands())


@pytest.mark.parametrize(("name", "line"), LINES, ids=[line for _, line in LINES])
def test_the_program_understands_each_example(name: str, line: str) -> None:
    words = words_of(line)
    start = name.split()
    if name == PROGRAM:
        assert set(words) - {"--help"} <= {PROGRAM, "trash", "purge", *options_of(commands()[PROGRAM])}
        return
    assert words[: len(start)] == start
    command = commands()[name]
    assert isinstance(command, TyperCommand)
    assert command.make_context(name, words[len(start) :]).info_name == name


@pytest.mark.slow
@pytest.mark.parametrize("name", sorted({name for name, _ in SAFE}))
def test_the_examples_of_a_command_work_one_after_the_other(name: str, environment: Mapping[str, str], tmp_path: Path) -> None:
    home = Path(environment["HOME"])
    four_roots(home)
    own = {**environment, "PATH": f"{COMMAND.parent}:{environment['PATH']}"}
    subprocess.run([COMMAND, "scratch-cleanup", "--yes", "--no-relay", "--format", "none"], env=own, check=True, timeout=60)
    for line in (line for command, line in SAFE if command == name):
        done = subprocess.run(["sh", "-c", line], cwd=tmp_path, env=own, capture_output=True, text=True, check=False, timeout=60)
        found = Run(done.returncode, done.stdout, done.stderr)
        allowed = {0}.union(*(codes for words, codes in ALSO.items() if words in line))
        assert found.code in allowed, (line, found)
        assert "Usage:" not in found.stderr


def four_roots(home: Path) -> None:
    """The main root, one with a name, one of another file, and the one where Arawn puts it; each
    with a session in the trash."""
    kept = "[maintenance.cleanup]\ntrash_days = 30\n"
    (home / "trash.toml").write_text(kept)
    for folder, session in zip(("server", "lab", "test", ".arawn"), IDS, strict=True):
        tree = SampleTree(home / folder, time.time_ns())
        tree.session("in-use", files={"a": 10}, age_days=1)
        tree.session(session, files={"a": 10}, age_days=9)
        others = ("survey-2", "survey-3") if folder == "server" else ()
        for other in ("notes", *others):
            tree.session(other, files={"a": 10}, age_days=9)
        summary, _events = cleaned(tree, config=home / "trash.toml")
        assert summary.sessions_cleaned == 2 + len(others)
        for other in others:  # they go on under the same names
            tree.session(other, files={"a": 10}, age_days=1)
        tree.session("due", files={"a": 10}, age_days=9)
    relay = f"[maintenance.relay]\ndeadline_secs = 0.1\n{kept}"
    main = home / ".config" / "arawn" / "config.toml"
    main.parent.mkdir(parents=True)
    main.write_text(f"[maintenance]\nroot = '{home / 'server'}'\n{relay}[[maintenance.roots]]\nname = 'lab'\npath = '{home / 'lab'}'\n")
    (home / "test.toml").write_text(f"[maintenance]\nroot = '{home / 'test'}'\n{relay}")
