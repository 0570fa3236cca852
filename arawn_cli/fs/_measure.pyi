from collections.abc import Callable

from arawn_cli.fs.measure import NativeUsage

def measure(
    start: int,
    subtrees: tuple[tuple[bytes, bool], ...],
    threads: int,
    advance: Callable[[int], None],
    account: tuple[int, bool, int],
    /,
) -> list[NativeUsage] | None: ...
