"""Budgets: the laws of the selection, and of runs on random trees."""

from __future__ import annotations

import shutil
import time
from pathlib import Path

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from arawn_cli.arawn.root import opened_root
from arawn_cli.check_events import DiskPressure
from arawn_cli.cleanup.budget import Bound, Freed, Measure, needed, workstreams_usage
from arawn_cli.cleanup.job import clean
from arawn_cli.cleanup.trash import list_trash_entries
from arawn_cli.cleanup_events import Action, ScratchSessionEvent
from arawn_cli.config.loader import Flags, load
from arawn_cli.events import Event, Reason
from arawn_cli.fs.usage import HardLinks, Usage
from arawn_cli.timestamps import SECOND
from tests.support.in_process import NOWHERE, checked, cleaned, context, reported
from tests.support.main_tree import MainTree, session_id
from tests.support.tree import SampleTree, set_age

KIB = 1024
NOW = 1_700_000_000_000_000_000


@st.composite
def trees(draw: st.DrawFn) -> list[Usage]:
    """Trees, of which some share files that have other names, perhaps elsewhere."""
    names = {(1, inode): draw(st.integers(2, 5)) for inode in range(3)}
    found: list[Usage] = []
    for _ in range(draw(st.integers(0, 6))):
        own = draw(st.integers(0, 5)) * 4 * KIB
        linked: dict[tuple[int, int], HardLinks] = {}
        for identity in draw(st.sets(st.sampled_from(sorted(names)))):
            left = names[identity] - sum(tree.linked[identity].found for tree in found if identity in tree.linked)
            if left > 0:
                linked[identity] = HardLinks(4 * KIB, 4 * KIB, draw(st.integers(1, left)), names[identity])
        size = own + 4 * KIB * len(linked)
        found.append(Usage(size, size, 1 + len(linked), 1, linked=linked))
    return found


bounds = st.lists(
    st.builds(
        Bound,
        st.just("b"),
        st.sampled_from([Measure.ALLOCATED, Measure.APPARENT]),
        st.integers(0, 200 * KIB),
        st.integers(1, 200 * KIB),
        st.booleans(),
    ),
    max_size=2,
)


def freed(chosen: list[Usage]) -> Freed:
    total = Freed()
    for tree in chosen:
        total.add(tree)
    return total


@given(bounds, trees())
def test_no_more_is_selected_than_needed_and_the_first_ones_first(found: list[Bound], candidates: list[Usage]) -> None:
    chosen = needed(found, candidates, Freed())
    trees_chosen = [candidates[position] for position in chosen]
    assert chosen == sorted(set(chosen))
    after = freed(trees_chosen)
    if chosen:
        assert any(bound.missing(freed(trees_chosen[:-1])) for bound in found), "without the last one it is not enough"
        for position in range(chosen[-1]):  # one that is left out frees nothing, also together with the chosen ones
            if position not in chosen:
                more = freed([*trees_chosen, candidates[position]])
                assert all(more.amounts[bound.measure] == after.amounts[bound.measure] for bound in found if bound.missing(Freed()))
    everything = freed(candidates)
    for bound in found:
        assert not bound.missing(after) or bound.missing(everything) == bound.missing(after), "enough, or all that there is"


@given(bounds)
def test_nothing_is_missing_exactly_below_95_percent(found: list[Bound]) -> None:
    for bound in found:
        assert (bound.missing(Freed()) == 0) == (bound.usage * 100 < 95 * bound.limit)


# ---- Runs on trees

sessions = st.lists(
    st.tuples(
        st.sampled_from([0.5, 2, 3, 4, 5, 9, 12]),  # days since its last activity
        st.integers(0, 6),  # blocks of 16 KiB
        st.sampled_from(["", "keep-", "attached"]),
        st.sampled_from(["", "", "", ".keep", "../.keep"]),
    ),
    min_size=1,
    max_size=6,
)


def sample(tmp_path: Path, found: list[tuple[float, int, str, str]]) -> SampleTree:
    tree = SampleTree(tmp_path / "root", NOW)
    for number, (age, blocks, kind, mark) in enumerate(found):
        name = f"{'keep-' if kind == 'keep-' else ''}s{number}"
        directory = tree.session(name, files={"f": blocks * 16 * KIB, **({mark: 0} if mark else {})}, age_days=age)
        assert directory.is_dir()
        if kind == "attached":
            tree.session_row(name, tree.ago(age), workstream="blog")
    return tree


