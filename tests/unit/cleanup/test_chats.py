"""Removing files of a session and keeping its chat, and putting both back."""

from __future__ import annotations

import errno
import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from arawn_cli.cleanup import chats, removal
from arawn_cli.cleanup.trash_entry import Exchanged, parse_entry
from arawn_cli.cleanup_events import ScratchSessionEvent
from arawn_cli.fs import exchange as exchange_module
from tests.conftest import Run, RunCommand, snapshot
from tests.support.disturbance import disturb
from tests.support.errors import os_error
from tests.support.in_process import cleaned
from tests.support.main_tree import MainTree, session_id
from tests.support.tree import SampleTree, write

S = session_id(1)


@pytest.fixture
def main(tmp_path: Path) -> MainTree:
    """A root of Arawn's main branch with one inactive session."""
    tree = MainTree(tmp_path / "main" / "arawn", time.time_ns())
    tree.session(S, files={"notes.md": 100, "deep/er/file": 50}, age_days=30)
    return tree


@pytest.fixture
def keep(tmp_path: Path) -> Path:
    return configuration(tmp_path, "keep_chats = true")


def configuration(folder: Path, *lines: str) -> Path:
    file = folder / "maintenance.toml"
    file.write_text("\n".join(["[maintenance.cleanup]", *lines]))
    return file


def files(directory: Path) -> dict[str, bytes]:
    """Return the contents of a session; directories end with a slash."""
    found = {}
    for path in sorted(directory.rglob("*")):
        name = str(path.relative_to(directory))
        found[f"{name}/" if path.is_dir() else name] = b"" if path.is_dir() else path.read_bytes()
    return found


def leftovers(tree: MainTree) -> list[str]:
    """Return what is in the trash, which is created when it is needed."""
    return os.listdir(tree.trash) if tree.trash.exists() else []


def restore(run: RunCommand, tree: MainTree | SampleTree, session: str) -> Run:
    return run("trash", "restore", "--base-path", tree.root, session)


# ---- Removal


def test_on_main_only_the_messages_stay_by_default(main: MainTree) -> None:
    messages = (main.sessions / S / "messages.jsonl").stat()
    summary, events = cleaned(main)
    assert (summary.sessions_cleaned, summary.bytes_freed, summary.sessions_kept, summary.failures) == (1, 150, {}, ())
    assert summary.chats == "kept"
    assert [(event.bytes, event.files) for event in events if isinstance(event, ScratchSessionEvent)] == [(150, 2)]
    assert os.listdir(main.sessions / S) == ["messages.jsonl"]
    after = (main.sessions / S / "messages.jsonl").stat()
    assert (after.st_ino, after.st_nlink, after.st_mtime_ns) == (messages.st_ino, 1, messages.st_mtime_ns)
    assert leftovers(main) == []


def test_in_0_0_only_an_empty_work_stays_if_configured(tree: SampleTree, keep: Path) -> None:
    tree.session("s", files={"a": 10, "b/c": 20}, age_days=30)
    summary, _ = cleaned(tree, config=keep)
    assert (summary.sessions_cleaned, summary.bytes_trashed) == (1, 30)
    assert files(tree.sessions / "s") == {"work/": b""}


def test_by_default_0_0_removes_the_whole_session(tree: SampleTree) -> None:
    tree.session("s", files={"a": 10}, age_days=30)
    summary, _ = cleaned(tree)
    assert os.listdir(tree.sessions) == []
    assert summary.chats == "without_files"


def test_keep_chats_false_removes_the_whole_session_on_main(main: MainTree, tmp_path: Path) -> None:
    summary, _ = cleaned(main, config=configuration(tmp_path, "keep_chats = false"))
    assert (summary.sessions_cleaned, summary.chats) == (1, "deleted")
    assert not (main.sessions / S).exists()


@pytest.mark.parametrize("dry_run", [True, False])
def test_what_only_has_its_chat_is_neither_due_nor_counted(main: MainTree, tree: SampleTree, keep: Path, dry_run: bool) -> None:
    cleaned(main)
    tree.session("s", files={}, age_days=30)
    before = snapshot(main.workstreams), snapshot(tree.workstreams)
    for summary, events in (cleaned(main, dry_run=dry_run), cleaned(tree, config=keep, dry_run=dry_run)):
        assert (summary.sessions_checked, summary.sessions_cleaned, summary.failures) == (0, 0, ())
        assert [event.type for event in events] == ["scratch_cleanup"]
    assert (snapshot(main.workstreams), snapshot(tree.workstreams)) == before


