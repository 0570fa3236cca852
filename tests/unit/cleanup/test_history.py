from __future__ import annotations

from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from arawn_cli.cleanup.history import Clocks, check_clock, clock_doubt, longest_gap
from arawn_cli.errors import RefusedError, StateUnavailableError
from arawn_cli.state import State
from arawn_cli.timestamps import DAY, SECOND, Boot, current_boot

HOUR = 3600 * SECOND
GAP = longest_gap(7 * DAY, DAY)

walls = st.integers(0, 4_000_000_000 * SECOND)
boots = st.builds(Boot, st.sampled_from([None, "a", "b"]), st.integers(0, 5000 * DAY))
clocks = st.builds(Clocks, walls, boots, st.just(False))


def test_the_first_cleanup_is_accepted() -> None:
    assert clock_doubt(None, Clocks(0, Boot("a", 0)), GAP) is None


@given(clocks, st.integers(0, 5000 * DAY), st.integers(-2 * HOUR, 2 * HOUR))
@example(Clocks(DAY, Boot("a", 0)), DAY, HOUR)
def test_on_one_boot_both_clocks_move_equally_within_an_hour(previous: Clocks, ran: int, difference: int) -> None:
    previous = previous._replace(boot=previous.boot._replace(identity="a"))
    now = Clocks(previous.wall + ran + difference, Boot("a", previous.boot.elapsed + ran))
    assert (clock_doubt(previous, now, GAP) is None) == (abs(difference) <= HOUR)


@given(clocks, boots, st.integers(-2 * GAP, 2 * GAP))
@example(Clocks(DAY, Boot("a", 0)), Boot("b", 0), 0)
@example(Clocks(DAY, Boot("a", 0)), Boot("b", 0), GAP)
def test_after_a_reboot_the_clock_is_not_earlier_and_not_too_late(previous: Clocks, boot: Boot, moved: int) -> None:
    if boot.identity in (None, previous.boot.identity) and boot.elapsed >= previous.boot.elapsed:
        boot = boot._replace(identity="c")
    if previous.boot.identity is None:
        previous = previous._replace(boot=previous.boot._replace(identity="d"))
    assert (clock_doubt(previous, Clocks(previous.wall + moved, boot), GAP) is None) == (0 <= moved <= GAP)


@given(clocks, st.sampled_from([(None, None), (None, "a"), ("a", None)]), st.integers(-GAP, 2 * GAP), st.integers(-GAP, 2 * GAP))
def test_with_unknown_boots_the_clock_moves_as_on_one_boot_or_as_after_a_reboot(
    previous: Clocks, identities: tuple[str | None, str | None], ran: int, moved: int
) -> None:
    previous = previous._replace(boot=previous.boot._replace(identity=identities[0]))
    now = Clocks(previous.wall + moved, Boot(identities[1], previous.boot.elapsed + ran))
    assert (clock_doubt(previous, now, GAP) is None) == (0 <= moved <= GAP or (ran >= 0 and abs(moved - ran) <= HOUR))


@given(st.lists(clocks))
def test_no_two_runs_in_a_row_are_refused(times: list[Clocks]) -> None:
    previous, refusals = None, []
    for now in times:
        refusals.append(clock_doubt(previous, now, GAP) is not None)
        previous = now._replace(refused=refusals[-1])
    assert all(not (first and second) for first, second in pairwise(refusals))


def test_the_longest_gap_is_that_of_the_cutoff_or_the_schedule_if_these_are_longer() -> None:
    assert [longest_gap(7 * DAY, DAY), longest_gap(60 * DAY, DAY), longest_gap(7 * DAY, 92 * DAY)] == [35 * DAY, 60 * DAY, 184 * DAY]


def test_the_boot_of_this_machine_is_known_and_its_clock_runs() -> None:
    first, second = current_boot(), current_boot()
    assert first.identity == second.identity
    assert 0 < first.elapsed <= second.elapsed


def test_a_state_that_cannot_be_written_says_how_to_go_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    state = State(tmp_path / "state", lambda: 0)
    check_clock(state, tmp_path, Clocks(DAY, Boot("a", 0)), GAP, force=False, dry_run=False)

    def full() -> None:
        raise StateUnavailableError("the state cannot be used: no space left")

    monkeypatch.setattr(state, "transaction", full)
    with pytest.raises(RefusedError, match="run with --force, since this run could not be recorded"):
        check_clock(state, tmp_path, Clocks(0, Boot("a", 0)), GAP, force=False, dry_run=False)


@given(st.booleans(), st.booleans())
def test_what_is_compared_is_stored_in_real_runs_alone(force: bool, dry_run: bool) -> None:
    state, root = State.in_memory(), Path("/r")
    check_clock(state, root, Clocks(DAY, Boot("a", 0)), GAP, force=False, dry_run=False)
    wrong = Clocks(900 * DAY, Boot("a", SECOND))
    if force:
        check_clock(state, root, wrong, GAP, force=True, dry_run=dry_run)
    else:
        with pytest.raises(RefusedError, match=r"went forward by 899\.0 days since the last cleanup, while the machine ran 1 s"):
            check_clock(state, root, wrong, GAP, force=False, dry_run=dry_run)
    stored = state.select("SELECT wall, refused FROM clocks", ())
    assert stored == [(DAY, 0) if dry_run else (900 * DAY, int(not force))]
    assert state.select("SELECT last_run, last_success FROM runs", ()) == ([] if dry_run or force else [(900 * DAY, None)])
