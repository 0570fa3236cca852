"""Measuring one tree in Python, through directory descriptors: no recursion, no link followed, no other filesystem entered.

The twin of `_walk.c`: it needs no compiler and gives the same answers.
"""

from __future__ import annotations

import os
import stat

from arawn_cli.descent import Descent
from arawn_cli.model import Usage
from arawn_cli.names import escape
from arawn_cli.tally import Tally


def walk(parent: int, name: str, shown: str, *, shallow: bool = False) -> Usage:
    """Measures the entry `name` of the open directory `parent`, and everything below it unless `shallow`.

    `shown` is its path for people. An entry that vanishes meanwhile is no failure.
    """
    tally = Tally()
    try:
        top = os.stat(name, dir_fd=parent, follow_symlinks=False)
    except OSError as error:
        return tally.fail("stat", shown, error).total()
    if shallow or not stat.S_ISDIR(top.st_mode):
        tally.add(top)
        return tally.total()
    with Descent(shown) as descent:
        _enter(descent, tally, name, parent, top.st_dev)
        try:
            while descent.depth:
                _step(descent, tally, top.st_dev)
        except OSError as error:
            tally.fail("openat", descent.path(".."), error)
    return tally.total()


def _enter(descent: Descent, tally: Tally, name: str, parent: int, device: int) -> None:
    try:
        status = descent.enter(name, parent)
    except OSError as error:
        tally.fail("openat", descent.path(name) if descent.depth else descent.path(), error)
        return
    if status.st_dev != device:
        tally.other_filesystems.append(escape(descent.path()))
        descent.leave()
        return
    tally.add(status)
    _list(descent, tally)


def _list(descent: Descent, tally: Tally) -> None:
    """Counts what the directory holds and keeps the names of its subdirectories."""
    pending = descent.here.pending
    try:
        with descent.scan() as listing:
            for entry in listing:
                try:
                    if entry.is_dir(follow_symlinks=False):  # a call that can fail, where a listing tells no kinds
                        pending.append(entry.name)
                    else:
                        tally.add(entry.stat(follow_symlinks=False))
                except OSError as error:
                    tally.fail("stat", descent.path(entry.name), error)
    except OSError as error:
        tally.fail("getdents64", descent.path(), error)


def _step(descent: Descent, tally: Tally, device: int) -> None:
    pending = descent.here.pending
    if pending:
        _enter(descent, tally, pending.pop(), descent.descriptor, device)
    else:
        descent.leave()