def test_a_session_with_an_empty_directory_or_with_no_file_for_its_chat_has_more_than_its_chat(main: MainTree, tmp_path: Path) -> None:
    cleaned(main)
    (main.sessions / S / "empty").mkdir()
    linked = main.session(session_id(2), files={}, age_days=30) / "messages.jsonl"
    linked.rename(tmp_path / "m")
    linked.symlink_to(tmp_path / "m")
    for path in (linked, linked.parent, main.sessions / S / "empty", main.sessions / S):
        os.utime(path, ns=(main.ago(20), main.ago(20)), follow_symlinks=False)
    summary, _ = cleaned(main)
    assert (summary.cleaned_session_ids, summary.sessions_kept) == ((S,), {"activity_unknown": 1})
    assert os.listdir(main.sessions / S) == ["messages.jsonl"]


def test_new_files_of_a_chat_are_removed_when_they_are_old(main: MainTree) -> None:
    cleaned(main)
    write(main.sessions / S / "new", 7)
    assert cleaned(main)[0].sessions_kept == {"recent_files": 1}
    os.utime(main.sessions / S / "new", ns=(main.ago(20), main.ago(20)))
    os.utime(main.sessions / S, ns=(main.ago(20), main.ago(20)))
    assert cleaned(main)[0].bytes_freed == 7


def test_a_dry_run_counts_what_the_removal_frees(main: MainTree) -> None:
    before = snapshot(main.workstreams)
    planned, _ = cleaned(main, dry_run=True)
    assert snapshot(main.workstreams) == before
    done, _ = cleaned(main)
    assert planned.bytes_freed == done.bytes_freed == 150


def test_a_session_without_messages_has_no_chat_and_is_removed(main: MainTree) -> None:
    main.session(session_id(2), files={"f": 1}, age_days=30)
    (main.sessions / session_id(2) / "messages.jsonl").unlink()
    os.utime(main.sessions / session_id(2), ns=(main.ago(30), main.ago(30)))
    candidate = main.sessions / session_id(2)
    cleaned(main)
    assert not candidate.exists()


def test_messages_or_work_of_the_wrong_type_keep_the_session(main: MainTree, tree: SampleTree, keep: Path, tmp_path: Path) -> None:
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    tree.session("s", files={}, age_days=30)
    write(tree.sessions / "s" / "other", 5)
    (tree.sessions / "s" / "work").rmdir()
    (tree.sessions / "s" / "work").symlink_to(elsewhere)
    for name in ("other", "work", ""):
        os.utime(tree.sessions / "s" / name, ns=(tree.ago(30), tree.ago(30)), follow_symlinks=False)
    summary, _ = cleaned(tree, config=keep)
    assert summary.sessions_kept == {"cannot_move": 1}
    assert [failure.path for failure in summary.failures] == ["workstreams/scratch/sessions/s"]
    assert (tree.sessions / "s" / "other").exists()

    messages = main.sessions / S / "messages.jsonl"
    messages.rename(elsewhere / "m")
    messages.symlink_to(elsewhere / "m")
    os.utime(messages, ns=(main.ago(30), main.ago(30)), follow_symlinks=False)
    os.utime(main.sessions / S, ns=(main.ago(30), main.ago(30)))
    summary, _ = cleaned(main)
    assert sum(summary.sessions_kept.values()) == 1
    assert summary.failures
    assert (main.sessions / S / "notes.md").exists()


def test_the_new_directories_have_the_attributes_of_the_old_ones(tree: SampleTree, keep: Path) -> None:
    session = tree.session("s", files={"a": 10}, age_days=30)
    for directory, mode in ((session, 0o2750), (session / "work", 0o770)):
        os.setxattr(directory, "user.comment", str(mode).encode())
        if os.getuid() == 0:
            os.chown(directory, 1234, 2345)
        directory.chmod(mode)
    before = [(path.stat().st_mode, path.stat().st_uid, path.stat().st_gid) for path in (session, session / "work")]
    assert cleaned(tree, config=keep)[0].sessions_cleaned == 1
    assert [(path.stat().st_mode, path.stat().st_uid, path.stat().st_gid) for path in (session, session / "work")] == before
    assert os.getxattr(session / "work", "user.comment") == str(0o770).encode()


