"""The use cases called directly, with a clock of the test's own."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import closing
from dataclasses import replace
from itertools import chain, repeat
from pathlib import Path

from arawn_cli.cleanup.job import clean
from arawn_cli.cleanup.trash_jobs import list_trash, restore
from arawn_cli.cleanup_events import ScratchCleanup, TrashEntryEvent
from arawn_cli.config.loader import Config, Flags, load
from arawn_cli.context import RunContext
from arawn_cli.diskcheck.job import CheckResult, check
from arawn_cli.events import Event
from arawn_cli.output.report_data import Report, gather
from arawn_cli.state import State
from arawn_cli.timestamps import Boot
from tests.support.main_tree import MainTree
from tests.support.tree import SampleTree

NOWHERE = Path("/nonexistent/config.toml")


def context(now: int, events: list[Event], state_directory: Path, *, ended: int | None = None, boot: int | None = None) -> RunContext:
    """The outside of a run that collects its events, which begin at `now`.

    `boot` is how long the machine ran until then; else both clocks move equally.
    """
    state = State(state_directory, lambda: now)
    times = chain([now], repeat(now if ended is None else ended))
    return RunContext(
        state=state, show=events.append, clock=lambda: next(times), boot=lambda: Boot("a", now if boot is None else boot), host="host"
    )


def cleaned(
    tree: SampleTree | MainTree,
    *,
    days: int = 7,
    dry_run: bool = False,
    force: bool = False,
    config: Path | None = None,
    stopping: Callable[[], bool] = lambda: False,
    boot: int | None = None,
    now: int | None = None,
) -> tuple[ScratchCleanup, list[Event]]:
    """One cleanup of a tree, at its own now if no other is given."""
    events: list[Event] = []
    settings = load(
        Flags(config=config, base_path=str(tree.root), older_than_days=days, dry_run=dry_run, force=force),
        _environment(tree),
        system_file=NOWHERE,
    )
    result = clean(
        settings, replace(context(tree.now if now is None else now, events, settings.state_directory, boot=boot), stopping=stopping)
    )
    return result.summary, events


def checked(
    tree: SampleTree, config: Path | None = None, *, now: int | None = None, ended: int | None = None, dry_run: bool = False
) -> tuple[CheckResult, list[Event]]:
    """One disk check of a tree, at its own now if no other is given."""
    events: list[Event] = []
    settings = load(Flags(config=config, base_path=str(tree.root), dry_run=dry_run), _environment(tree), system_file=NOWHERE)
    run = context(tree.now if now is None else now, events, settings.state_directory, ended=ended)
    with closing(run.state):
        return check(settings, run), events


def configuration_of(tree: SampleTree | MainTree, config: Path | None) -> Config:
    return load(Flags(config=config, base_path=str(tree.root)), _environment(tree), system_file=NOWHERE)


def in_trash(tree: SampleTree, config: Path | None = None, *, everything: bool = False) -> list[TrashEntryEvent]:
    """What `trash list` tells of a tree at its own now."""
    settings = configuration_of(tree, config)
    with closing(State(settings.state_directory, lambda: tree.now)) as state:
        run = replace(context(tree.now, [], settings.state_directory), state=state)
        return list(list_trash(settings, run, everything=everything).entries)


def brought_back(tree: SampleTree, config: Path, *sessions: str) -> None:
    """`trash restore` of these sessions."""
    settings = configuration_of(tree, config)
    assert restore(settings, context(tree.now, [], settings.state_directory), sessions, last=False).succeeded


def reported(tree: SampleTree, config: Path | None = None) -> Report:
    """A report of two weeks on a tree, at its own now."""
    settings = load(Flags(config=config, base_path=str(tree.root)), _environment(tree), system_file=NOWHERE)
    return gather(settings, context(tree.now, [], settings.state_directory), 14)


def _environment(tree: SampleTree | MainTree) -> dict[str, str]:
    """An environment whose configuration, which a test without its own uses, deletes at once."""
    empty = tree.root.parent / "config" / "config.toml"
    empty.parent.mkdir(exist_ok=True)
    empty.write_text("[maintenance.cleanup]\ntrash_days = 0\n")
    return {"ARAWN_CONFIG_DIR": str(empty.parent), "STATE_DIRECTORY": str(tree.root.parent / "state")}
