"""What a person at a terminal sees."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import uuid
from collections.abc import Callable
from pathlib import Path

import pytest

from arawn_cli import __version__
from tests.conftest import COMMAND, Run, needs
from tests.support.terminal import on_a_terminal
from tests.support.tree import SampleTree

TOP = Path(__file__).parents[2]
# Drawing a bar hides the cursor, and taking it away brings the cursor back.
SHOWN_CURSOR = "\x1b[?25h"


def test_a_terminal_gets_a_table_a_progress_bar_and_colour(environment: dict[str, str], tree: SampleTree) -> None:
    for number in range(3):
        tree.session(f"old-{number}", files={"f": 1000}, age_days=30)
    tree.session("new", files={"f": 1}, age_days=1)
    code, drawn = on_a_terminal(environment, "scratch-cleanup", "--base-path", tree.root, "--yes")
    assert code == 0
    for piece in ("old-2", "trashed", "30 d ago", "Removed 3 sessions of 4: 2.9 KiB, in the trash until ", "removing", "\x1b["):
        assert piece in drawn
    assert "│ new" not in drawn
    assert drawn.index(SHOWN_CURSOR) < drawn.index("Scratch sessions"), "the bar is off the terminal before the table begins"
    assert drawn.count(SHOWN_CURSOR) == 1


def test_events_on_a_terminal_have_their_lines_to_themselves(environment: dict[str, str], tree: SampleTree) -> None:
    tree.session("s", files={"f": 1}, age_days=30)
    _, drawn = on_a_terminal(environment, "scratch-cleanup", "--base-path", tree.root, "--format", "json")
    lines = [line for line in drawn.splitlines() if line.startswith("{")]
    assert [json.loads(line)["type"] for line in lines] == ["scratch_session", "scratch_cleanup"]


@pytest.mark.parametrize("columns", [80, 100, 120])
def test_an_id_stays_whole_on_a_terminal_of_80_columns(run: Callable[..., Run], tree: SampleTree, tmp_path: Path, columns: int) -> None:
    config = tmp_path / "marked.toml"
    config.write_text("[paths.usage]\nsession_warning_mb = 1\n[maintenance.cleanup]\ntrash_days = 9\nmax_percent = 100\n")
    ids = [str(uuid.UUID(int=number, version=4)) for number in range(6)]
    for session, days in zip(ids, (2000, 40, 30, 9, 2, 0.1), strict=True):
        tree.session(session, files={"f": 123_456 + (days == 40) * 1_500_000}, age_days=days)
    arguments = ("--base-path", tree.root, "--config", config)
    shown = [
        run("scratch-cleanup", "--dry-run", "-v", "--format", "table", *arguments, COLUMNS=str(columns)).stdout,
        run("report", *arguments, COLUMNS=str(columns)).stdout,
    ]
    run("scratch-cleanup", "--older-than-days", 1, *arguments)
    shown.append(run("trash", "list", "--format", "table", *arguments, COLUMNS=str(columns)).stdout)
    for text, whole in zip(shown, (ids, ids, ids[:5]), strict=True):
        lines = [line for line in text.splitlines() if re.search(r"[0-9a-f]{8}-", line) and not re.match(r"\S+: ", line)]
        assert {word for line in lines for word in line.replace("│", " ").split()} >= set(whole), text
        rows = [line for line in lines if not re.match(r"  |[0-9a-f-]{36}: ", line)]
        assert all(re.search(r"\d [hd] ago.*|\d{4}-\d\d-\d\d +[\d.]+ [KM]iB", line) for line in rows), text
        assert max(map(len, text.splitlines())) <= columns
    assert ("would trash" in shown[0], "protected" in shown[0]) == (True, False)


def test_a_name_cannot_steer_the_terminal(environment: dict[str, str], tree: SampleTree) -> None:
    (tree.sessions / "\x1b[2Jevil\n[bold]").mkdir()
    tree.workstream("blog", "\x1b[2Jt[red]x", {"work/f": 10})
    _, drawn = on_a_terminal(environment, "scratch-cleanup", "--base-path", tree.root, "--quiet", "--yes")
    assert "\\x1b[2Jevil\\x0a[bold]" in drawn
    assert "\x1b[2J" not in drawn
    _, drawn = on_a_terminal(environment, "disk-check", "--base-path", tree.root, "--quiet")
    assert "\\x1b[2Jt[red]x" in drawn
    assert "\x1b[2J" not in drawn


def test_the_demo_shows_all_three_steps_and_leaves_nothing(run: Callable[..., Run], tmp_path: Path) -> None:
    done = run("demo", TMPDIR=str(tmp_path))
    assert done.code == 0, done.stderr
    for piece in ("Would remove 2 sessions of 6", "Removed 2 sessions of 6", "Thesis", "critical:"):
        assert piece in done.stdout
    assert not list(tmp_path.glob("arawn-demo-*"))


@needs(shutil.which("prlimit") is not None, "prlimit")
def test_a_demo_that_cannot_write_its_tree_says_so_and_leaves_nothing(run: Callable[..., Run], tmp_path: Path) -> None:
    done = run("demo", TMPDIR=str(tmp_path), prefix=("prlimit", "--fsize=1000000"))
    assert (done.code, done.stdout) == (78, "")
    assert re.fullmatch(
        rf"ERROR: cannot write the sample tree to {tmp_path}/arawn-demo-\w+: .*File too large.*; set TMPDIR to another folder\n",
        done.stderr,
    )
    assert not list(tmp_path.glob("arawn-demo-*"))


def test_the_demo_can_leave_its_tree(run: Callable[..., Run], tmp_path: Path) -> None:
    run("demo", "--keep", TMPDIR=str(tmp_path))
    (folder,) = tmp_path.glob("arawn-demo-*")
    assert sorted(os.listdir(folder / "arawn")) == ["workstreams", "workstreams.db"]


def test_no_command_runs_what_lies_in_the_working_directory(run: Callable[..., Run], environment: dict[str, str], tree: SampleTree) -> None:
    tree.session("old", files={"f": 1}, age_days=30)
    here = tree.root.parent
    (here / "arawn_cli.py").write_text("raise SystemExit('code of another account')")
    shown = [run("demo", TMPDIR=str(here)).stderr]
    script = f"from arawn_cli.cli.schedule import *; flags = Flags(base_path={str(tree.root)!r}); preview(flags, load(flags, os.environ))"
    done = subprocess.run([sys.executable, "-P", "-c", script], cwd=here, env=environment, capture_output=True, text=True, check=True)
    assert "Would remove 1 session of 1" in done.stdout
    assert "code of another account" not in "".join([*shown, done.stderr])


def test_the_module_is_the_command(environment: dict[str, str], run: Callable[..., Run]) -> None:
    module = subprocess.run([sys.executable, "-m", "arawn_cli", "--version"], capture_output=True, text=True, env=environment, check=True)
    assert module.stdout == run("--version").stdout == f"arawn-cli {__version__}\n"


@pytest.mark.skipif(not (TOP / ".git").exists() or not shutil.which("git"), reason="needs a checkout, and git")
def test_the_version_names_the_commit(run: Callable[..., Run]) -> None:
    commit = subprocess.run(["git", "-C", TOP, "rev-parse", "HEAD"], capture_output=True, text=True, check=True).stdout
    (named,) = re.findall(r"^commit (?:\S+-g)?([0-9a-f]+)(?:-dirty)?$", run("--version", "--verbose").stdout, re.MULTILINE)
    assert len(named) >= 12
    assert commit.startswith(named)


def test_no_command_shows_the_help(run: Callable[..., Run]) -> None:
    done = run()
    assert done.code == 2
    assert all(command in done.stdout + done.stderr for command in ("scratch-cleanup", "disk-check", "demo"))


ENCODINGS = [
    {"PYTHONIOENCODING": "latin-1"},
    {"PYTHONIOENCODING": "cp437:strict"},
    {"PYTHONIOENCODING": "utf-16"},
    {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"},
]


@pytest.mark.parametrize("encoding", ENCODINGS, ids=lambda encoding: next(iter(encoding.values())))
def test_what_the_encoding_lacks_is_replaced(
    environment: dict[str, str], tree: SampleTree, tmp_path: Path, encoding: dict[str, str]
) -> None:
    tree.workstream("1", "Пример", {"work/f": 1})
    config = tmp_path / "marked.toml"
    config.write_bytes(b'\xef\xbb\xbf[maintenance.cleanup]\nprotect = ["kept"]\n')
    located = ("--base-path", tree.root, "--config", config)
    texts = []
    for words in (
        ("report", *located),
        ("disk-check", "--format", "table", *located),
        ("config", "show", *located),
        ("config", "init", "-"),
        ("doctor", *located),
    ):
        done = subprocess.run([COMMAND, *map(str, words)], capture_output=True, env=environment | encoding, cwd=tmp_path, check=False)
        assert (done.returncode, done.stderr) == (0, b""), words
        texts.append(done.stdout.decode("utf-16" if encoding.get("PYTHONIOENCODING") == "utf-16" else "latin-1"))
    assert ("Пример" if "utf-16" in encoding.values() else "??????") in texts[0]
    assert "kept" in texts[2]