def configuration(tmp_path: Path, **values: object) -> Path:
    path = tmp_path / "settings.toml"
    lines = [f"{key} = {str(value).lower() if isinstance(value, bool) else repr(value)}" for key, value in values.items()]
    path.write_text("[maintenance.pressure]\ntotal = 0\n[maintenance.cleanup]\nprotect = ['keep-*']\n" + "\n".join(lines) + "\n")
    return path


def used(tree: SampleTree) -> int:
    with opened_root(tree.root, ()) as root:
        return workstreams_usage(root, 1, lambda _steps: None).allocated_bytes


def actions(events: list[Event]) -> dict[str, tuple[str, str]]:
    return {
        event.session_id: (event.action.replace("would_delete", "deleted").replace("would_trash", "trashed"), event.reason)
        for event in events
        if isinstance(event, ScratchSessionEvent)
    }


@settings(max_examples=12, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@example(found=[(4, 0, "", ""), (5, 1, "attached", "")], share=1, trash_days=0, limit=0, last=0)
@given(
    found=sessions, share=st.integers(1, 120), trash_days=st.sampled_from([0, 3]), limit=st.sampled_from([0, 0, 2]), last=st.integers(0, 2)
)
def test_laws_of_budgets(
    tmp_path_factory: pytest.TempPathFactory, found: list[tuple[float, int, str, str]], share: int, trash_days: int, limit: int, last: int
) -> None:
    place = tmp_path_factory.mktemp("laws")
    tree = sample(place, found)
    budget = max(used(tree) * share // 100, 1)
    config = configuration(place, max_total=budget, trash_days=trash_days, max_sessions=limit, keep_last=last, min_age_days=3)
    before = {path.name for path in tree.sessions.iterdir()}
    planned, dry_events = cleaned(tree, config=config, dry_run=True)
    assert {path.name for path in tree.sessions.iterdir()} == before
    done, events = cleaned(tree, config=config)
    assert actions(events) == actions(dry_events), "the dry run announces what the real run does"
    assert planned.over_budget_bytes == done.over_budget_bytes

    activity = {event.session_id: event.last_activity or "" for event in events if isinstance(event, ScratchSessionEvent)}
    reasons = actions(events)
    selected = [name for name, (action, reason) in reasons.items() if reason == Reason.OVER_BUDGET and action == Action.DELETED]
    order = sorted(reasons, key=lambda name: (activity[name], name))
    for number, (age, _, kind, mark) in enumerate(found):
        name = f"{'keep-' if kind == 'keep-' else ''}s{number}"
        if kind or mark or age < 3:
            assert (tree.sessions / name).exists(), "what another rule keeps stays, and what was used lately"
        if name in order[len(order) - last :]:
            assert (tree.sessions / name).exists()
    passed_over = [name for name, (action, reason) in reasons.items() if reason in (Reason.ACTIVE, Reason.RECENT_FILES)]
    for name in selected:
        older = [other for other in passed_over if (activity[other], other) < (activity[name], name)]
        selectable = [found[int(other[1:])] for other in older if found[int(other[1:])][2] != "attached"]
        assert not [blocks for _, blocks, _, _ in selectable if blocks], "the oldest first, unless it frees nothing"
    trash_directory = tree.workstreams / "scratch" / ".trash"  # the run may have made it
    own = trash_directory.stat().st_blocks * 512 if trash_directory.exists() else 0
    assert done.over_budget_bytes <= max(used(tree) - budget, 0) <= done.over_budget_bytes + own
    if not done.sessions_kept.get(Reason.REMOVAL_LIMIT):
        again, events = cleaned(tree, config=config)
        if not done.over_budget_bytes or not limit:
            assert again.sessions_cleaned == 0, "a second run does nothing"


def trash(tree: SampleTree) -> list[str]:
    """The sessions in the trash, the oldest removals first."""
    with opened_root(tree.root, ()) as root:
        return [entry.session for entry in list_trash_entries(root)[0]]


@pytest.mark.parametrize("dry_run", [False, True])
def test_the_trash_goes_first_the_oldest_first_and_what_this_run_moved_there_last(
    tmp_path: Path, told: pytest.LogCaptureFixture, dry_run: bool
) -> None:
    tree = SampleTree(tmp_path / "root", NOW)
    for number, age in enumerate((40, 35, 20, 15, 5)):
        tree.session(f"s{number}", files={"f": 256 * KIB}, age_days=age)
    unlimited = configuration(tmp_path, trash_days=30)
    for now, days in ((NOW, 38), (NOW + SECOND, 30)):
        tree.now = now
        assert cleaned(tree, config=unlimited, days=days)[0].bytes_trashed == 256 * KIB
    assert trash(tree) == ["s0", "s1"]

    expected = {
        # The budget, and what is in the trash after a run for which s2 and s3 are due.
        1200: (["s1", "s2", "s3"], set()),  # 95 % of it are 1140 KiB: one of five goes
        900: (["s2", "s3"], set()),
        600: (["s3"], {"s2"}),
        300: ([], {"s2", "s3"}),
        250: ([], {"s2", "s3", "s4"}),
    }
    for budget, (kept, deleted) in expected.items():
        place = tmp_path / str(budget)
        shutil.copytree(tree.root, place / "root", copy_function=shutil.copy2)
        copy = copied(tree, place / "root")
        config = configuration(place, trash_days=30, max_total=budget * KIB)
        before = trash(copy)
        told.clear()
        summary, events = cleaned(copy, config=config, days=10, dry_run=dry_run)
        assert {name for name, (action, _) in actions(events).items() if action == Action.DELETED} == deleted, budget
        assert trash(copy) == (before if dry_run else kept), budget
        early = [name for name in ("s0", "s1") if name not in kept]
        for name in early:
            assert f"session {name} from the trash before its time, because max_total" in told.text
        assert summary.bytes_freed == (len(early) + len(deleted)) * 256 * KIB


def copied(tree: SampleTree, root: Path) -> SampleTree:
    """The copy of a tree."""
    copy = SampleTree.__new__(SampleTree)
    for name, value in vars(tree).items():
        setattr(copy, name, root / value.relative_to(tree.root) if isinstance(value, Path) else value)
    return copy


def test_a_limit_of_the_pressure_purges_trash_and_selects_no_session(tmp_path: Path) -> None:
    tree = SampleTree(tmp_path / "root", NOW)
    for number, age in enumerate((40, 20, 5)):
        tree.session(f"s{number}", files={"f": 256 * KIB}, age_days=age)
    config = configuration(tmp_path, trash_days=30)
    cleaned(tree, config=config, days=30)
    assert trash(tree) == ["s0"]
    config.write_text(config.read_text().replace("total = 0", "total = '300KiB'"))
    summary, events = cleaned(tree, config=config, days=10)
    assert actions(events) == {"s1": (Action.DELETED, Reason.EXPIRED), "s2": (Action.KEPT, Reason.RECENT_FILES)}
    assert trash(tree) == []
    assert summary.over_budget_bytes == 0


@pytest.mark.parametrize("trash_days", [0, 3])
def test_a_keep_file_protects_a_session_of_the_main_branch_and_no_link_is_followed(tmp_path: Path, trash_days: int) -> None:
    config = configuration(tmp_path, trash_days=trash_days, max_total=1)
    config.write_text(config.read_text().replace("protect = ['keep-*']\n", ""))
    main = MainTree(tmp_path / "main", time.time_ns())
    for number, files in enumerate(({".keep": 0, "f": KIB}, {"work/.keep": 0, "f": KIB})):
        main.session(session_id(number), files=files, age_days=20)
    _, events = cleaned(main, config=config)
    assert (main.sessions / session_id(0) / "f").exists()
    assert not (main.sessions / session_id(1) / "f").exists(), "on the main branch work/ is the agent's"
    details = {event.session_id: event.detail for event in events if isinstance(event, ScratchSessionEvent)}
    assert details[session_id(0)] == "the file .keep"

    tree = SampleTree(tmp_path / "root", NOW)
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / ".keep").touch()
    linked = tree.session("linked", files={"f": 1}, age_days=20)
    shutil.rmtree(linked / "work")
    (linked / "work").symlink_to(tmp_path / "elsewhere")
    set_age(linked, tree.ago(20))
    cleaned(tree, config=config)
    assert not linked.exists()
    assert (tmp_path / "elsewhere" / ".keep").exists()


@pytest.mark.parametrize(("budget", "limit"), [(400, 0), (100, 2)])
@pytest.mark.parametrize("trash_days", [0, 30])
def test_alerts_and_report_promise_what_a_budget_frees_within_the_removal_limit(
    tmp_path: Path, trash_days: int, budget: int, limit: int
) -> None:
    tree = SampleTree(tmp_path / "root", NOW)
    for number, age in enumerate((40, 20, 6, 5)):
        tree.session(f"s{number}", files={"f": 256 * KIB}, age_days=age)
    config = configuration(tmp_path, trash_days=trash_days, max_sessions=limit)
    cleaned(tree, config=config, days=30)
    config.write_text(config.read_text().replace("total = 0", "total = '700KiB'") + f"max_total = {budget * KIB}\n")
    _, events = checked(tree, config)
    promised = {event.reclaimable_bytes for event in events if isinstance(event, DiskPressure) and event.scope == "total"}
    report = reported(tree, config)
    assert report.cleanup is not None
    summary, _ = cleaned(tree, config=config)
    assert (summary.bytes_freed, summary.sessions_cleaned) == ((2 if not trash_days else 3) * 256 * KIB, 2)
    assert promised == {summary.bytes_freed}
    assert report.cleanup.freed == summary.bytes_freed
    assert len(report.cleanup.removed) == summary.sessions_cleaned


def test_a_run_that_leaves_the_trash_alone_deletes_nothing_for_what_the_trash_can_free(tmp_path: Path) -> None:
    tree = SampleTree(tmp_path / "root", NOW)
    for number, age in enumerate((40, 20, 5)):
        tree.session(f"s{number}", files={"f": 256 * KIB}, age_days=age)
    config = configuration(tmp_path, trash_days=30)
    cleaned(tree, config=config, days=30)
    config.write_text(config.read_text() + f"max_total = {700 * KIB}\n")
    for only, expected in (("s1", (Action.TRASHED, Reason.EXPIRED)), ("s2", (Action.KEPT, Reason.RECENT_FILES))):
        loaded = load(Flags(config=config, base_path=str(tree.root)), {"STATE_DIRECTORY": str(tmp_path / "state")}, system_file=NOWHERE)
        events: list[Event] = []
        clean(loaded, context(NOW, events, loaded.state_directory), only=[only])
        assert actions(events) == {only: expected}
    assert trash(tree) == ["s0", "s1"]


@pytest.mark.parametrize("dry_run", [False, True])
@pytest.mark.parametrize("force", [False, True])
def test_a_named_session_goes_for_a_budget_only_if_a_run_on_all_sessions_selects_it(tmp_path: Path, dry_run: bool, force: bool) -> None:
    tree = SampleTree(tmp_path / "root", NOW)
    for number, age in enumerate((5, 4, 3)):
        tree.session(f"s{number}", files={"f": 256 * KIB}, age_days=age)
    config = configuration(tmp_path, max_total=700 * KIB)
    flags = Flags(config=config, base_path=str(tree.root), dry_run=dry_run, force=force)
    loaded = load(flags, {"STATE_DIRECTORY": str(tmp_path / "state")}, system_file=NOWHERE)
    stays = (Action.KEPT, Reason.RECENT_FILES)
    expected = {"s2": stays, "s1": stays, "s0": (Action.DELETED, Reason.OVER_BUDGET)}
    for only, outcome in expected.items():
        events: list[Event] = []
        clean(loaded, context(NOW, events, loaded.state_directory), only=[only])
        assert actions(events) == {only: outcome}


@pytest.mark.parametrize("dry_run", [False, True])
def test_a_named_session_is_not_deleted_for_what_another_due_session_can_free(tmp_path: Path, dry_run: bool) -> None:
    tree = SampleTree(tmp_path / "root", NOW)
    for number, age in enumerate((30, 20)):
        tree.session(f"s{number}", files={"f": 256 * KIB}, age_days=age)
    config = configuration(tmp_path, max_total=400 * KIB, trash_days=3)
    flags = Flags(config=config, base_path=str(tree.root), dry_run=dry_run)
    loaded = load(flags, {"STATE_DIRECTORY": str(tmp_path / "state")}, system_file=NOWHERE)
    events: list[Event] = []
    clean(loaded, context(NOW, events, loaded.state_directory), only=["s1"])
    assert actions(events) == {"s1": (Action.TRASHED, Reason.EXPIRED)}
