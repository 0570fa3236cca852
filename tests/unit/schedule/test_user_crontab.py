"""Which lines of a crontab are this tool's."""

from __future__ import annotations

from typing import ClassVar

import pytest

from arawn_cli.events import Condition
from arawn_cli.schedule.managed_files import ScheduleError
from arawn_cli.schedule.user_crontab import CrontabStore, MarkersError

BLOCK = "# BEGIN arawn-cli schedule: touched\n* * * * * x\n# END arawn-cli schedule\n"


class Crontab(CrontabStore):
    """A crontab whose text changes each time that it is read, as far as there are more texts."""

    texts: ClassVar[list[str | None]] = []

    def _crontab(self) -> str | None:
        return self.texts.pop(0) if len(self.texts) > 1 else self.texts[0]


@pytest.mark.parametrize("lines", [BLOCK[:-27], BLOCK[36:], BLOCK + BLOCK], ids=["no-end", "no-begin", "twice"])
def test_lines_that_would_run_in_addition_to_the_block_are_an_error(lines: str) -> None:
    Crontab.texts = [lines]
    crontab = Crontab("me")
    for query in (lambda: crontab.read("crontab"), crontab.changes_to_remove, lambda: crontab.changes_to_install({"crontab": "x\n"})):
        with pytest.raises(MarkersError, match="correct it with crontab -e"):
            query()


def test_a_block_around_the_block_of_another_root_is_an_error() -> None:
    inner = BLOCK.replace("schedule", "schedule of root lab")
    begin, rest = BLOCK.split("\n", 1)
    Crontab.texts = [f"{begin}\n{inner}{rest}"]
    with pytest.raises(MarkersError, match="no other block between"):
        Crontab("me").changes_to_remove()
    assert Crontab("me", "lab").read("crontab") == "* * * * * x\n"
    Crontab.texts = [BLOCK + inner]
    assert [(Crontab("me", name).changes_to_remove()[0].after) for name in (None, "lab")] == [inner, BLOCK]


def test_a_block_with_other_line_ends_is_found_and_foreign() -> None:
    Crontab.texts = [BLOCK.replace("\n", "\r\n")]
    (change,) = Crontab("me").changes_to_install({"crontab": "x\n"})
    assert (change.condition, change.after and change.after.count("# BEGIN")) == (Condition.FOREIGN, 1)


def test_a_last_line_without_an_end_stays_a_line() -> None:
    Crontab.texts = ["1 1 * * * mine"]
    (change,) = Crontab("me").changes_to_install({"crontab": "x\n"})
    assert change.after is not None
    assert change.after.startswith("1 1 * * * mine\n# BEGIN")


def test_a_crontab_that_changed_in_the_meantime_is_kept() -> None:
    Crontab.texts = ["mine\n", "mine\n", "mine, and more\n"]
    (change,) = Crontab("me").changes_to_install({"crontab": "x\n"})
    with pytest.raises(ScheduleError, match="changed in the meantime"):
        Crontab("me").apply([change])
