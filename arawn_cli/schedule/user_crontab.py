"""An account's own crontab, which belongs to its user but for one marked block."""

from __future__ import annotations

import os
import re
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from arawn_cli.events import Condition
from arawn_cli.schedule.managed_files import Change, NoSchedulerError, ScheduleError, TangledError, condition_of, made_with, sealed

BLOCK = "crontab"


_BEGIN = "# BEGIN arawn-cli schedule{of}: what stands up to END is written by the tool, and edits of it are noticed\n"


_END = "# END arawn-cli schedule{of}\n"


# By their first words, so that lines which an editor has touched, or ended with CRLF, are still seen as the marks.
_MARK = re.compile(r"^# (BEGIN|END) arawn-cli schedule(?: of root ([A-Za-z0-9_-]+))?[^\n]*(?:\n|\Z)", re.MULTILINE)


_NO_CRONTAB = "no crontab for"


_MADE = "the crontab"


@dataclass(frozen=True, slots=True)
class CrontabStore:
    """The crontab of the account that runs this, and in it the block of one root; it is read and written by crontab(1) alone."""

    account: str
    root_name: str | None = None

    def installing(self, bodies: Mapping[str, str]) -> list[Change]:
        """A change of the crontab if its block is not what it should be."""
        body = bodies[BLOCK]
        crontab, block = self._crontab(), self.text(BLOCK)
        condition = condition_of(block, body)
        if condition is Condition.CURRENT:
            return []
        made = made_with(block) if block is not None else (() if crontab is not None else (_MADE,))
        return [self._change(crontab, f"{self._mark(_BEGIN)}{sealed(body, made)}{self._mark(_END)}", condition)]

    def removing(self) -> list[Change]:
        """A change of the crontab if it has a block."""
        block = self.text(BLOCK)
        if block is None:
            return []
        condition = condition_of(block, None)
        change = self._change(self._crontab(), "", condition)
        return [Change(change.place, BLOCK, change.before, None, condition)] if not change.after and _MADE in made_with(block) else [change]

    def conditions(self, bodies: Mapping[str, str]) -> dict[str, Condition]:
        """What is found for the block."""
        return {BLOCK: condition_of(self.text(BLOCK), bodies[BLOCK])}

    def text(self, name: str) -> str | None:
        """The block's text between its marks, or None.

        Raises:
            ScheduleError: crontab(1) fails.
            TangledError: there is not one begin and one end right after it: what stands without would run besides.
        """
        crontab = self._crontab() or ""
        marks = self._marks(crontab)
        return crontab[marks[0].end() : marks[1].start()] if marks else None

    def since(self, name: str) -> int | None:
        """None: the spool, which would tell, is cron's alone."""
        return None

    def apply(self, changes: Sequence[Change]) -> None:
        """Hands the new crontab to crontab(1), which checks it and puts it in place.

        Raises:
            ScheduleError: crontab(1) fails, or somebody else has changed the crontab since it was looked at.
        """
        for change in changes:
            if self._crontab() != change.before:
                raise ScheduleError(f"the {change.place} was changed meanwhile, and is left as it is: run this again")
            if change.after is None:
                _crontab("-r")
            else:
                _crontab("-", text=change.after)

    def _change(self, crontab: str | None, block: str, condition: Condition) -> Change:
        before = crontab or ""
        joint = "\n" if before and not before.endswith("\n") else ""
        marks = self._marks(before)
        after = before[: marks[0].start()] + block + before[marks[1].end() :] if marks else before + joint + block
        return Change(f"crontab of {self.account}", BLOCK, crontab, after, condition)

    def _marks(self, crontab: str) -> list[re.Match[str]]:
        """The begin and the end of this root's block; none where there is no block."""
        found = list(_MARK.finditer(crontab))
        own = [index for index, mark in enumerate(found) if mark[2] == self.root_name]
        marks = [found[index] for index in own]
        if [mark[1] for mark in marks] not in ([], ["BEGIN", "END"]) or (own and own[1] != own[0] + 1):
            begin, end = (self._mark(text).partition(":")[0].strip() for text in (_BEGIN, _END))
            raise TangledError(
                f"the crontab of {self.account} should have one line {begin!r} and one {end!r} after it, and no other block between: "
                "put them right with crontab -e"
            )
        return marks

    def _mark(self, text: str) -> str:
        return text.format(of="" if self.root_name is None else f" of root {self.root_name}")

    def _crontab(self) -> str | None:
        return _crontab("-l")


def _crontab(action: str, text: str | None = None) -> str | None:
    """What crontab(1) prints, or None where the account has no crontab."""
    try:
        done = subprocess.run(
            ["crontab", action],
            input=None if text is None else text.encode("utf-8", "surrogateescape"),
            stdin=subprocess.DEVNULL if text is None else None,
            capture_output=True,
            env={**os.environ, "LC_ALL": "C"},
            check=False,
        )
    except FileNotFoundError as error:
        raise NoSchedulerError("crontab is not there: install cron, or use --systemd") from error
    except OSError as error:
        raise ScheduleError(f"cannot run crontab: {error.strerror}") from error
    told = done.stderr.decode("utf-8", "replace").strip()
    if done.returncode == 0:
        return done.stdout.decode("utf-8", "surrogateescape")
    if _NO_CRONTAB in told:
        return None
    raise ScheduleError(f"crontab {action} failed: {' '.join(told.split())}")
