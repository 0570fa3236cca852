"""Work that ends in time, whatever holds it up."""

from __future__ import annotations

import threading
from collections.abc import Callable


def within(seconds: float, work: Callable[[], None]) -> bool:
    """Does some work, and answers whether it ended within so many seconds; raises what it raises.

    No timeout of a socket limits the resolving of a name, or an answer that comes a byte at a time. So the
    work is done in a thread, which is left behind when its time is up, and ends with the process.
    """
    raised: list[Exception] = []

    def run() -> None:
        try:
            work()
        except Exception as error:  # it is raised again where the work is waited for
            raised.append(error)

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    thread.join(seconds)
    if raised:
        raise raised[0]
    return not thread.is_alive()
