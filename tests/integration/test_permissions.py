"""Sessions with files that an account may not remove, on random trees."""

from __future__ import annotations

import os
import random
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import Run, RunCommand, needs_chattr, needs_setpriv, snapshot
from tests.support.cleanup import clean
from tests.support.tree import SampleTree, set_age

OTHER, THIRD = 65534, 12345
# Root without its powers over files: an ordinary account with the user id 0.
ORDINARY = ("setpriv", "--bounding-set=-dac_override,-dac_read_search,-fowner,-chown,-linux_immutable", "--inh-caps=-all")
IN_PYTHON = (
    "import sys; sys.argv = sys.argv[1:]; from arawn_cli.fs import measure; measure.native = None;"
    "from arawn_cli.__main__ import main; main()"
)
SESSIONS = 30


def fill(top: Path, chance: random.Random) -> None:
    """Make a tree of directories and files with random owners, modes and flags."""
    directories = [top, top / "work"]
    for number in range(chance.randrange(12)):
        directory = chance.choice(directories)
        path = directory / f"{chance.choice(('a', 'with space', chr(233)))}{number}"
        if chance.random() < 0.4:
            path.mkdir()
            directories.append(path)
        elif chance.random() < 0.1:
            path.symlink_to("/etc")
        else:
            path.write_bytes(b"x" * chance.randrange(100))
    for path in [*top.rglob("*"), top]:
        if chance.random() < 0.15:
            os.chown(path, chance.choice((OTHER, THIRD)), 0 if chance.random() < 0.3 else OTHER, follow_symlinks=False)
        if not path.is_symlink() and chance.random() < 0.3:
            modes = (0o755, 0o555, 0o1777, 0o777, 0o775, 0o500, 0o700) if path.is_dir() else (0o444, 0o000, 0o600)
            path.chmod(chance.choice(modes))
        if path.is_dir() and path.stat().st_uid and path.stat().st_mode & 0o5 != 0o5:
            (path / "inside").touch()  # whether it is empty cannot be seen
    set_age(top, 10**18)


def flag(top: Path, chance: random.Random) -> None:
    """Make an entry immutable or append-only."""
    path = chance.choice([path for path in (top, *top.rglob("*")) if not path.is_symlink()])
    subprocess.run(["chattr", chance.choice(("+i", "+a")), str(path)], check=True)


def ran(run: RunCommand, tree: SampleTree, *words: object, native: bool) -> Run:
    if native:
        return clean(run, tree, *words, prefix=ORDINARY)
    return clean(run, tree, *words, prefix=(*ORDINARY, sys.executable, "-c", IN_PYTHON))


def removable_by_hand(path: Path, aside: Path) -> bool:
    """Whether the account can move a directory and remove it completely, if it makes its own directories writable."""
    script = 'chmod -R u+rwX "$1" 2>/dev/null; mv -T "$1" "$2" && chmod -R u+rwX "$2" 2>/dev/null; rm -rf "$2" && [ ! -e "$1" ]'
    moved = aside / path.name
    return subprocess.run([*ORDINARY, "sh", "-c", script, "sh", str(path), str(moved)], capture_output=True, check=False).returncode == 0


@needs_setpriv
@needs_chattr
@pytest.mark.parametrize("native", [True, False], ids=["C", "Python"])
@pytest.mark.parametrize("seed", range(3))
def test_dry_and_real_run_agree_on_what_this_account_can_remove(
    run: RunCommand, tree: SampleTree, tmp_path: Path, seed: int, native: bool
) -> None:
    chance = random.Random(seed)  # noqa: S311 - a tree, no secret
    for number in range(SESSIONS):
        session = tree.session(f"s{number}", files={}, age_days=30)
        fill(session, chance)
        if chance.random() < 0.15:
            flag(session, chance)
    before = {path.name: snapshot(path) for path in tree.sessions.iterdir()}
    try:
        dry = ran(run, tree, "--dry-run", native=native)
        assert {path.name: snapshot(path) for path in tree.sessions.iterdir()} == before
        real = ran(run, tree, native=native)
        again = ran(run, tree, native=native)

        assert dry.reasons() == real.reasons()
        assert dry.sessions("would_delete") == real.sessions("deleted")
        assert again.reasons() == {name: reason for name, reason in real.reasons().items() if reason != "expired"}
        kept = {path.name for path in tree.sessions.iterdir()}
        assert kept == set(before) - real.sessions("deleted")
        assert not (tree.sessions.parent / ".trash").exists()
        assert {name: snapshot(tree.sessions / name) for name in kept} == {name: before[name] for name in kept}

        # Each way out of it is told, and what is kept could not have been removed.
        assert set(real.reasons().values()) == {"expired", "not_permitted"}
        for event in real.events:
            if event.get("reason") == "not_permitted":
                assert "sudo " in str(event["detail"]), event
        aside = tmp_path / "aside"
        aside.mkdir()
        assert [name for name in kept if removable_by_hand(tree.sessions / name, aside)] == []
    finally:
        subprocess.run(["chattr", "-R", "-f", "-i", "-a", str(tmp_path)], check=False)