def test_an_inherited_group_bit_needs_no_chmod(tree: SampleTree, keep: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With RestrictSUIDSGID= of systemd, chmod cannot set S_ISGID."""
    (tree.sessions.parent).chmod(0o2755)
    session = tree.session("s", files={"a": 10}, age_days=30)
    session.chmod(0o2755)
    (session / "work").chmod(0o2755)

    def restricted(descriptor: int, mode: int) -> None:
        if mode & 0o6000:
            raise PermissionError(1, "Operation not permitted")
        os.chmod(descriptor, mode)

    monkeypatch.setattr(os, "fchmod", restricted)
    previous = os.umask(0o77)
    try:
        assert cleaned(tree, config=keep)[0].sessions_cleaned == 1
    finally:
        os.umask(previous)
    assert [oct(path.stat().st_mode & 0o7777) for path in (session, session / "work")] == ["0o2755"] * 2


# ---- Arawn writes while a session is exchanged


def replace_messages(tree: MainTree, line: str) -> None:
    """Replace the messages by a rename, as Arawn does when history is edited."""
    path = tree.sessions / S / "messages.jsonl"
    new = path.with_suffix(".tmp")
    new.write_text(path.read_text() + line)
    new.rename(path)


def append(tree: MainTree, line: str) -> None:
    with (tree.sessions / S / "messages.jsonl").open("a") as file:
        file.write(line)


def promote(tree: MainTree, _line: str) -> None:
    """Move the messages to a workstream, as Arawn does."""
    target = tree.workstreams / "thesis" / S
    target.mkdir(exist_ok=True)
    (tree.sessions / S / "messages.jsonl").rename(target / "messages.jsonl")


WRITES = {"append": append, "replace": replace_messages, "promote": promote}


def around_exchange(monkeypatch: pytest.MonkeyPatch, before: Callable[[], None], after: Callable[[], None]) -> None:
    """Do something once right before and right after the first exchange."""
    original = exchange_module.exchange
    pending: Iterator[None] = iter([None])

    def exchanged(*arguments: object) -> None:
        first = next(pending, 0) is None
        if first:
            before()
        original(*arguments)  # type: ignore[arg-type]
        if first:
            after()

    monkeypatch.setattr(chats, "exchange", exchanged)


@pytest.mark.parametrize("after", ["nothing", *WRITES])
@pytest.mark.parametrize("before", ["nothing", "append", "replace", "promote"])
def test_no_line_is_lost_whatever_arawn_does_before_and_after_the_exchange(
    main: MainTree, monkeypatch: pytest.MonkeyPatch, before: str, after: str
) -> None:
    if "promote" in (before, after) and before == after:
        pytest.skip("there is only one promotion")
    lines = set((main.sessions / S / "messages.jsonl").read_text().splitlines(keepends=True))

    def write_once(kind: str) -> Callable[[], None]:
        def write_it() -> None:
            if kind == "nothing":
                return
            line = main.line(f"{kind} while it is exchanged")
            path = main.sessions / S / "messages.jsonl"
            WRITES[kind](main, line)
            if kind != "promote" and path.exists():
                lines.add(line)

        return write_it

    around_exchange(monkeypatch, write_once(before), write_once(after))
    summary, _ = cleaned(main)
    monkeypatch.undo()
    if (before, after) != ("nothing", "nothing"):
        assert sum(summary.sessions_kept.values()) == 1, summary
        assert (main.sessions / S / "notes.md").exists()
        assert leftovers(main) == []
    assert not summary.failures
    places = [main.workstreams / "thesis" / S / "messages.jsonl", main.sessions / S / "messages.jsonl"]
    assert lines <= {line for place in places if place.exists() for line in place.read_text().splitlines(keepends=True)}
    if before == "promote" and after == "nothing":
        assert not places[1].exists()


@pytest.mark.parametrize("kind", ["replace", "promote"])
def test_messages_that_arawn_moves_before_they_are_linked_are_never_exchanged(
    main: MainTree, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    """An exchange would be undone, but the chat would have no messages, or old ones, until then."""
    original = chats.prepare

    def prepared(session: int, needs: chats.ChatNeeds, trash: int, pending: str) -> tuple[str, Exchanged]:
        done = original(session, needs, trash, pending)
        WRITES[kind](main, main.line("edited"))
        return done

    monkeypatch.setattr(removal, "prepare", prepared)
    monkeypatch.setattr(chats, "exchange", None)
    summary, _ = cleaned(main)
    assert (summary.sessions_kept, summary.failures) == ({"changed_since_plan": 1}, ())
    assert (main.sessions / S / "notes.md").exists()
    assert leftovers(main) == []


def test_messages_that_are_replaced_by_older_ones_after_the_exchange_put_the_session_back(
    main: MainTree, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As by a restored copy: only the inode tells."""
    messages = main.sessions / S / "messages.jsonl"

    def replace(name: str) -> None:
        if name.startswith("held."):
            replace_messages(main, main.line("restored"))
            os.utime(messages, ns=(main.ago(40), main.ago(40)))

    disturb(monkeypatch, replace)
    assert cleaned(main)[0].sessions_kept == {"changed_since_plan": 1}
    assert (main.sessions / S / "notes.md").exists()
    assert "restored" in messages.read_text()
    assert leftovers(main) == []


def test_a_file_that_the_chat_writes_before_the_session_is_put_back_is_kept(main: MainTree, monkeypatch: pytest.MonkeyPatch) -> None:
    def use(name: str) -> None:
        if name.startswith("held."):
            append(main, main.line("late"))
            write(main.sessions / S / "new/deep", 3)
            write(main.sessions / S / "deep/other", 4)

    disturb(monkeypatch, use)
    summary, _ = cleaned(main)
    assert summary.sessions_kept == {"changed_since_plan": 1}
    found = files(main.sessions / S)
    assert found.keys() == {"messages.jsonl", "notes.md", "deep/", "deep/er/", "deep/er/file", "deep/other", "new/", "new/deep"}
    assert b"late" in found["messages.jsonl"]
    assert leftovers(main) == []


def test_a_name_that_exists_twice_leaves_the_session_pending_and_is_named(
    main: MainTree, monkeypatch: pytest.MonkeyPatch, told: pytest.LogCaptureFixture
) -> None:
    def use(name: str) -> None:
        if name.startswith("held."):
            append(main, main.line("late"))
            write(main.sessions / S / "deep/er/file", 3)

    disturb(monkeypatch, use)
    summary, _ = cleaned(main)
    assert [failure.operation for failure in summary.failures] == ["rename"]
    assert "deep/er/file is in the session and in the trash" in told.text
    (entry,) = main.trash.iterdir()
    assert (entry / "notes.md").exists()
    assert b"late" in (main.sessions / S / "messages.jsonl").read_bytes()
    monkeypatch.undo()
    (main.sessions / S / "deep/er/file").rename(main.sessions / S / "mine")
    cleaned(main)
    assert files(main.sessions / S).keys() == {"messages.jsonl", "notes.md", "mine", "deep/", "deep/er/", "deep/er/file"}
    assert leftovers(main) == []


# ---- Without exchange


@pytest.mark.parametrize("days", [7, 60])  # due by age, and selected by the budget
@pytest.mark.parametrize("dry_run", [True, False])
def test_a_filesystem_without_exchange_keeps_all_sessions_with_one_message(
    main: MainTree, monkeypatch: pytest.MonkeyPatch, told: pytest.LogCaptureFixture, tmp_path: Path, dry_run: bool, days: int
) -> None:
    config = tmp_path / "budget.toml"
    config.write_text(f"[maintenance.cleanup]\ntrash_days = 0\nmax_total = {0 if days == 7 else 1}\n")
    main.session(session_id(2), files={"f": 1}, age_days=30)

    def refuse(*_: object) -> None:
        raise os_error(22)

    monkeypatch.setattr(chats, "exchange", refuse)
    monkeypatch.setattr("arawn_cli.fs.exchange.exchange", refuse)
    before = {path: path.stat().st_ino for path in main.sessions.rglob("*")}
    summary, _ = cleaned(main, dry_run=dry_run, config=config, days=days)
    assert (summary.sessions_kept, summary.sessions_cleaned, len(summary.failures)) == ({"cannot_move": 2}, 0, 1)
    assert {path: path.stat().st_ino for path in main.sessions.rglob("*")} == before
    assert told.text.count("keep_chats = false") == 1


def test_a_directory_that_cannot_be_exchanged_keeps_no_other_session(main: MainTree, monkeypatch: pytest.MonkeyPatch) -> None:
    """As one in a lower layer of an overlay."""

    def refuse() -> None:
        raise os_error(errno.EXDEV)

    main.session(session_id(2), files={"f": 1}, age_days=20)
    around_exchange(monkeypatch, refuse, lambda: None)
    summary, _ = cleaned(main)
    assert (summary.cleaned_session_ids, summary.sessions_kept) == ((session_id(2),), {"cannot_move": 1})


def test_no_space_for_the_new_directory_keeps_the_session_and_says_so(
    main: MainTree, monkeypatch: pytest.MonkeyPatch, told: pytest.LogCaptureFixture
) -> None:
    def full(*_: object) -> None:
        raise os_error(errno.ENOSPC)

    monkeypatch.setattr(chats, "_make_directory", full)
    before = files(main.sessions / S)
    summary, _ = cleaned(main)
    assert [failure.errno for failure in summary.failures] == [errno.ENOSPC]
    assert "no space for the directory that its chat needs" in told.text
    assert files(main.sessions / S) == before
    assert leftovers(main) == []


def test_a_group_that_this_process_must_not_give_keeps_the_session_and_names_the_remedy(
    main: MainTree, monkeypatch: pytest.MonkeyPatch, told: pytest.LogCaptureFixture
) -> None:
    def refused(*_: object) -> None:
        raise os_error(errno.EPERM)

    monkeypatch.setattr(chats, "copy_attributes", refused)
    before = files(main.sessions / S)
    assert cleaned(main)[0].sessions_kept == {"cannot_move": 1}
    assert "set Group= to the group of the sessions" in told.text
    assert files(main.sessions / S) == before
    assert leftovers(main) == []


@pytest.mark.parametrize(
    ("stale", "valid", "linked", "added"),
    [
        (b"a\nb\n", b"a\nb\nc\n", 4, b""),  # nothing was appended
        (b"a\nb\nyes\n", b"a\nyes\nb2\n", 4, b"yes\n"),  # an equal line elsewhere does not count
        (b"a\nb\nc\nd\n", b"a\nb\nc\nnew\n", 4, b"d\n"),  # c was there when the file was replaced
        (b"a\nb\nc\n", b"a\n", 4, b"c\n"),  # b was deleted
    ],
)
def test_lines_that_were_added_to_replaced_messages_are_found(stale: bytes, valid: bytes, linked: int, added: bytes) -> None:
    assert chats.added_lines(stale, valid, linked) == added


def test_missing_lines_are_counted() -> None:
    assert chats.missing_lines(b"yes\nno\nyes\n", b"yes\n") == b"no\nyes\n"


def test_an_unfinished_replacement_does_not_come_back(main: MainTree, run: RunCommand, tmp_path: Path) -> None:
    """The next replacement would rename it in place of its own, which it had opened in the other
    directory."""
    write(main.sessions / S / "messages.jsonl.tmp", 3)
    for path in (main.sessions / S / "messages.jsonl.tmp", main.sessions / S):
        os.utime(path, ns=(main.ago(20), main.ago(20)))
    cleaned(main, config=configuration(tmp_path, "trash_days = 3"))
    assert restore(run, main, S).code == 0
    assert files(main.sessions / S).keys() == {"messages.jsonl", "notes.md", "deep/", "deep/er/", "deep/er/file"}


# ---- Restore


def test_restore_exchanges_back_and_keeps_what_was_written_since(main: MainTree, run: RunCommand, tmp_path: Path) -> None:
    old = files(main.sessions / S)
    inode = (main.sessions / S).stat().st_ino
    cleaned(main, config=configuration(tmp_path, "trash_days = 3"))
    (entry,) = main.trash.iterdir()
    assert files(entry) == old
    append(main, "later\n")
    replace_messages(main, "edited\n")
    append(main, "last\n")
    write(main.sessions / S / "new", 3)
    live = (main.sessions / S / "messages.jsonl").read_bytes()
    done = restore(run, main, S)
    assert (done.code, done.stderr) == (0, "")
    found = files(main.sessions / S)
    assert found.pop("messages.jsonl") == live
    assert found.pop("new")
    assert found == {name: content for name, content in old.items() if name != "messages.jsonl"}
    assert (main.sessions / S).stat().st_ino == inode
    assert list(main.trash.glob("*")) == []


def test_restore_in_0_0_merges_work(tree: SampleTree, keep: Path, run: RunCommand) -> None:
    tree.session("s", files={"a": 10, "b/c": 20}, age_days=30)
    keep.write_text(keep.read_text() + "\ntrash_days = 3")
    cleaned(tree, config=keep)
    write(tree.sessions / "s" / "work" / "b" / "d", 3)
    write(tree.sessions / "s" / "notes", 3)
    assert restore(run, tree, "s").code == 0
    assert files(tree.sessions / "s").keys() == {"work/", "work/a", "work/b/", "work/b/c", "work/b/d", "notes"}


def test_restore_refuses_a_name_that_exists_twice_and_changes_nothing(main: MainTree, run: RunCommand, tmp_path: Path) -> None:
    cleaned(main, config=configuration(tmp_path, "trash_days = 3"))
    write(main.sessions / S / "deep/er/file", 3)
    before = files(main.sessions / S), [files(entry) for entry in main.trash.iterdir()]
    done = restore(run, main, S)
    assert done.code == 1
    assert "deep/er/file" in done.stderr
    assert (files(main.sessions / S), [files(entry) for entry in main.trash.iterdir()]) == before


def test_restore_after_a_promotion_leaves_the_messages_in_the_workstream(main: MainTree, run: RunCommand, tmp_path: Path) -> None:
    cleaned(main, config=configuration(tmp_path, "trash_days = 3"))
    append(main, "later\n")
    promote(main, "")
    assert restore(run, main, S).code == 0
    assert files(main.sessions / S).keys() == {"notes.md", "deep/", "deep/er/", "deep/er/file"}
    assert (main.workstreams / "thesis" / S / "messages.jsonl").read_text().endswith("later\n")


def test_restore_of_a_session_whose_directory_is_gone_brings_its_messages(main: MainTree, run: RunCommand, tmp_path: Path) -> None:
    old = files(main.sessions / S)
    cleaned(main, config=configuration(tmp_path, "trash_days = 3"))
    (main.sessions / S / "messages.jsonl").unlink()
    (main.sessions / S).rmdir()
    assert restore(run, main, S).code == 0
    assert files(main.sessions / S) == old


def test_the_only_copy_of_a_history_is_not_lost_if_arawn_has_begun_an_empty_one(main: MainTree, run: RunCommand, tmp_path: Path) -> None:
    main.now -= 3600 * 10**9  # the filesystem has its own clock
    config = configuration(tmp_path, "trash_days = 3")
    cleaned(main, config=config)
    place = main.sessions / S
    (place / "messages.jsonl").unlink()
    place.rmdir()
    place.mkdir()
    (place / "messages.jsonl").write_text('{"_version":1}\n' + main.line("later"))
    before = files(place), [files(entry) for entry in main.trash.iterdir()]
    done = restore(run, main, S)
    assert (done.code, "messages.jsonl is in the session and in the trash" in done.stderr) == (1, True)
    assert cleaned(main, config=config)[0].sessions_restored == 0
    assert (files(place), [files(entry) for entry in main.trash.iterdir()]) == before
    (place / "messages.jsonl").rename(place / "later.jsonl")
    assert restore(run, main, S).code == 0
    assert before[1][0].items() <= files(place).items()


def test_two_removals_of_a_session_are_restored_one_after_the_other(main: MainTree, run: RunCommand, tmp_path: Path) -> None:
    config = configuration(tmp_path, "trash_days = 3")
    cleaned(main, config=config)
    write(main.sessions / S / "second", 3)
    for path in (main.sessions / S / "second", main.sessions / S):
        os.utime(path, ns=(main.ago(20), main.ago(20)))
    main.now += 10**9
    cleaned(main, config=config)
    assert len(list(main.trash.iterdir())) == 2
    assert restore(run, main, S).code == 0
    assert restore(run, main, S).code == 0
    assert files(main.sessions / S).keys() == {"messages.jsonl", "notes.md", "second", "deep/", "deep/er/", "deep/er/file"}


def test_purging_frees_the_files_and_leaves_the_messages(main: MainTree, run: RunCommand, tmp_path: Path) -> None:
    cleaned(main, config=configuration(tmp_path, "trash_days = 3"))
    done = run("trash", "purge", "--base-path", main.root, "--all", "--yes")
    if done.code == 2:
        done = run("trash", "purge", "--base-path", main.root, "--older-than-days", "0")
    assert done.code == 0
    assert [event["bytes"] for event in done.of_type("trash_entry")] == [150]
    assert files(main.sessions / S).keys() == {"messages.jsonl"}


# ---- Interrupted runs


@pytest.mark.parametrize("moment", ["prepared", "exchanged"])
def test_an_interrupted_exchange_is_undone_by_the_next_run(main: MainTree, monkeypatch: pytest.MonkeyPatch, moment: str) -> None:
    old, inode = files(main.sessions / S), (main.sessions / S).stat().st_ino

    class KilledError(BaseException):
        pass

    def stop() -> None:
        raise KilledError

    around_exchange(monkeypatch, stop if moment == "prepared" else lambda: None, stop if moment == "exchanged" else lambda: None)
    with pytest.raises(KilledError):
        cleaned(main)
    monkeypatch.undo()
    assert (main.sessions / S / "messages.jsonl").exists()
    (pending,) = main.trash.iterdir()
    entry = parse_entry((), pending.name)
    assert entry is not None
    assert entry.exchanged is not None
    assert entry.state.value == "held."
    append(main, "later\n")
    write(main.sessions / S / "new", 3)
    assert cleaned(main)[0].sessions_cleaned == 0
    found = files(main.sessions / S)
    assert found.pop("messages.jsonl") == old.pop("messages.jsonl") + b"later\n"
    assert found.pop("new")
    assert (found, (main.sessions / S).stat().st_ino) == (old, inode)
    assert leftovers(main) == []


def test_messages_edited_between_link_and_exchange_win_after_a_kill(main: MainTree, monkeypatch: pytest.MonkeyPatch) -> None:
    class KilledError(BaseException):
        pass

    def stop() -> None:
        raise KilledError

    around_exchange(monkeypatch, lambda: replace_messages(main, "edited\n"), stop)
    with pytest.raises(KilledError):
        cleaned(main)
    monkeypatch.undo()
    append(main, "later\n")  # to the old file, which is in place
    cleaned(main)
    assert (main.sessions / S / "messages.jsonl").read_text().endswith("edited\nlater\n")
    assert (main.sessions / S / "notes.md").exists()
    assert leftovers(main) == []


def test_an_unfinished_directory_is_removed_by_the_next_run(main: MainTree, monkeypatch: pytest.MonkeyPatch) -> None:
    class KilledError(BaseException):
        pass

    def stop(*_: object) -> None:
        raise KilledError

    monkeypatch.setattr(chats, "copy_attributes", stop)
    with pytest.raises(KilledError):
        cleaned(main)
    monkeypatch.undo()
    assert [path.name[:5] for path in main.trash.iterdir()] == ["gone."]
    cleaned(main)
    assert leftovers(main) == []
    assert files(main.sessions / S).keys() == {"messages.jsonl"}


def test_a_session_replaced_right_before_the_exchange_is_put_back(main: MainTree, monkeypatch: pytest.MonkeyPatch) -> None:
    def swap() -> None:
        (main.sessions / S).rename(main.root / "elsewhere")
        (main.sessions / S).write_text("a file")

    around_exchange(monkeypatch, swap, lambda: None)
    summary, _ = cleaned(main)
    assert summary.sessions_kept == {"changed_since_plan": 1}
    assert (main.sessions / S).read_text() == "a file"
    assert leftovers(main) == []


def test_an_error_after_the_exchange_puts_the_session_back(main: MainTree, monkeypatch: pytest.MonkeyPatch) -> None:
    before = files(main.sessions / S)

    def fail() -> None:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    around_exchange(monkeypatch, lambda: None, fail)
    summary, _ = cleaned(main)
    assert (summary.sessions_cleaned, summary.failure_count) == (0, 1)
    assert files(main.sessions / S) == before
    assert leftovers(main) == []
