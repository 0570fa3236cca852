"""The console script, and `python -m arawn_cli`: the program, and how a process that is started 288 times a day begins and ends at once.

Everything that importing makes lives as long as the program. Looking through it for garbage, and taking it apart object by object
at the end, frees nothing that the kernel does not.
"""

import gc
import os
import sys
from contextlib import suppress

_OBJECTS_OF_A_START = 200_000
"""Several times what a start makes; a run that makes more is looked through as ever."""


def main() -> None:
    """Runs the program, and ends with its exit code."""
    gc.set_threshold(_OBJECTS_OF_A_START)
    from arawn_cli.cli.app import main as run

    try:
        run()
    except SystemExit as ended:
        _leave(ended.code)
        raise


def _leave(code: object) -> None:
    """Ends the process; standard output has been flushed, and a log that nobody takes any more changes no exit code."""
    if not isinstance(code, int):
        return
    with suppress(OSError):
        sys.stderr.flush()
    os._exit(code)


if __name__ == "__main__":
    main()
