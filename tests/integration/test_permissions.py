"""Sessions with files that an account may not remove, on random trees."""

from __future__ import annotations

import os
import pwd
import random
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import Run, RunCommand, needs, needs_chattr, needs_setpriv, needs_strace, snapshot, works
from tests.support.cleanup import clean
from tests.support.tree import SampleTree, set_age

OTHER, THIRD = 65534, 12345
OTHER_NAME = pwd.getpwuid(OTHER).pw_name
# Root without its powers over files: an ordinary account with the user id 0.
ORDINARY = ("setpriv", "--bounding-set=-dac_override,-dac_read_search,-fowner,-chown,-linux_immutable", "--inh-caps=-all")
OVERLAY = 'cd "$(mktemp -d)" && mount -t tmpfs t . && mkdir l u w m && mount -t overlay o -o lowerdir=l,upperdir=u,workdir=w m'
needs_overlay = needs(os.getuid() == 0 and works("unshare", "--mount", "sh", "-c", OVERLAY), "root, mount namespaces and overlayfs")
IN_PYTHON = (
    "import sys; sys.argv = sys.argv[1:]; from arawn_cli.fs import measure; measure.native = None; "
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
    """Whether the account can move a directory and remove it completely, if it makes its own
    directories writable."""
    script = 'chmod -R u+rwX "$1" 2>/dev/null; mv -T "$1" "$2" && chmod -R u+rwX "$2" 2>/dev/null; rm -rf "$2" && [ ! -e "$1" ]'
    moved = aside / path.name
    return subprocess.run([*ORDINARY, "sh", "-c", script, "sh", str(path), str(moved)], capture_output=True, check=False).returncode == 0


@needs_setpriv
@needs_chattr
@pytest.mark.parametrize("flag", ["+a", "+i"])
@pytest.mark.parametrize("place", [".", ".trash", "sessions"])
def test_a_flagged_directory_that_every_removal_changes_keeps_all_sessions_in_both_modes(
    run: RunCommand, tree: SampleTree, flag: str, place: str
) -> None:
    """An append-only trash takes a session, and does not give it back."""
    tree.session("s", files={"f": 1}, age_days=30)
    (tree.sessions.parent / ".trash" / "other").mkdir(parents=True)
    path = os.path.normpath(tree.sessions.parent / place)
    subprocess.run(["chattr", flag, path], check=True)
    try:
        done = [clean(run, tree, *options) for options in (["--dry-run"], [])]
    finally:
        subprocess.run(["chattr", "-i", "-a", path], check=True)
    for one in done:
        assert (one.code, one.reasons()) == (1, {"s": "not_permitted"})
        assert f"immutable or append-only: sudo chattr -i -a {path}" in one.stderr
    assert (tree.sessions / "s" / "work" / "f").exists()
    assert clean(run, tree).reasons() == {"s": "expired"}


@needs_setpriv
@pytest.mark.parametrize("place", [".", ".trash", "sessions"])
def test_a_directory_that_this_account_cannot_change_keeps_all_sessions_in_both_modes(
    run: RunCommand, tree: SampleTree, place: str
) -> None:
    tree.session("s", files={"f": 1}, age_days=30)
    if place == ".trash":
        (tree.sessions.parent / ".trash" / "other").mkdir(parents=True)
    (tree.sessions.parent / place).chmod(0o555)
    for options in (["--dry-run"], []):
        done = clean(run, tree, *options, prefix=ORDINARY)
        assert (done.code, done.reasons()) == (1, {"s": "not_permitted"})
    assert (tree.sessions / "s" / "work" / "f").exists()


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
        assert dry.removed() == real.removed()
        assert again.reasons() == {name: reason for name, reason in real.reasons().items() if reason != "expired"}
        kept = {path.name for path in tree.sessions.iterdir()}
        assert kept == set(before) - real.removed()
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


def foreign(path: Path) -> None:
    """Give a directory and everything in it to another account."""
    for each in (path, *path.rglob("*")):
        os.chown(each, OTHER, OTHER, follow_symlinks=False)


def detail(done: Run, reason: str = "not_permitted") -> str:
    (event,) = (event for event in done.events if event.get("reason") == reason)
    return str(event["detail"])


@needs_setpriv
@pytest.mark.parametrize("mode", [0o755, 0o700])
def test_the_command_that_a_run_suggests_makes_the_session_removable(run: RunCommand, tree: SampleTree, mode: int) -> None:
    session = tree.session("s", files={"a b/of another": 1, "own": 1}, age_days=30)
    foreign(session / "work" / "a b")
    (session / "work" / "a b").chmod(mode)
    told = detail(clean(run, tree, prefix=ORDINARY))
    before, _, command = told.partition(": ")
    assert before == f"{OTHER_NAME} owns work/a b"
    assert (f"chown -hR --from={OTHER_NAME} root {session}" in command) == (mode == 0o755)
    subprocess.run(command.removeprefix("sudo "), shell=True, check=True)  # noqa: S602 - people paste it into a shell
    assert clean(run, tree, prefix=ORDINARY).reasons() == {"s": "expired"}


@needs_setpriv
def test_a_session_whose_directories_the_account_cannot_read_is_kept_until_it_can(run: RunCommand, tree: SampleTree) -> None:
    session = tree.session("s", files={"closed/a b/f": 1}, age_days=30)
    for name in ("closed/a b", "closed"):
        (session / "work" / name).chmod(0)
    for words in (("--dry-run",), ()):
        done = clean(run, tree, *words, prefix=ORDINARY)
        assert (done.code, done.reasons()) == (1, {"s": "activity_unknown"})
    told, _, command = detail(done, "activity_unknown").partition("denied: ")
    assert told == "open s/work/closed: Permission "
    subprocess.run([*ORDINARY, "sh", "-c", command], check=True)
    assert clean(run, tree, prefix=ORDINARY).reasons() == {"s": "expired"}


@needs_setpriv
def test_no_change_of_owner_is_suggested_if_a_file_there_has_another_name(run: RunCommand, tree: SampleTree, tmp_path: Path) -> None:
    session = tree.session("s", files={"theirs/of another": 1}, age_days=30)
    foreign(session / "work" / "theirs")
    os.link(session / "work" / "theirs" / "of another", tmp_path / "elsewhere")
    set_age(session, tree.ago(30))
    told = detail(clean(run, tree, prefix=ORDINARY))
    assert told.endswith("other names, perhaps elsewhere: work/theirs/of another")
    assert "sudo" not in told


@needs_setpriv
def test_purging_keeps_an_entry_whole_that_holds_files_of_another_account(run: RunCommand, tree: SampleTree, tmp_path: Path) -> None:
    config = tmp_path / "c.toml"
    config.write_text("[maintenance.cleanup]\ntrash_days = 3\n")
    tree.session("s", files={"theirs/of another": 1, "own": 1}, age_days=30)
    assert clean(run, tree, "--config", config).reasons() == {"s": "expired"}
    (entry,) = (tree.sessions.parent / ".trash").iterdir()
    foreign(entry / "work" / "theirs")
    purge = ("trash", "purge", "--base-path", tree.root, "--older-than-days", 0)
    done = run(*purge, prefix=ORDINARY)
    (left,) = (tree.sessions.parent / ".trash").iterdir()
    assert (done.code, (left / "work" / "own").exists(), (left / "work" / "theirs" / "of another").exists()) == (1, True, True)
    assert f"sudo chown -hR --from={OTHER_NAME} root {left}" in done.stderr
    assert run(*purge).code == 0
    assert not (tree.sessions.parent / ".trash").exists() or not list((tree.sessions.parent / ".trash").iterdir())


@needs_setpriv
@pytest.mark.parametrize("keep_chats", ["true", "false"])
def test_read_only_directories_keep_their_modes_in_the_trash_and_are_purged(
    run: RunCommand, tree: SampleTree, tmp_path: Path, keep_chats: str
) -> None:
    config = tmp_path / "c.toml"
    config.write_text(f"[maintenance.cleanup]\ntrash_days = 3\nkeep_chats = {keep_chats}\n")
    session = tree.session("s", files={"mod/inner/a.go": 1}, age_days=30)
    for path in (*session.rglob("*"), session):
        path.chmod(0o444 if path.is_file() else 0o555)
    before = {path.relative_to(session): path.stat().st_mode for path in (session, *session.rglob("*"))}
    assert clean(run, tree, "--config", config, "--dry-run", prefix=ORDINARY).removed() == {"s"}
    assert clean(run, tree, "--config", config, prefix=ORDINARY).removed() == {"s"}
    (entry,) = (tree.sessions.parent / ".trash").iterdir()
    assert {path.relative_to(entry): path.stat().st_mode for path in (entry, *entry.rglob("*"))} == before
    assert run("trash", "restore", "s", "--base-path", tree.root, prefix=ORDINARY).code == 0
    assert {path.relative_to(session): path.stat().st_mode for path in (session, *session.rglob("*"))} == before
    set_age(session, tree.ago(30))
    assert clean(run, tree, "--config", config, prefix=ORDINARY).removed() == {"s"}
    assert run("trash", "purge", "--base-path", tree.root, "--older-than-days", 0, prefix=ORDINARY).code == 0
    assert list(tree.sessions.parent.glob(".trash/*")) == []


@needs_strace
def test_a_session_that_the_kernel_does_not_let_delete_is_put_back_whole(run: RunCommand, tree: SampleTree) -> None:
    session = tree.session("s", files={"f": 1, "inner/g": 2}, age_days=30)
    before = snapshot(session)
    fault = ("strace", "-f", "-o", os.devnull, "-e", "trace=unlinkat", "-e", "inject=unlinkat,unlink,rmdir:error=EPERM")
    config = tree.root.parent / "purge.toml"
    config.write_text("[maintenance.cleanup]\ntrash_days = 0\n")
    done = clean(run, tree, "--config", config, prefix=fault)
    assert (done.code, done.reasons()) == (1, {"s": "not_permitted"})
    assert "Operation not permitted" in detail(done)
    assert snapshot(session) == before
    assert clean(run, tree).reasons() == {"s": "expired"}


@needs_setpriv
def test_a_read_only_session_that_is_put_back_has_its_mode(tmp_path: Path) -> None:
    for name in ("sessions/s", "trash"):
        (tmp_path / name).mkdir(parents=True)
    (tmp_path / "sessions" / "s").chmod(0o555)
    code = (
        "import os, sys; from arawn_cli.fs.exchange import move\n"
        "one, two = (os.open(f'{sys.argv[1]}/{name}', os.O_RDONLY) for name in ('sessions', 'trash'))\n"
        "move('s', one, 't', two); print(oct(os.stat('t', dir_fd=two).st_mode & 0o7777))\n"
        "move('t', two, 's', one); print(oct(os.stat('s', dir_fd=one).st_mode & 0o7777))\n"
    )
    done = subprocess.run([*ORDINARY, sys.executable, "-c", code, str(tmp_path)], capture_output=True, text=True, check=False)
    assert done.stdout == "0o555\n0o555\n", done.stderr


@needs_overlay
def test_an_overlay_is_named_by_its_mount_point_whatever_its_name(tmp_path: Path) -> None:
    for name in ("lower/session", "upper", "work", "mount point"):
        (tmp_path / name).mkdir(parents=True)
    code = (
        "import os, sys; from arawn_cli.fs.exchange import overlay_that_cannot_move; "
        "print(overlay_that_cannot_move('session', os.open('mount point', os.O_RDONLY)))"
    )
    options = "lowerdir=lower,upperdir=upper,workdir=work,redirect_dir=off"
    script = f"cd '{tmp_path}' && mount -t overlay o -o {options} 'mount point' && exec \"$@\""
    command = ["unshare", "--mount", "sh", "-c", script, "sh", sys.executable, "-c", code]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.stdout == f"{tmp_path}/mount point\n", done.stderr


@needs_overlay
def test_a_session_in_a_lower_layer_of_an_overlay_is_kept_and_others_are_removed(run: RunCommand, tree: SampleTree, tmp_path: Path) -> None:
    tree.session("lower", files={"f": 1}, age_days=30)
    tree.session("both", files={"f": 1}, age_days=30)
    for name in ("upper", "work"):
        (tmp_path / name).mkdir()
    upper = f"mkdir {tree.sessions}/upper && touch {tree.sessions}/both/new && find {tree.sessions} -exec touch -h -d '30 days ago' {{}} +"
    for option, moved in (("off", {"upper"}), ("on", {"upper", "lower", "both"})):
        options = f"lowerdir={tree.root},upperdir={tmp_path}/upper,workdir={tmp_path}/work,redirect_dir={option}"
        script = f'mount -t overlay o -o {options} {tree.root} && {upper} && exec "$@"'
        for words in (("--dry-run",), ()):
            for name in ("upper", "work"):
                shutil.rmtree(tmp_path / name)
                (tmp_path / name).mkdir()
            done = clean(run, tree, *words, prefix=("unshare", "--mount", "sh", "-c", script, "sh"))
            expected = {name: "expired" if name in moved else "cannot_move" for name in ("upper", "lower", "both")}
            assert (done.reasons(), done.code) == (expected, int(option == "off")), done.stderr
