"""Lock a root against other cleanups."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from arawn_cli.arawn.root import Root
from arawn_cli.errors import LockedError, RefusedError
from arawn_cli.events import JobName
from arawn_cli.locks import holder_text, lock_file, run_lock, try_lock, unlock
from arawn_cli.problems import persistent

log = logging.getLogger(__name__)


@contextmanager
def cleanup_lock(state_directory: Path, sessions: int | None, root: Root, now: int, *, hold: bool) -> Iterator[None]:
    """Lock a root against other cleanups at `now` (ns); without `hold`, only test the lock.

    `sessions` is the open directory of the scratch sessions, None if it is missing or not open.

    The lock file in the state directory decides. Anybody can lock directories of the tree, so a
    lock on one of them is only a warning: it may be a run with another state directory. These locks
    decide if the state directory cannot be used, for example on a full disk.

    Raises:
        LockedError, LongLockedError: another run holds the lock.
        RefusedError: no lock can be taken.
    """
    busy = f"another run holds the lock of {root.path}"
    missing: OSError | None = None
    with ExitStack() as stack:
        try:
            path = lock_file(state_directory, JobName.SCRATCH_CLEANUP, root.path)
            stack.enter_context(run_lock(path, busy, now, hold=hold))
        except OSError as error:
            log.info("cannot take the lock in %s: %s; taking that of %s", state_directory, error.strerror, root.path)
            missing = error
        for directory in (root.workstreams, *(() if sessions is None else (sessions,))):
            try:
                if try_lock(directory, shared=not hold):
                    if not hold:
                        unlock(directory)
                elif missing:
                    raise LockedError(f"{busy}{holder_text(directory)}: nothing done; run it again later")
                else:
                    text = "another program%s holds a lock in %s, which does not stop this run"
                    log.warning(text, holder_text(directory), root.path, extra=persistent("lock of another program"))
            except OSError as error:
                if missing:
                    raise RefusedError(
                        f"no lock can be taken, neither in {state_directory} ({missing.strerror}) nor on {root.path} ({error.strerror}): "
                        "nothing done; name another directory with [maintenance] state_dir"
                    ) from error
                log.debug("no lock on %s: %s", root.path, error.strerror)
        yield
